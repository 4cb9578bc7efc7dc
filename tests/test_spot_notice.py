"""What the clouds' metadata say, from a server on loopback that answers as their documentation writes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from aiohttp import web

from judgetrace.node_notice import CloudWatch, seconds_until
from judgetrace.spot_notice import read_spot_notice
from tests.loopback import Asked, LoopbackServer, Reply

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC).timestamp()


class MetadataServer(LoopbackServer):
    """Both clouds' addresses; `notice` is the answer's body, or nothing."""

    def __init__(self, notice: str | None) -> None:
        self.notice = notice
        super().__init__()

    async def _reply(self, request: web.Request, reply: Reply) -> web.Response:
        return web.Response(status=reply.status, text=str(reply.body))

    async def handle(self, asked: Asked) -> Reply:
        if asked.path == "/latest/api/token":
            known = asked.method == "PUT" and "x-aws-ec2-metadata-token-ttl-seconds" in asked.headers
            return Reply("a-token" if known else "", 200 if known else 400)
        if asked.path == "/latest/meta-data/spot/instance-action":
            if asked.headers.get("x-aws-ec2-metadata-token") != "a-token":
                return Reply("", 401)
            return Reply("", 404) if self.notice is None else Reply(self.notice)
        assert asked.path == "/computeMetadata/v1/instance/preempted"
        return Reply(self.notice or "FALSE") if asked.headers.get("metadata-flavor") == "Google" else Reply("", 403)


def ask(monkeypatch, cloud: str, notice: str | None) -> float | None:
    with MetadataServer(notice) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.port}/")
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
        return read_spot_notice(cloud, NOW)


@pytest.mark.parametrize(
    ("cloud", "notice", "seconds"),
    [
        ("aws", None, None),
        ("aws", '{"action": "terminate", "time": "2026-05-01T12:02:00Z"}', 120.0),
        ("aws", '{"action": "terminate", "time": "2026-05-01T11:59:00Z"}', 0.0),
        ("gcp", "FALSE", None),
        ("gcp", "TRUE", 30.0),
    ],
)
def test_a_notice_is_read_as_each_cloud_writes_it(monkeypatch, cloud, notice, seconds):
    assert ask(monkeypatch, cloud, notice) == seconds


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_where_nothing_answers_that_is_told_once_and_is_no_notice(monkeypatch, capsys, cloud):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    with pytest.raises(OSError, match="Connection refused"):
        read_spot_notice(cloud, NOW)
    times = iter(range(0, 1000, 10))
    watch = CloudWatch(cloud, announce=lambda seconds: None, clock=lambda: float(next(times)))
    assert [watch.look() for _ in range(3)] == [None] * 3
    assert capsys.readouterr().err.count("the machine's metadata can't be read") == 1


def test_a_notice_that_ray_can_not_be_told_of_makes_the_worker_leave_by_itself(monkeypatch):
    told: list[float] = []

    def refuse(seconds: float) -> None:
        told.append(seconds)
        raise RuntimeError("the head does not answer")

    with MetadataServer("TRUE") as server:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
        watch = CloudWatch("gcp", refuse)
        assert [watch.look() for _ in range(3)] == [None, None, 30.0]
        assert told == [30.0] * 3
        calm = CloudWatch("gcp", told.append)
        assert [calm.look(), calm.look()] == [None, None]
        assert len(told) == 4


def test_rays_deadline_is_milliseconds_since_the_epoch_and_none_is_taken_for_thirty_seconds():
    assert seconds_until(int(NOW * 1000) + 12_000, NOW) == pytest.approx(12.0)
    assert seconds_until(int(NOW * 1000) - 1, NOW) == 0.0
    assert seconds_until(0, NOW) == 30.0
