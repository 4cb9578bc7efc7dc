"""Calls of a generator with a pool in this process: what is kept when, and what is not asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.limits import LimitsConfig
from judgetrace.refining.caller import CALL_KEY, Caller
from judgetrace.refining.calls import CALLS, Call
from judgetrace.refining.candidate_config import GENERATOR, GeneratorConfig
from judgetrace.refining.driver_watch import DriverWatch, StoppedEarlyError
from judgetrace.refining.generator_worker import GeneratorWorker
from judgetrace.refining.part_log import PartLog
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder


class LocalPool:
    """A pool of one worker in this process, which answers one call after another, `seconds` apart."""

    name = GENERATOR

    def __init__(self, seconds: float = 0.0, **script: object):
        self.seconds = seconds
        engine = EngineConfig(kind="tests.guided_generator:GuidedGenerator", slots=8, args=script)
        self.worker = GeneratorWorker(GeneratorConfig(model=ModelConfig(path="none"), engine=engine))

    def warm_up(self) -> None:
        pass

    def choose_batch_size(self, num_rows: int) -> int:
        return 1

    def run(
        self, batches: Iterable[Any], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        for batch in batches:
            if should_stop():
                return
            time.sleep(self.seconds)
            yield from ((batch[place], done) for place, done in self.worker.work(batch))


def make_caller(folder: Path, pool: Any, commit_every_s: float, limits: LimitsConfig | None = None) -> Caller:
    run = RunFolder(Folder(str(folder / "run")))
    log = PartLog(run.folder / "calls", CALLS, CALL_KEY)
    log.refresh()
    watch = DriverWatch(run, run.claim(0.0), limits or LimitsConfig(), {GENERATOR: None})
    return Caller(pool, log, watch, {}, commit_every_s=commit_every_s, drain_s=1.0)


def make_calls(number: int) -> list[Call]:
    return [Call("critiques", (("user", f"case {n}"),), n, 50) for n in range(number)]


def count_parts(folder: Path) -> int:
    return len((Folder(str(folder / "run")) / "calls").list_files(".parquet"))


# 12 calls at 50 ms each take .6 s or more; whether it is time is looked at some ten times a second.
@pytest.mark.parametrize(("commit_every_s", "fewest", "most"), [(0.01, 4, 12), (0.25, 2, 4), (3600.0, 1, 1)])
def test_answers_are_committed_as_often_as_the_config_says_and_at_the_end(
    tmp_path: Path, commit_every_s: float, fewest: int, most: int
) -> None:
    caller = make_caller(tmp_path, LocalPool(seconds=0.05), commit_every_s)

    began = time.monotonic()
    answers = caller.ask("critiques", make_calls(12))
    took = time.monotonic() - began

    assert [answer.outcome for answer in answers] == ["answered"] * 12
    # A busy machine takes longer, and so commits more often.
    assert fewest <= count_parts(tmp_path) <= max(most, min(12, 1 + int(took / commit_every_s)))


def test_an_answer_that_is_kept_is_not_asked_for_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    make_caller(tmp_path, LocalPool(journal=str(journal)), 0.0).ask("critiques", make_calls(5))
    answers = make_caller(tmp_path, LocalPool(journal=str(journal)), 0.0).ask("critiques", make_calls(8))

    assert [answer.outcome for answer in answers] == ["answered"] * 8
    lines = journal.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 8


def test_a_budget_that_ends_the_stage_keeps_what_was_answered(tmp_path: Path) -> None:
    caller = make_caller(tmp_path, LocalPool(seconds=0.02), 3600.0, LimitsConfig(max_output_tokens=60))
    with pytest.raises(StoppedEarlyError, match=r"limits.max_output_tokens reached"):
        caller.ask("critiques", make_calls(1000))

    # 12 tokens an answer; what was under way when the budget was reached is kept, too.
    log = PartLog(Folder(str(tmp_path / "run")) / "calls", CALLS, CALL_KEY)
    log.refresh()
    assert 5 <= len(log) < 1000
