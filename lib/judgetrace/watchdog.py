"""Notice an engine that is alive and silent: requests wait, and it gives no sign of life.

A sign of life is any change of `signs`, which the worker makes of the engine's own count (Engine.num_beats: what its
process sends, which is a token of any request or the end of one) and of the draws that ended. Pure: the clock is the
caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_EVERY_S = 0.5
FIRST_SIGN_S = 120.0
"""Longest silence before an engine's very first sign of life: its first step may still compile kernels."""


class SilenceClock:
    """Adds up the time during which requests waited and nothing came."""

    def __init__(self, limit_s: float):
        self._limit_s = limit_s
        self._looked_at: float | None = None
        self._signs: object = None
        self._num_signs = 0
        self.silent_s = 0.0

    def look(self, now: float, num_waiting: int, signs: object) -> bool:
        """Take a look; returns whether the engine has been silent for too long.

        `now` in seconds. Time in which nobody looked counts as two looks at most: then this process itself stood
        still, and what the engine has sent meanwhile may not have been read yet.
        """
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 2 * LOOK_EVERY_S)
        self._looked_at = now
        if signs != self._signs:
            self._signs, self._num_signs = signs, self._num_signs + 1
            self.silent_s = 0.0
        elif num_waiting:
            self.silent_s += passed
        else:
            self.silent_s = 0.0
        # The first value seen is no sign of life yet.
        limit_s = self._limit_s if self._num_signs > 1 else max(self._limit_s, FIRST_SIGN_S)
        # One look early rather than one late: `limit_s` is a promise.
        return self.silent_s + LOOK_EVERY_S > limit_s


async def wait_for_silence(limit_s: float, now: Callable[[], float], look: Callable[[], tuple[int, object]]) -> float:
    """Return once an engine has been silent for too long, with the seconds; `look` gives (requests waiting, signs)."""
    clock = SilenceClock(limit_s)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if clock.look(now(), *look()):
            return clock.silent_s
