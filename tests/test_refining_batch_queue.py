"""Which batches are suspected, and of what; without engines."""

from __future__ import annotations

import pytest

from judgetrace.engine import EngineDeadError
from judgetrace.refining.batch_queue import BatchQueue, Job

DEAD, OUTSIDE = EngineDeadError("gone"), EngineDeadError("no credit", from_outside=True)
VANISHED = RuntimeError("its machine is gone")


def make_queue(*batches: str) -> BatchQueue[str]:
    return BatchQueue(iter(batches))


def held(job: Job[str]) -> str:
    return "".join(job.items.values())


def take(queue: BatchQueue[str]) -> Job[str]:
    assert queue.has_jobs()
    return queue.take()


def take_all(queue: BatchQueue[str]) -> list[Job[str]]:
    found = []
    while queue.has_jobs():
        found.append(queue.take())
    return found


def take_suspects(queue: BatchQueue[str]) -> list[Job[str]]:
    found = []
    while queue.has_suspects:
        found.append(queue.take_suspect())
    return found


def test_what_was_in_work_when_an_engine_died_is_done_one_by_one():
    queue = make_queue("ab", "cd", "e")
    first, second = take(queue), take(queue)
    for job in (first, second):
        queue.note_death(job, "engine-1", DEAD)
    assert [held(job) for job in take_all(queue)] == ["e"]
    assert [(held(job), job.num_deaths) for job in take_suspects(queue)] == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


def test_what_had_ended_before_its_engine_died_is_neither_suspected_nor_done_again():
    queue = make_queue("abc", "de")
    first, second = take(queue), take(queue)
    assert first.items.pop(1) == "b"
    assert second.items.pop(0) == "d"
    queue.note_death(first, "engine-1", DEAD)
    queue.note_death(second, "engine-2", OUTSIDE)
    assert [held(job) for job in take_suspects(queue)] == ["a", "c"]
    (rest,) = take_all(queue)
    # By their places in the batch as it is handed out anew.
    assert rest.items == {0: "e"}


def test_who_kills_alone_is_convicted_and_the_others_of_that_death_are_cleared():
    queue = make_queue("ab", "c")
    queue.note_death(take(queue), "engine-1", DEAD)
    queue.note_death(take(queue), "engine-2", DEAD)
    lone = queue.take_suspect()
    queue.note_death(lone, "engine-3", DEAD)
    # The other engine's death is not explained by that.
    assert [held(job) for job in take_suspects(queue)] == ["c"]
    assert [(held(job), job.convicted_by) for job in take_all(queue)] == [("a", "gone"), ("b", None)]


def test_an_engine_that_was_ended_from_outside_makes_no_suspects():
    queue = make_queue("ab")
    for _ in range(5):
        queue.note_death(take(queue), "engine", OUTSIDE)
    assert [(held(job), job.num_deaths) for job in take_all(queue)] == [("ab", 5)]


def test_a_suspect_whose_engine_was_ended_from_outside_stays_one():
    queue = make_queue("ab")
    queue.note_death(take(queue), "engine-1", DEAD)
    queue.note_death(queue.take_suspect(), "engine-2", OUTSIDE)
    assert not queue.has_jobs()
    assert [held(job) for job in take_suspects(queue)] == ["b", "a"]


@pytest.mark.parametrize("first", [VANISHED, OUTSIDE])
def test_a_machine_that_is_lost_once_makes_no_suspects(first):
    queue = make_queue("ab")
    queue.note_death(take(queue), "engine-1", first)
    assert [held(job) for job in take_all(queue)] == ["ab"]


def test_what_leaves_no_word_must_do_so_twice_alone():
    queue = make_queue("ab")
    for engine in ("engine-1", "engine-2"):
        queue.note_death(take(queue), engine, VANISHED)
    assert not queue.has_jobs()
    lone = queue.take_suspect()
    queue.note_death(lone, "engine-3", VANISHED)
    assert queue.take_suspect() is lone
    queue.note_death(lone, "engine-4", VANISHED)
    assert [(held(job), job.convicted_by, job.num_deaths) for job in take_all(queue)] == [
        ("a", "its machine is gone", 4),
        ("b", None, 2),
    ]
