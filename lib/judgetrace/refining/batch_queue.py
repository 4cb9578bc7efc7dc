"""Batches on their way to engines, and those that engines died over. Pure; knows nothing of what a batch holds.

What had come before its engine died is out; the rest of its batch waits again. Of an engine that died of its own doing
every batch in work is suspected, of one that vanished (with its machine, or its container) those that two have vanished
over. What a suspected batch holds is done one by one, each alone on its engine. What kills an engine so is convicted,
of a vanished one at the second time, and is not asked again; the other suspects of the same death are then cleared. An
engine that was ended from outside makes no suspects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from judgetrace.engine import EngineDeadError
from judgetrace.shard_deaths import LONE_DEATHS, WATCHED_AFTER_DEATHS

Item = TypeVar("Item")


@dataclass(eq=False)
class Job(Generic[Item]):
    """A batch that is to be done, or what is left of one."""

    items: dict[int, Item]
    """By their places in the batch as it was handed out; those whose rows have come are taken out."""
    num_deaths: int = 0
    """Engines that died while it was in work."""
    num_vanished: int = 0
    """Of those the ones that left no word."""
    suspected_of: object = None
    """The engine whose death it may have caused: it is done alone. None where it is not suspected."""
    num_lone_deaths: int = 0
    convicted_by: str | None = None
    """How it killed its engine; it is not asked again. None where it did not."""


class BatchQueue(Generic[Item]):
    """The batches that wait."""

    def __init__(self, batches: Iterator[Sequence[Item]]):
        self._batches = batches
        self._waiting: deque[Job[Item]] = deque()
        self._suspects: deque[Job[Item]] = deque()

    @property
    def has_suspects(self) -> bool:
        """Whether a batch waits that must be alone on its engine."""
        return bool(self._suspects)

    def has_jobs(self) -> bool:
        """Whether a batch waits that need not be alone; the next one is read where none does."""
        if not self._waiting:
            self._waiting.extend(Job(number_items(batch)) for batch in islice(self._batches, 1))
        return bool(self._waiting)

    def take(self) -> Job[Item]:
        """Take the next batch that need not be alone."""
        return self._waiting.popleft()

    def take_suspect(self) -> Job[Item]:
        """Take the next batch that must be alone."""
        return self._suspects.popleft()

    def note_death(self, job: Job[Item], engine: object, error: BaseException) -> None:
        """Note that an engine died with a batch in work, whose rest waits again."""
        job.num_deaths += 1
        job.items = number_items(list(job.items.values()))
        has_vanished = not isinstance(error, EngineDeadError)
        if isinstance(error, EngineDeadError) and error.from_outside:
            self._return(job)
        elif job.suspected_of is not None:
            self._note_lone_death(job, has_vanished, str(error))
        else:
            job.num_vanished += has_vanished
            if has_vanished and job.num_vanished < WATCHED_AFTER_DEATHS:
                self._return(job)
            else:
                lone = (number_items([item]) for item in job.items.values())
                self._suspects.extend(Job(items, job.num_deaths, suspected_of=engine) for items in lone)

    def _return(self, job: Job[Item]) -> None:
        (self._waiting if job.suspected_of is None else self._suspects).append(job)

    def _note_lone_death(self, job: Job[Item], has_vanished: bool, error: str) -> None:
        job.num_lone_deaths += 1
        if has_vanished and job.num_lone_deaths < LONE_DEATHS:
            self._suspects.appendleft(job)
            return
        cleared = [other for other in self._suspects if other.suspected_of is job.suspected_of]
        self._suspects = deque(other for other in self._suspects if other.suspected_of is not job.suspected_of)
        for other in (job, *cleared):
            other.suspected_of = None
        job.convicted_by = error
        self._waiting.extend((job, *cleared))


def number_items(items: Sequence[Item]) -> dict[int, Item]:
    """Give the items of a batch their places."""
    return dict(enumerate(items))
