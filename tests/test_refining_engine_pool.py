from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from judgetrace.config import UserError
from judgetrace.engine import EngineConfig, EngineDeadError, EngineStartError
from judgetrace.engine_loop import start_loop
from judgetrace.refining.engine_pool import EnginePool

pytestmark = pytest.mark.slow


class Doubler:
    """Doubles numbers, and does as an item says: ("exit", FILE) ends its process, once where FILE is given.

    -1 is the end of the engine, -2 of the process, as soon as they are asked; all numbers of a batch are at once.
    """

    def __init__(self, fault: str = "", log: str = "") -> None:
        self.loop, self.log = start_loop(), log
        if fault == "start":
            raise EngineStartError("no such model")
        if fault == "exit":
            os._exit(1)
        if fault == "slow":
            time.sleep(600)

    def work(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {list(items)}\n")
            time.sleep(0.2)
        if -2 in items:
            os._exit(1)
        if -1 in items:
            raise EngineDeadError("the engine is gone")
        for place, item in enumerate(items):
            if item == ("skips", ""):
                continue
            yield place, (os.getpid(), 2 * item if isinstance(item, int) else self.obey(*item))

    def obey(self, kind: str, once: str) -> Any:
        if kind == "fails":
            raise ValueError("the worker's own error")
        if once and not Path(once).exists():
            Path(once).touch()
        elif once:
            return "done again"
        # What ended before it is to reach the driver first.
        time.sleep(0.5)
        if kind == "sleeps":
            time.sleep(600)
        if kind == "exit":
            os._exit(1)
        if kind == "blocks":
            self.loop.call_soon_threadsafe(time.sleep, 600)
            time.sleep(600)
        raise EngineDeadError("the engine is gone", from_outside=kind == "ended")

    def refuse(self, item: int, reason: str) -> str:
        return f"{item}: {reason}"

    def close(self) -> None:
        pass


def make_pool(arguments: tuple[Any, ...] = (), wait_s: float = 60.0, **engine: Any) -> EnginePool:
    return EnginePool("raters", Doubler, arguments, EngineConfig(num_cpus=0.1, **engine), wait_s)


def one_by_one(*items: Any) -> list[list[Any]]:
    return [[item] for item in items]


def test_every_item_comes_back_once_with_its_row_from_an_engine_that_stays_up(ray_session):
    with make_pool() as pool:
        first = list(pool.run([range(n, n + 5) for n in range(0, 50, 5)]))
        second = list(pool.run([[7]]))
        assert list(pool.run([])) == []

    assert sorted((item, row) for item, (_, row) in first) == [(n, 2 * n) for n in range(50)]
    assert [(item, row) for item, (_, row) in second] == [(7, 14)]
    assert len({pid for _, (pid, _) in [*first, *second]}) == 1


def test_a_stage_without_batches_starts_no_engine(ray_session):
    with make_pool(arguments=("start",)) as pool:
        assert list(pool.run([])) == []


@pytest.mark.parametrize("kind", ["exit", "dies", "blocks"])
def test_an_engine_that_dies_is_replaced_and_what_had_not_ended_is_done_again(tmp_path, ray_session, kind):
    deadly = (kind, str(tmp_path / "once"))

    with make_pool(silent_s=5.0) as pool:
        rows = list(pool.run([[1, 2, deadly, 3], *one_by_one(*range(4, 20))]))

    assert pool.num_deaths == 1
    found = dict(rows)
    assert len(rows) == len(found) == 20
    # The beginning of its batch was there before, and is not asked for again.
    assert found[1][0] == found[2][0] != found[deadly][0]
    assert found.pop(deadly)[1] == "done again"
    assert {item: row for item, (_, row) in found.items()} == {n: 2 * n for n in range(1, 20)}


def test_rows_that_have_come_before_an_engine_dies_are_kept_however_slowly_they_are_taken(tmp_path, ray_session):
    batches = [[*range(100), ("sleeps", str(tmp_path / "asleep"))], [("dies", str(tmp_path / "dead"))]]
    found = []
    with make_pool() as pool:
        for item, row in pool.run(batches):
            found.append((item, row))
            if len(found) == 1:
                time.sleep(3)

    assert pool.num_deaths == 1
    assert sorted(item for item, _ in found if isinstance(item, int)) == list(range(100))
    first, second = ({pid for item, (pid, _) in found if isinstance(item, kind)} for kind in (int, tuple))
    # Only what had no row is done by the engine that takes its place.
    assert len(first) == len(second) == 1
    assert first != second
    assert len(found) == 102


def test_a_stage_that_is_told_to_stop_keeps_what_came_of_a_batch_that_does_not_end(tmp_path, ray_session):
    found = []
    with make_pool() as pool:
        for item, _ in pool.run([[1, 2, 3, ("sleeps", "")]], should_stop=lambda: bool(found), drain_s=0.5):
            found.append(item)

    assert found == [1, 2, 3]


def test_engines_that_are_ended_again_and_again_end_the_stage_by_the_name_of_its_pool(ray_session):
    with make_pool(max_deaths=2) as pool, pytest.raises(UserError, match="raters: engines died 3 times over one batch"):
        list(pool.run([[("ended", "")]]))


@pytest.mark.parametrize(("killer", "deaths", "reason"), [(-1, 2, "the engine is gone"), (-2, 4, "actor died")])
@pytest.mark.parametrize("max_replicas", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_what_kills_engines_is_found_and_refused_and_all_else_is_done(
    tmp_path, ray_session, killer, deaths, reason, max_replicas
):
    """A process that is gone may have gone with its machine: two must be, before anything is suspected."""
    log = tmp_path / "log"
    batches = [[n, n + 1, n + 2] for n in range(0, 60, 3)]
    batches[4][1] = killer
    engine = EngineConfig(num_cpus=0.1, max_replicas=max_replicas)
    with EnginePool("raters", Doubler, ("", str(log)), engine, 60.0) as pool:
        rows = [row for _, row in pool.run(batches)]

    assert pool.num_deaths == deaths
    (refused,) = [row for row in rows if isinstance(row, str)]
    assert refused.startswith(f"{killer}: killed the engine twice: ")
    assert reason in refused
    doubled = sorted(row[1] for row in rows if not isinstance(row, str))
    assert doubled == sorted(2 * n for batch in batches for n in batch if n >= 0)
    # Alone on its engine: what that had in work before has ended, or it is another process.
    lines = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    assert sum(line == f"[{killer}]" for _, line in lines) == deaths - (1 if killer == -1 else 2)


def test_an_item_without_a_row_is_no_item_that_is_done(ray_session):
    with make_pool() as pool, pytest.raises(RuntimeError, match="raters: a batch ended without a row of 1 items"):
        list(pool.run([[1, ("skips", ""), 2]]))


def test_an_error_of_a_worker_is_raised_as_it_is(ray_session):
    with make_pool() as pool, pytest.raises(ValueError, match=r"^the worker's own error$"):
        list(pool.run([[("fails", "")]]))


def test_an_engine_that_can_not_start_says_so_in_its_own_words(ray_session):
    with make_pool(("start",)) as pool, pytest.raises(UserError, match="raters: the engine could not start: no such"):
        list(pool.run([[1]]))


def test_engines_that_die_while_they_start_are_not_started_for_ever(ray_session):
    with make_pool(("exit",)) as pool, pytest.raises(UserError, match="3 engines in a row died while they started"):
        list(pool.run([[1]]))


def test_resources_that_do_not_come_end_the_wait_by_name(ray_session):
    pool = make_pool(resources={"unicorn": 1.0}, wait_s=3)
    with pool, pytest.raises(UserError, match=r"gave up: raters has not moved .*1 unicorn"):
        list(pool.run([[1]]))


def test_an_engine_that_takes_long_to_start_is_not_said_to_want_room(ray_session):
    with (
        make_pool(("slow",), wait_s=8) as pool,
        pytest.raises(UserError, match=r"gave up: raters .*; engines: 1 starting"),
    ):
        list(pool.run([[1]]))


def test_a_stage_that_is_told_to_stop_begins_no_further_batch(ray_session):
    done = []
    with make_pool() as pool:
        for item, _ in pool.run(one_by_one(*range(1000)), should_stop=lambda: len(done) >= 5):
            done.append(item)

    assert 5 <= len(done) < 50


def test_the_pool_grows_once_its_first_engine_is_up(ray_session):
    with make_pool(max_replicas=3) as pool:
        list(pool.run(one_by_one(*range(4))))
        assert len(pool.list_ready()) + len(pool.list_starting()) == 3


def test_batches_fill_the_slots_of_all_engines():
    assert make_pool(slots=64).choose_batch_size(10_000) == 32
    assert make_pool(slots=64, max_replicas=8).choose_batch_size(640) == 20
    assert make_pool(slots=1).choose_batch_size(1) == 1
