"""A generator's worker with an engine that answers by a script, without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, EngineDeadError, ModelConfig
from judgetrace.refining.calls import Call
from judgetrace.refining.candidate_config import GeneratorConfig
from judgetrace.refining.generator_worker import GeneratorWorker
from tests.loopback import Reply, chat_answer, error_answer
from tests.test_endpoint_engine import asked_of, serving

CALLS = [(f"call-{n}", Call("critiques", (("user", f"case {n}"),), n, 50)) for n in range(8)]


def make_worker(**script: object) -> GeneratorWorker:
    engine = EngineConfig(kind="tests.guided_generator:GuidedGenerator", slots=8, args=script, silent_s=5.0)
    return GeneratorWorker(GeneratorConfig(model=ModelConfig(path="none"), engine=engine))


def answer(worker: GeneratorWorker, calls: Sequence[tuple[str, Call]]) -> list[dict[str, Any]]:
    """Answer calls; returns their rows in their order, each of which came once."""
    pairs = list(worker.work(calls))
    found = {place: done.row for place, done in pairs}
    assert len(pairs) == len(calls)
    return [found[place] for place in range(len(calls))]


def test_calls_are_answered_and_one_that_does_not_fit_is_quarantined() -> None:
    long = ("long", Call("rubric", (("user", "word " * 20_000),), 0, 50))
    rows = answer(make_worker(latency_s=0.01), [*CALLS[:2], long, *CALLS[2:]])

    assert [row["call_id"] for row in rows] == ["call-0", "call-1", "long", *(key for key, _ in CALLS[2:])]
    assert [row["outcome"] for row in rows].count("answered") == 8
    assert rows[2]["outcome"] == "quarantined"


def test_answers_come_as_they_end_and_say_how_long_the_engine_has_been_busy() -> None:
    worker = make_worker(latency_s=0.2)
    before = time.monotonic()
    places, seconds = zip(*((place, done.engine_s) for place, done in worker.work(CALLS)), strict=True)

    assert sorted(places) == list(range(8))
    assert 0.2 <= seconds[0] <= seconds[-1] <= time.monotonic() - before


def test_a_call_that_kills_engines_is_quarantined_with_the_reason() -> None:
    row = make_worker().refuse(CALLS[1], "killed the engine twice: it is gone").row
    (asked,) = answer(make_worker(), CALLS[1:2])

    assert row.keys() == asked.keys()
    told = {"outcome": "quarantined", "text": None, "error": "killed the engine twice: it is gone", "output_tokens": 0}
    assert row == asked | told | {"prompt_tokens": 0}


def test_an_engine_that_is_alive_and_silent_is_given_up_by_all_batches_in_flight(tmp_path) -> None:
    worker = make_worker(silent_once=str(tmp_path / "silent"), silent_after=3)
    time.sleep(1.5)  # until its first signs of life have been seen
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        failures = [pool.submit(answer, worker, batch).exception() for batch in (CALLS[:4], CALLS[4:])]

    assert [type(failure) for failure in failures] == [EngineDeadError, EngineDeadError]
    assert 4 < time.monotonic() - began < 20
    with pytest.raises(EngineDeadError, match="no sign of life for"):
        answer(worker, CALLS)


def make_endpoint_worker(server, **config: object) -> GeneratorWorker:
    endpoint = EndpointConfig(base_url=server.base_url, dialect=config.pop("dialect", "openai"), max_tries=2)
    return GeneratorWorker(GeneratorConfig(model=ModelConfig(path="writer"), endpoint=endpoint, **config))


def test_an_endpoints_thinking_is_kept_apart_and_its_own_count_of_tokens_counts() -> None:
    with serving(lambda n, asked: Reply(chat_answer("It is so.", reasoning_content="Hm."))) as server:
        worker = make_endpoint_worker(server, thinking="parser")
        (row,) = answer(worker, CALLS[:1])
        (body,) = asked_of(server)
        worker.close()

    assert (row["outcome"], row["text"], row["thinking"]) == ("answered", "It is so.", "Hm.")
    assert (row["prompt_tokens"], row["output_tokens"]) == (11, 7)
    assert (body["seed"], body["max_completion_tokens"], body["model"]) == (0, 50, "writer")


def test_an_endpoint_that_fails_fails_the_call_and_one_that_refuses_a_prompt_quarantines_it() -> None:
    def reply(n, asked):
        if "case 1" in asked.body["messages"][-1]["content"]:
            return error_answer(400, "too long", code="context_length_exceeded")
        return error_answer(500, "broken")

    with serving(reply) as server:
        worker = make_endpoint_worker(server)
        rows = answer(worker, CALLS[:2])
        worker.close()

    assert [row["outcome"] for row in rows] == ["failed", "quarantined"]
    assert "500" in rows[0]["error"]


def test_a_server_of_vllms_goes_on_from_the_opened_tag() -> None:
    call = Call("rubric", (("user", "Rate it."),), 3, 50, begun="<codebook>", stop=("</codebook>",))
    answered = {"choices": [{"text": "the steps</codebook>", "finish_reason": "stop"}]}
    answered["usage"] = {"prompt_tokens": 5, "completion_tokens": 4}
    with serving(lambda n, asked: Reply(answered)) as server:
        worker = make_endpoint_worker(server, dialect="vllm", open_tag=True)
        (row,) = answer(worker, [("r", call)])
        (body,) = asked_of(server)
        worker.close()

    assert row["text"] == "<codebook>the steps</codebook>"
    assert "".join(map(chr, body["prompt"])) == "user: Rate it. assistant:<codebook>"
    assert (body["stop"], body["include_stop_str_in_output"]) == (["</codebook>"], True)
