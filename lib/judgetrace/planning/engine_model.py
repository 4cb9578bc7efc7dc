"""One engine at work, draw by draw: the order of scheduler.DrawScheduler on a clock of its own. Pure.

A draw takes as long as it has tokens: an engine whose slots are full gives each draw the same share. An engine with few
draws in flight may be faster a draw; the model then says too long a tail.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class EngineRun:
    """What came of it, in tokens of one slot."""

    end: float
    """When the last unit was decided."""
    useful: float
    """Tokens of draws that outcomes depend on."""
    in_vain: float
    """Tokens of other draws, up to where they were cancelled."""


@dataclass
class _Unit:
    lengths: Sequence[float]
    """Of the draws that the outcome depends on, by index."""
    order: int
    started: int = 0
    in_flight: dict[int, float] = field(default_factory=dict)
    """Draws that run, and since when."""
    known: set[int] = field(default_factory=set)
    version: int = 0

    @property
    def needed(self) -> int:
        return len(self.lengths)

    @property
    def is_decided(self) -> bool:
        return len(self.known & set(range(self.needed))) == self.needed


class _EngineModel:
    def __init__(self, slots: int, max_draws: int, *, one_at_a_time: bool, spare: Sequence[float], seed: int):
        self._free, self._max_draws, self._one_at_a_time, self._spare = slots, max_draws, one_at_a_time, spare
        self._chance = np.random.default_rng(seed)
        self._queue: list[tuple[int, int, int, _Unit]] = []
        self._ends: list[tuple[float, int, int, _Unit]] = []
        self._now, self._useful, self._in_vain = 0.0, 0.0, 0.0

    def run(self, units: Sequence[Sequence[float]]) -> EngineRun:
        """Decide all units."""
        for order, lengths in enumerate(units):
            if lengths:
                self._enqueue(_Unit(lengths, order))
        self._fill()
        while self._ends:
            at, _, index, unit = heapq.heappop(self._ends)
            if index in unit.in_flight:  # else it was cancelled
                self._now = at
                self._finish(unit, index)
                self._fill()
        return EngineRun(self._now, self._useful, self._in_vain)

    def _enqueue(self, unit: _Unit) -> None:
        unit.version += 1
        running = len(unit.in_flight)
        priority = 1 if not unit.started else 1 + running if self._one_at_a_time and running else 0
        heapq.heappush(self._queue, (priority, unit.order, unit.version, unit))

    def _fill(self) -> None:
        while self._free and self._queue:
            _, _, version, unit = heapq.heappop(self._queue)
            hit_known = unit.needed - 1 in unit.known
            limit = unit.needed if hit_known else self._max_draws
            if version != unit.version or unit.is_decided or unit.started >= limit:
                continue
            self._start(unit)
            self._enqueue(unit)

    def _start(self, unit: _Unit) -> None:
        index = unit.started
        length = unit.lengths[index] if index < unit.needed else float(self._chance.choice(self._spare))
        unit.started += 1
        unit.in_flight[index] = self._now
        self._free -= 1
        heapq.heappush(self._ends, (self._now + length, unit.order, index, unit))

    def _finish(self, unit: _Unit, index: int) -> None:
        self._end_draw(unit, index)
        unit.known.add(index)
        if index == unit.needed - 1:
            for later in [i for i in unit.in_flight if i > index]:
                self._end_draw(unit, later)
        if not unit.is_decided:
            self._enqueue(unit)

    def _end_draw(self, unit: _Unit, index: int) -> None:
        tokens = self._now - unit.in_flight.pop(index)
        self._free += 1
        if index < unit.needed:
            self._useful += tokens
        else:
            self._in_vain += tokens


def run_engine(
    units: Sequence[Sequence[float]],
    *,
    slots: int,
    max_draws: int,
    one_at_a_time: bool,
    spare: Sequence[float],
    seed: int = 0,
) -> EngineRun:
    """Decide units on one engine. `units` holds, for each, the lengths of the draws that its outcome depends on.

    Lengths are tokens. `spare` are lengths to choose from for draws that run ahead and turn out unneeded.
    """
    return _EngineModel(slots, max_draws, one_at_a_time=one_at_a_time, spare=spare, seed=seed).run(units)
