"""How many requests are in flight at a server, and when a failed one is tried again. Pure asyncio.

As many requests as the server bears: a sign of overload halves how many may be in flight, every answer lets a little
more through, up to the allowed number (additive increase, multiplicative decrease). A waiting time that the server
names holds for all requests. Knows neither HTTP clients nor prompts.

Source: Chiu and Jain (1989), Analysis of the Increase and Decrease Algorithms for Congestion Avoidance; RFC 9110,
section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

Answer = TypeVar("Answer")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
ROUNDS_TO_RECOVER = 16
"""From a single request in flight to all, in rounds of as many answers as are in flight."""


class TransientError(RuntimeError):
    """A request failed in a way that another try may mend."""

    def __init__(self, message: str, overloaded: bool = False, wait_s: float | None = None):
        """Say whether the server is overloaded, and how long it asks all to wait."""
        super().__init__(message)
        self.overloaded, self.wait_s = overloaded, wait_s


class OutOfTriesError(RuntimeError):
    """A request failed at every try; the message has the last cause."""


class Pacer:
    """Sends requests on one event loop, at most `max_in_flight` at once, each at most `max_tries` times.

    limit      how many may be in flight now, 1 to max_in_flight
    in_flight  how many are
    """

    def __init__(self, max_in_flight: int, max_tries: int, longest_wait_s: float = 600.0):
        """Wait for no server that names a longer wait than `longest_wait_s`."""
        self._max_in_flight, self._max_tries, self._longest_wait_s = max_in_flight, max_tries, longest_wait_s
        self.limit = float(max_in_flight)
        self.in_flight = 0
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._paused_until = 0.0
        self._num_decreases = 0
        self._random = random.Random()

    async def send(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Call `attempt` when there is room, again where it raises TransientError. Raises OutOfTriesError.

        A request that waits for its next try holds no room, and goes before those that came after it.
        """
        ticket = next(self._tickets)
        for tries in range(1, self._max_tries + 1):
            await self._enter(ticket)
            num_decreases = self._num_decreases
            try:
                answer = await attempt()
            except TransientError as error:
                failure = error
                self._note_failure(error, num_decreases)
            else:
                self.limit = min(self._max_in_flight, self.limit + self._step / self.limit)
                return answer
            finally:
                self.in_flight -= 1
                self._admit()
            if (failure.wait_s or 0.0) > self._longest_wait_s:
                raise OutOfTriesError(f"the server asks to wait for {failure.wait_s:g} s: {failure}")
            if tries < self._max_tries:
                await asyncio.sleep(self._backoff_s(tries))
        raise OutOfTriesError(f"failed {self._max_tries} times, the last time: {failure}")

    @property
    def _step(self) -> float:
        return max(1.0, self._max_in_flight / ROUNDS_TO_RECOVER)

    async def _enter(self, ticket: int) -> None:
        """Wait for room; requests enter in the order of their tickets."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ticket, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in who waits, as far as there is room and no pause."""
        loop = asyncio.get_running_loop()
        if not self._waiting or loop.time() < self._paused_until:
            return
        while self._waiting and self.in_flight < int(self.limit):
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def _note_failure(self, error: TransientError, num_decreases: int) -> None:
        """Note a failure of a request that was sent after so many decreases of the limit."""
        loop = asyncio.get_running_loop()
        # What was on its way when the limit fell tells nothing about the new limit.
        if error.overloaded and num_decreases == self._num_decreases:
            self.limit = max(1.0, self.limit / 2)
            self._num_decreases += 1
        if error.wait_s is not None and error.wait_s <= self._longest_wait_s:
            until = loop.time() + error.wait_s
            if until > self._paused_until:
                self._paused_until = until
                loop.call_at(until, self._end_pause, until)

    def _end_pause(self, until: float) -> None:
        # Not by the clock: a timer may come a tick early.
        if until == self._paused_until:
            self._paused_until = 0.0
            self._admit()

    def _backoff_s(self, tries: int) -> float:
        """Choose the time to the next try, in seconds: longer from try to try, and spread."""
        return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (tries - 1)) * self._random.uniform(0.5, 1.0)


def parse_wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read how many seconds a server asks to wait: Retry-After in seconds or as a date, or retry-after-ms.

    `headers` have lower-case names. None where there is none, or none that can be read; never negative.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        until = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    # A date without a zone is in UTC.
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
