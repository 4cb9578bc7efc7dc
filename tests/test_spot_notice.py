"""What the clouds' metadata say, from a server on loopback that answers as their documentation writes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from aiohttp import web

from judgetrace.node_notice import seconds_until
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
def test_where_nothing_answers_there_is_no_notice(monkeypatch, cloud):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    assert read_spot_notice(cloud, NOW) is None


def test_rays_deadline_is_milliseconds_since_the_epoch_and_none_is_taken_for_thirty_seconds():
    assert seconds_until(int(NOW * 1000) + 12_000, NOW) == pytest.approx(12.0)
    assert seconds_until(int(NOW * 1000) - 1, NOW) == 0.0
    assert seconds_until(0, NOW) == 30.0
