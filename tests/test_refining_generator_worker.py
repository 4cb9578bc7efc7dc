"""A generator's worker with an engine that answers by a script, without Ray."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, EngineDeadError, ModelConfig
from judgetrace.refining.calls import Call
from judgetrace.refining.candidate_config import GeneratorConfig
from judgetrace.refining.generator_worker import GeneratorWorker, split_calls
from tests.loopback import Reply, chat_answer, error_answer
from tests.test_endpoint_engine import asked_of, serving

CALLS = [(f"call-{n}", Call("critiques", (("user", f"case {n}"),), n, 50)) for n in range(8)]


def make_worker(**script: object) -> GeneratorWorker:
    engine = EngineConfig(kind="tests.guided_generator:GuidedGenerator", slots=8, args=script, silent_s=5.0)
    return GeneratorWorker(GeneratorConfig(model=ModelConfig(path="none"), engine=engine))


def test_calls_are_answered_in_their_order_and_one_that_does_not_fit_is_quarantined() -> None:
    long = ("long", Call("rubric", (("user", "word " * 20_000),), 0, 50))
    found = make_worker(latency_s=0.01).work([*CALLS[:2], long, *CALLS[2:]])

    assert [row["call_id"] for row in found.rows] == ["call-0", "call-1", "long", *(key for key, _ in CALLS[2:])]
    assert [row["outcome"] for row in found.rows].count("answered") == 8
    assert found.rows[2]["outcome"] == "quarantined"
    assert found.engine_s > 0


def test_a_call_that_kills_engines_is_quarantined_with_the_reason() -> None:
    batches = split_calls(CALLS[:3])
    assert [list(batch) for batch in batches] == [[pair] for pair in CALLS[:3]]
    (row,) = make_worker().refuse(batches[1], "killed the engine twice: it is gone").rows
    (asked,) = make_worker().work(batches[1]).rows

    assert row.keys() == asked.keys()
    told = {"outcome": "quarantined", "text": None, "error": "killed the engine twice: it is gone", "output_tokens": 0}
    assert row == asked | told | {"prompt_tokens": 0}


def test_an_engine_that_is_alive_and_silent_is_given_up_by_all_batches_in_flight(tmp_path) -> None:
    worker = make_worker(silent_once=str(tmp_path / "silent"), silent_after=3)
    time.sleep(1.5)  # until its first signs of life have been seen
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        failures = [pool.submit(worker.work, batch).exception() for batch in (CALLS[:4], CALLS[4:])]

    assert [type(failure) for failure in failures] == [EngineDeadError, EngineDeadError]
    assert 4 < time.monotonic() - began < 20
    with pytest.raises(EngineDeadError, match="no sign of life for"):
        worker.work(CALLS)


def make_endpoint_worker(server, **config: object) -> GeneratorWorker:
    endpoint = EndpointConfig(base_url=server.base_url, dialect=config.pop("dialect", "openai"), max_tries=2)
    return GeneratorWorker(GeneratorConfig(model=ModelConfig(path="writer"), endpoint=endpoint, **config))


def test_an_endpoints_thinking_is_kept_apart_and_its_own_count_of_tokens_counts() -> None:
    with serving(lambda n, asked: Reply(chat_answer("It is so.", reasoning_content="Hm."))) as server:
        worker = make_endpoint_worker(server, thinking="parser")
        (row,) = worker.work(CALLS[:1]).rows
        (body,) = asked_of(server)
        worker.close()

    assert (row["outcome"], row["text"], row["thinking"]) == ("answered", "It is so.", "Hm.")
    assert (row["prompt_tokens"], row["output_tokens"]) == (11, 7)
    assert (body["seed"], body["max_completion_tokens"], body["model"]) == (0, 50, "writer")


def test_an_endpoint_that_fails_fails_the_call_and_one_that_refuses_a_prompt_quarantines_it() -> None:
    def answer(n, asked):
        if "case 1" in asked.body["messages"][-1]["content"]:
            return error_answer(400, "too long", code="context_length_exceeded")
        return error_answer(500, "broken")

    with serving(answer) as server:
        worker = make_endpoint_worker(server)
        rows = worker.work(CALLS[:2]).rows
        worker.close()

    assert [row["outcome"] for row in rows] == ["failed", "quarantined"]
    assert "500" in rows[0]["error"]


def test_a_server_of_vllms_goes_on_from_the_opened_tag() -> None:
    call = Call("rubric", (("user", "Rate it."),), 3, 50, begun="<codebook>", stop=("</codebook>",))
    answered = {"choices": [{"text": "the steps</codebook>", "finish_reason": "stop"}]}
    answered["usage"] = {"prompt_tokens": 5, "completion_tokens": 4}
    with serving(lambda n, asked: Reply(answered)) as server:
        worker = make_endpoint_worker(server, dialect="vllm", open_tag=True)
        (row,) = worker.work([("r", call)]).rows
        (body,) = asked_of(server)
        worker.close()

    assert row["text"] == "<codebook>the steps</codebook>"
    assert "".join(map(chr, body["prompt"])) == "user: Rate it. assistant:<codebook>"
    assert (body["stop"], body["include_stop_str_in_output"]) == (["</codebook>"], True)
