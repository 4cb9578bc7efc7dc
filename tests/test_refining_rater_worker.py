"""A rater's worker with an engine whose ratings depend on the guideline, without Ray."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, EngineDeadError, EngineStartError, ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig, load_template
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.refining.rater_worker import RaterSpec, RaterWorker, RatingCall
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


def calls_of(guideline: str, items: Sequence[dict[str, Any]], text: str = "t") -> list[RatingCall]:
    return [RatingCall(text, guideline, item) for item in items]


def rate(worker: RaterWorker, guideline: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rate items; returns their rows in their order, each of which came once."""
    pairs = list(worker.work(calls_of(guideline, items)))
    found = {place: done.row for place, done in pairs}
    assert len(pairs) == len(items)
    return [found[place] for place in range(len(items))]


def test_the_same_items_are_rated_by_several_guidelines_at_once() -> None:
    worker = make_worker(latency_s=0.01)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda text: rate(worker, f"quality {text}", ITEMS), ("1.0", "0.5", "0.0")))
    rights = [[row["label"] == item["target_label"] for row, item in zip(r, ITEMS, strict=True)] for r in results]

    assert [sum(right) for right in rights][::2] == [40, 0]
    assert 10 < sum(rights[1]) < 30
    assert [row["item_id"] for row in results[1]] == [item["item_id"] for item in ITEMS]
    assert {row["outcome"] for row in results[1]} == {"rated"}
    assert results[0][0]["draws"][0]["output_tokens"] == 5


def test_an_expected_rating_is_read_off_the_levels() -> None:
    worker = make_worker(DecodingConfig(rating="expected", max_tokens=100), thinking="none")
    rows = rate(worker, "quality 1.0", ITEMS[:5])

    assert [row["rating"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_refused_item_is_quarantined_and_does_not_hold_up_the_others() -> None:
    rows = rate(make_worker(poison="item-0001"), "quality 1.0", ITEMS[:3])

    assert [row["outcome"] for row in rows] == ["rated", "quarantined", "rated"]


def test_an_item_that_does_not_fit_is_quarantined() -> None:
    rows = rate(make_worker(), "word " * 5000, ITEMS[:2])

    assert [row["outcome"] for row in rows] == ["quarantined"] * 2


def test_an_item_that_kills_engines_is_quarantined_with_the_reason_and_not_asked_about(tmp_path) -> None:
    worker = make_worker(journal=str(tmp_path / "journal"))
    row = worker.refuse(RatingCall("t", "quality 1.0", ITEMS[1]), "killed the engine twice: it is gone").row

    assert (row["item_id"], row["outcome"]) == (ITEMS[1]["item_id"], "quarantined")
    assert "killed the engine twice: it is gone" in row["error"]
    assert not (tmp_path / "journal").exists()


def test_rows_come_as_they_end_and_say_how_long_the_engine_has_been_busy() -> None:
    worker = make_worker(latency_s=0.05)
    rows = worker.work(calls_of("quality 1.0", ITEMS))
    _, first = next(rows)
    seconds = [first.engine_s, *(done.engine_s for _, done in rows)]

    # 40 items on 8 slots take at least five times the latency.
    assert 0 < seconds[0] < 0.2 < seconds[-1]
    assert seconds == sorted(seconds)


def test_a_dead_engine_ends_the_batch_and_what_had_ended_before_is_out(tmp_path) -> None:
    worker = make_worker(dies_once=str(tmp_path / "died"), dies_after=20, latency_s=0.05)
    found = worker.work(calls_of("quality 1.0", ITEMS))
    places = [place for place, _ in itertools.islice(found, 10)]
    with pytest.raises(EngineDeadError):
        places.extend(place for place, _ in found)

    # Nine at a time: of the first twenty requests the first eighteen may have ended.
    assert len(set(places)) == len(places) <= 18


def test_an_engine_that_is_alive_and_silent_is_given_up(tmp_path) -> None:
    worker = make_worker(silent_once=str(tmp_path / "silent"), silent_after=3)
    time.sleep(1.5)  # until its first signs of life have been seen
    began = time.monotonic()
    with pytest.raises(EngineDeadError, match="no sign of life for"):
        rate(worker, "quality 1.0", ITEMS)
    assert 4 < time.monotonic() - began < 20
    with pytest.raises(EngineDeadError):
        rate(worker, "quality 1.0", ITEMS)


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
        rows = rate(worker, "Be just.", ITEMS[:3])
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
        (row,) = rate(worker, "Be just.", ITEMS[:1])
        worker.close()

    assert (row["outcome"], row["rating"]) == ("rated", pytest.approx(4.5))
