"""Keep an engine's slots full with the draws of many units, without letting any unit or shard wait for another.

One free slot goes to, in this order: a started unit that waits for its next draw; a new unit; and only where neither
is left, a further draw of a unit that has draws in flight already, fewest in flight first. So tokens beyond what one
draw at a time needs are spent only when slots would idle. A unit that must be alone goes before all of these, once the
draws in flight have ended: with its first draws only, then it is one of many again. Knows no engine and no model.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from judgetrace.sampling import Draw, UnitSampling


@dataclass(frozen=True)
class Suspicion:
    """Why a unit must be alone: it was in flight when an engine died."""

    death: str
    """Which death it was."""
    num_draws: int
    """Draws below this index must be alone: what was in flight, and what comes before it."""
    seconds: float
    """How long the oldest of them had been in flight."""


@dataclass
class UnitWork:
    """One unit on its way: its sampling state, and whatever the sampler needs to know of it."""

    sampling: UnitSampling
    payload: Any
    one_at_a_time: bool = True
    suspicion: Suspicion | None = None
    """Why nothing else may be in flight while its next draws are; null again once they have ended."""
    done: asyncio.Future[UnitWork] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tasks: dict[int, asyncio.Task[Draw]] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)
    order: int = 0
    version: int = 0
    lost_draws: dict[int, float] = field(default_factory=dict)
    """Which were in flight when the engine failed, and for how many seconds."""

    @property
    def priority(self) -> int:
        """0 goes on, 1 begins, 2 and more runs ahead."""
        if not self.sampling.has_started:
            return 1
        return 1 + len(self.sampling.in_flight) if self.one_at_a_time and self.sampling.in_flight else 0

    @property
    def must_be_alone(self) -> bool:
        """Whether the next draw must not be beside another unit's."""
        index = self.sampling.next_index()
        return self.suspicion is not None and index is not None and index < self.suspicion.num_draws


RUNS_AHEAD = 2
"""Priorities from here on are draws beside others of their unit."""
SampleDraw = Callable[[UnitWork, int, bool], Coroutine[Any, Any, Draw]]
"""Samples draw `index` of a unit; the flag says that it may be cancelled. Returns a Draw even when cancelled."""
MayBegin = Callable[[UnitWork], bool]
"""Asked before a unit's first draw; one that may not begin ends without any."""


class DrawScheduler:
    """Runs draws under one limit. All calls are made on one event loop."""

    def __init__(self, slots: int, sample: SampleDraw, may_begin: MayBegin = lambda _: True):
        self._free = slots
        self._slots = slots
        self._sample, self._may_begin = sample, may_begin
        self._queue: list[tuple[int, int, int, UnitWork]] = []
        self._orders = itertools.count()
        self._to_isolate: list[tuple[float, int, UnitWork]] = []
        self.isolated: UnitWork | None = None
        """The unit that is alone now, or was when the engine failed."""
        self._queue_of_isolated: list[tuple[int, int, int, UnitWork]] = []
        self._stopped = False
        self._num_feeding = 0
        self._works: dict[int, UnitWork] = {}
        self._busy_since: float | None = None
        self._busy_s = 0.0
        self.failure: BaseException | None = None

    @property
    def in_flight(self) -> int:
        """Draws that run now."""
        return self._slots - self._free

    @property
    def busy_s(self) -> float:
        """Seconds during which at least one draw was in flight."""
        return self._busy_s + (0.0 if self._busy_since is None else time.monotonic() - self._busy_since)

    def submit(self, work: UnitWork) -> asyncio.Future[UnitWork]:
        """Take up a unit; the future resolves when it is decided, or undecided when the scheduler was stopped."""
        work.order = next(self._orders)
        self._works[work.order] = work
        if self.failure is not None:
            work.done.set_exception(self.failure)
        elif self._stopped or work.sampling.is_decided:
            self._finish(work)
        else:
            if work.suspicion is not None and work.must_be_alone:
                # What kills does so soon, more often than late: with luck the first ones explain the death.
                heapq.heappush(self._to_isolate, (work.suspicion.seconds, work.order, work))
            else:
                work.suspicion = None
                self._enqueue(work)
            self._fill()
        return work.done

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Say that more units are on their way: no draw runs ahead of another of its unit while the block runs."""
        self._num_feeding += 1
        try:
            yield
        finally:
            self._num_feeding -= 1
            self._fill()

    def stop(self) -> None:
        """Start no further draws; units without a draw in flight resolve at once, the others when theirs end."""
        self._stopped = True
        self._queue.clear()
        for work in list(self._works.values()):
            if not work.sampling.in_flight:
                self._finish(work)

    def cancel_draws(self) -> None:
        """Cancel all draws in flight."""
        for work in list(self._works.values()):
            for task in work.tasks.values():
                task.cancel()

    def fail(self, failure: BaseException) -> None:
        """End all units with an error: the engine is gone."""
        if self.failure is not None:
            return
        self.failure = failure
        self._stopped = True
        self._queue.clear()
        now = time.monotonic()
        for work in list(self._works.values()):
            work.lost_draws = {index: now - work.began[index] for index in work.sampling.in_flight}
            work.sampling.in_flight.clear()
            if not work.done.done():
                work.done.set_exception(failure)
            for task in work.tasks.values():
                task.cancel()
        self._works.clear()

    def _enqueue(self, work: UnitWork) -> None:
        work.version += 1
        queue = self._queue_of_isolated if work is self.isolated else self._queue
        heapq.heappush(queue, (work.priority, work.order, work.version, work))

    def _fill(self) -> None:
        while self._free and not self._stopped and (queue := self._choose_queue()):
            priority, _, version, work = queue[0]
            is_stale = version != work.version or work.done.done()
            if priority >= RUNS_AHEAD and self._num_feeding and not is_stale:
                return
            heapq.heappop(queue)
            if is_stale:
                continue
            if not work.sampling.has_started and not self._may_begin(work):
                self._finish(work)
                continue
            index = work.sampling.next_index()
            if index is not None and (work is not self.isolated or work.must_be_alone):
                self._start(work, index)
                self._enqueue(work)

    def _forget_stale(self) -> None:
        """Drop entries of units that are done or queued anew once they are most of the queue.

        Draws that run ahead are queued behind new units, so that with always enough of these none of them would come to
        its turn, and each would keep its unit's texts.
        """
        if len(self._queue) > 4 * len(self._works) + 64:
            self._queue = [entry for entry in self._queue if entry[2] == entry[3].version and not entry[3].done.done()]
            heapq.heapify(self._queue)

    def _choose_queue(self) -> list[tuple[int, int, int, UnitWork]]:
        """Choose which units may have a draw now: all, the one that is alone, or none until it is."""
        if self.isolated is None and self._to_isolate and not self.in_flight:
            _, _, self.isolated = heapq.heappop(self._to_isolate)
            self._queue_of_isolated.clear()
            self._enqueue(self.isolated)
        if self.isolated is not None:
            return self._queue_of_isolated
        return [] if self._to_isolate else self._queue

    def _start(self, work: UnitWork, index: int) -> None:
        may_be_cancelled = bool(work.sampling.in_flight)
        if self._free == self._slots:
            self._busy_since = time.monotonic()
        self._free -= 1
        work.sampling.start(index)
        work.began[index] = time.monotonic()
        task = asyncio.get_running_loop().create_task(self._sample(work, index, may_be_cancelled))
        work.tasks[index] = task
        # A callback, not code around the await: a task that is cancelled before its first step never runs any.
        task.add_done_callback(lambda ended: self._on_end(work, index, ended))

    def _on_end(self, work: UnitWork, index: int, task: asyncio.Task[Draw]) -> None:
        self._free += 1
        work.tasks.pop(index, None)
        if self._free == self._slots and self._busy_since is not None:
            self._busy_s += time.monotonic() - self._busy_since
            self._busy_since = None
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self.fail(failure)
            return
        for unneeded in work.sampling.finish(Draw(index, 0, "cancelled") if task.cancelled() else task.result()):
            work.tasks[unneeded].cancel()
        if (work.sampling.is_decided or self._stopped) and not work.sampling.in_flight:
            self._finish(work)
        elif not work.sampling.is_decided:
            if work is self.isolated and not work.sampling.in_flight and not work.must_be_alone:
                self.isolated = work.suspicion = None
            self._enqueue(work)
        self._fill()

    def _finish(self, work: UnitWork) -> None:
        self._works.pop(work.order, None)
        self._forget_stale()
        if work is self.isolated:
            self.isolated = None
        if not work.done.done():
            work.done.set_result(work)
