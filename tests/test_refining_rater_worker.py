"""A rater's worker with an engine whose ratings depend on the guideline, without Ray."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, EngineDeadError, EngineStartError, ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig, load_template
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.refining.rater_worker import RaterSpec, RaterWorker, RatingBatch
from judgetrace.scale import ScaleConfig
from tests.loopback import Reply, chat_answer
from tests.test_endpoint_engine import asked_of, rating_answer, serving
from tests.trace_tables import make_items

ITEMS = [row | {"fields": json.dumps({"text": f"label {row['target_label']}"})} for row in make_items(40).to_pylist()]


def make_worker(decoding: DecodingConfig | None = None, thinking: str = "plain", **script: object) -> RaterWorker:
    engine = EngineConfig(kind="tests.guided_engine:GuidedEngine", slots=8, args=script, silent_s=5.0)
    decider = RatingDecider("rater", decoding or DecodingConfig(max_tokens=100))
    scale = ScaleConfig(values=("1", "2", "3", "4", "5"))
    shown = PromptConfig(), load_template(None), scale, ThinkingConfig(format=thinking)
    return RaterWorker(RaterSpec(ModelConfig(path="none"), engine, None, *shown, decider))


def test_the_same_items_are_rated_by_several_guidelines_at_once() -> None:
    worker = make_worker(latency_s=0.01)
    batches = [RatingBatch(text, f"quality {text}", ITEMS) for text in ("1.0", "0.5", "0.0")]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(worker.work, batches))
    rights = [[row["label"] == item["target_label"] for row, item in zip(r.rows, ITEMS, strict=True)] for r in results]

    assert [sum(right) for right in rights][::2] == [40, 0]
    assert 10 < sum(rights[1]) < 30
    assert [row["item_id"] for row in results[1].rows] == [item["item_id"] for item in ITEMS]
    assert {row["outcome"] for row in results[1].rows} == {"rated"}
    assert results[0].rows[0]["draws"][0]["output_tokens"] == 5
    assert results[0].engine_s > 0


def test_an_expected_rating_is_read_off_the_levels() -> None:
    worker = make_worker(DecodingConfig(rating="expected", max_tokens=100), thinking="none")
    rows = worker.work(RatingBatch("t", "quality 1.0", ITEMS[:5])).rows

    assert [row["rating"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_refused_item_is_quarantined_and_does_not_hold_up_the_others() -> None:
    rows = make_worker(poison="item-0001").work(RatingBatch("t", "quality 1.0", ITEMS[:3])).rows

    assert [row["outcome"] for row in rows] == ["rated", "quarantined", "rated"]


def test_an_item_that_does_not_fit_is_quarantined() -> None:
    rows = make_worker().work(RatingBatch("t", "word " * 5000, ITEMS[:2])).rows

    assert [row["outcome"] for row in rows] == ["quarantined"] * 2


def test_an_item_that_kills_engines_is_quarantined_with_the_reason_and_not_asked_about(tmp_path) -> None:
    worker = make_worker(journal=str(tmp_path / "journal"))
    batches = RatingBatch("t", "quality 1.0", ITEMS[:3]).split()
    assert [(batch.text, batch.guideline, [row["item_id"] for row in batch.rows]) for batch in batches] == [
        ("t", "quality 1.0", [row["item_id"]]) for row in ITEMS[:3]
    ]
    (row,) = worker.refuse(batches[1], "killed the engine twice: it is gone").rows

    assert (row["item_id"], row["outcome"]) == (ITEMS[1]["item_id"], "quarantined")
    assert "killed the engine twice: it is gone" in row["error"]
    assert not (tmp_path / "journal").exists()


def test_a_dead_engine_ends_the_batch(tmp_path) -> None:
    worker = make_worker(dies_once=str(tmp_path / "died"), dies_after=3)
    with pytest.raises(EngineDeadError):
        worker.work(RatingBatch("t", "quality 1.0", ITEMS))


def test_an_engine_that_is_alive_and_silent_is_given_up(tmp_path) -> None:
    worker = make_worker(silent_once=str(tmp_path / "silent"), silent_after=3)
    time.sleep(1.5)  # until its first signs of life have been seen
    began = time.monotonic()
    with pytest.raises(EngineDeadError, match="no sign of life for"):
        worker.work(RatingBatch("t", "quality 1.0", ITEMS))
    assert 4 < time.monotonic() - began < 20
    with pytest.raises(EngineDeadError):
        worker.work(RatingBatch("t", "quality 1.0", ITEMS))


def test_a_model_without_room_for_a_prompt_is_told_at_the_start() -> None:
    with pytest.raises(EngineStartError, match="leaves no room for a prompt"):
        make_worker(DecodingConfig(max_tokens=4096))


def make_endpoint_worker(server, decoding: DecodingConfig, thinking: str) -> RaterWorker:
    endpoint, scale = EndpointConfig(base_url=server.base_url), ScaleConfig(values=("1", "2", "3", "4", "5"))
    shown = PromptConfig(), load_template(None), scale, ThinkingConfig(format=thinking)
    decider = RatingDecider("rater", decoding)
    return RaterWorker(RaterSpec(ModelConfig(path="rater-1"), EngineConfig(slots=8), endpoint, *shown, decider))


def test_an_endpoint_rates_by_several_samples_and_counts_the_tokens_itself() -> None:
    with serving(lambda n, asked: Reply(chat_answer("<rating>4</rating>", reasoning_content="Hm."))) as server:
        worker = make_endpoint_worker(server, DecodingConfig(samples=2, max_tokens=100), "parser")
        rows = worker.work(RatingBatch("t", "Be just.", ITEMS[:3])).rows
        asked = asked_of(server)
        worker.close()

    assert [(row["outcome"], row["rating"]) for row in rows] == [("rated", 4.0)] * 3
    assert [(draw["prompt_tokens"], draw["output_tokens"]) for row in rows for draw in row["draws"]] == [(11, 7)] * 6
    assert all("Be just." in body["messages"][-1]["content"] for body in asked)
    assert len({body["seed"] for body in asked}) == 6


def test_an_endpoint_tells_an_expected_rating_by_its_most_probable_tokens() -> None:
    half = math.log(0.5)
    reply = rating_answer([("<rating>", 0.0)], [("4", half), ("5", half)], [("</rating>", 0.0)])
    with serving(lambda n, asked: reply) as server:
        worker = make_endpoint_worker(server, DecodingConfig(rating="expected", max_tokens=100), "none")
        (row,) = worker.work(RatingBatch("t", "Be just.", ITEMS[:1])).rows
        worker.close()

    assert (row["outcome"], row["rating"]) == ("rated", pytest.approx(4.5))
