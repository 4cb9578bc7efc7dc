"""Embedding on Ray: room beside engines that stay up, servers that fail, and what is kept when a run ends."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from judgetrace.config import UserError
from judgetrace.refining.candidate_config import EmbeddingConfig
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.driver_watch import StoppedEarlyError
from judgetrace.refining.embeddings import (
    EMBEDDING_KEY,
    EMBEDDINGS,
    EmbeddingStage,
    EndpointEmbedder,
    embed_on_ray,
    embed_texts,
    keep_rows,
)
from judgetrace.refining.part_log import PartLog, Row
from judgetrace.refining.run import check_rooms
from judgetrace.storage import Folder
from tests.loopback import Asked, Reply, ScriptedServer, error_answer


def make_config(replicas: int, **more: object) -> RefineGuidelineConfig:
    engine = {"kind": "tests.guided_generator:GuidedGenerator", "num_cpus": 0.5, "max_replicas": replicas}
    model = {"path": "scripted/model"}
    return RefineGuidelineConfig.model_validate(
        {
            "corpus": "c",
            "traces": "t",
            "run": "r",
            "generator": {"model": model, "engine": engine},
            "raters": [{"rater_id": "a", "model": model, "engine": engine}],
            "allow_one_rater": True,
            **more,
        }
    )


def ask_endpoint(server: ScriptedServer, **more: object) -> EmbeddingConfig:
    endpoint = {"base_url": server.base_url, "max_tries": 1, **more}
    return EmbeddingConfig.model_validate({"model": "embedder", "batch_size": 2, "endpoint": endpoint})


def open_log(folder: Path) -> PartLog:
    log = PartLog(Folder(str(folder / "embeddings")), EMBEDDINGS, EMBEDDING_KEY)
    log.refresh()
    return log


def make_row(text: str) -> Row:
    return {"embedder": "e", "text": text, "outcome": "embedded", "vector": [1.0], "prompt_tokens": 1}


@pytest.mark.slow
def test_a_generator_that_would_leave_no_room_to_embed_is_refused(ray_session: str) -> None:
    # The cluster of the tests has two CPUs.
    check_rooms(make_config(3))
    with pytest.raises(UserError, match=r"(?s)one embedding worker are up at once and need 2.25 CPU; .* has 2\n"):
        check_rooms(make_config(4))
    check_rooms(make_config(4, candidates={"kinds": ["instructions"]}))


@pytest.mark.slow
def test_embedding_without_room_gives_up_and_says_what_it_needs(ray_session: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"gave up: embed critiques has not moved .* a worker needs 7 CPU"):
        list(embed_on_ray(["a sentence"], EmbeddingConfig(num_cpus=7), wait_s=3))
    assert 3 <= time.monotonic() - began < 60


def test_a_server_that_fails_at_every_try_ends_the_run_so_that_it_can_go_on() -> None:
    with (
        ScriptedServer(lambda asked: error_answer(503, "busy")) as server,
        pytest.raises(StoppedEarlyError, match=r"embedder at http://127\.0\.0\.1:\d+/v1: failed 1 times.*503: busy"),
    ):
        EndpointEmbedder(ask_endpoint(server)).embed(["a sentence"])


@pytest.mark.parametrize(("status", "said"), [(401, "wrong key"), (404, "no such model"), (400, "no such field")])
def test_what_no_further_try_would_mend_is_the_users_input(status: int, said: str) -> None:
    with (
        ScriptedServer(lambda asked: error_answer(status, said)) as server,
        pytest.raises(UserError, match=rf"embedder at .*{status}: {said}"),
    ):
        EndpointEmbedder(ask_endpoint(server)).embed(["a sentence"])


def test_a_key_that_a_worker_lacks_is_told_by_its_variable_and_is_no_error_of_ray_datas() -> None:
    with ScriptedServer(lambda asked: Reply({})) as server:
        stage = EmbeddingStage(ask_endpoint(server, api_key_env="JUDGETRACE_NO_SUCH_KEY"))
        batch = stage({"text": ["a", "b"], "position": [0, 1]})
        assert server.asked == []
    (result,) = batch["result"]
    error = pickle.loads(result)
    assert isinstance(error, UserError)
    assert "JUDGETRACE_NO_SUCH_KEY" in str(error)


def test_what_came_before_a_failure_or_a_reason_to_stop_is_committed(tmp_path: Path) -> None:
    def fail() -> Iterator[list[Row]]:
        yield [make_row("a"), make_row("b")]
        raise StoppedEarlyError("the server is down")

    def stop_at_c(rows: Sequence[Row]) -> None:
        if rows[0]["text"] == "c":
            raise StoppedEarlyError("SIGTERM received")

    with pytest.raises(StoppedEarlyError, match="down"):
        keep_rows(fail(), open_log(tmp_path), stop_at_c)
    batches = iter([[make_row("c")], [make_row("d")]])
    with pytest.raises(StoppedEarlyError, match="SIGTERM"):
        keep_rows(batches, open_log(tmp_path), stop_at_c)
    # The reason was found after the first batch, not after the last.
    assert list(batches) == [[make_row("d")]]
    assert [row["text"] for row in open_log(tmp_path).rows] == ["a", "b", "c"]


@pytest.mark.slow
def test_a_server_that_goes_down_and_comes_back_is_asked_no_sentence_twice(ray_session: str, tmp_path: Path) -> None:
    answered: list[str] = []
    is_up = [True]

    def answer(asked: Asked) -> Reply:
        if not is_up[0]:
            return error_answer(503, "busy")
        is_up[0] = False
        answered.extend(asked.body["input"])
        data = [{"index": n, "embedding": [float(text[-1]), 0.0]} for n, text in enumerate(asked.body["input"])]
        return Reply({"data": data, "usage": {"prompt_tokens": 7}})

    texts = ["sentence 0", "sentence 1", "sentence 2", "sentence 3"]
    noted: list[Row] = []
    with ScriptedServer(answer) as server:
        config = ask_endpoint(server)
        with pytest.raises(StoppedEarlyError, match="503: busy"):
            embed_texts(texts, config, open_log(tmp_path), noted.extend, 60)
        assert (len(noted), len(open_log(tmp_path))) == (2, 2)
        is_up[0] = True
        vectors = embed_texts(texts, config, open_log(tmp_path), noted.extend, 60)
    assert vectors.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    assert sorted(answered) == texts
    assert sum(row["prompt_tokens"] for row in noted) == 2 * 7
