"""A generator's worker with an engine that answers by a script, without Ray."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from judgetrace.engine import EngineConfig, EngineDeadError, ModelConfig
from judgetrace.refining.calls import Call
from judgetrace.refining.candidate_config import GeneratorConfig
from judgetrace.refining.generator_worker import GeneratorWorker

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
