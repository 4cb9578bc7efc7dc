"""How many requests are in flight at a server, and when a failed one is tried again. Pure asyncio.

As many requests as the server bears, by additive increase and multiplicative decrease: after each round of as many
requests as may be in flight, a few more may be, or fewer by half the share that the server refused. That halves them
where it refuses all; a server that refuses one in ten whatever it is sent is still asked by many. A waiting time that
the server names holds for all requests. Knows neither HTTP clients nor prompts.

Source: Chiu and Jain (1989), Analysis of the Increase and Decrease Algorithms for Congestion Avoidance; Alizadeh et al.
(2010), Data Center TCP (the decrease in proportion); RFC 9110, section 10.2.3 (Retry-After).
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

from judgetrace.engine import RequestFailedError

Answer = TypeVar("Answer")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
LARGEST_STEP = 1 / 16
"""Of all that are allowed: so many more requests may be in flight after a round in which none was refused. The first
rounds after a refusal take smaller steps, so that a limit of the server's is overstepped by little."""


class TransientError(RuntimeError):
    """A request failed in a way that another try may mend."""

    def __init__(self, message: str, overloaded: bool = False, wait_s: float | None = None):
        """Say whether the server is overloaded, and how long it asks all to wait."""
        super().__init__(message)
        self.overloaded, self.wait_s = overloaded, wait_s


class OutOfTriesError(RequestFailedError):
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
        self._num_decreases = self._num_clean_rounds = self._num_ended = self._num_refused = 0
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
                self._count(error.overloaded, num_decreases)
                self._pause(error.wait_s)
            else:
                self._count(False, num_decreases)
                return answer
            finally:
                self.in_flight -= 1
                self._admit()
            if (failure.wait_s or 0.0) > self._longest_wait_s:
                raise OutOfTriesError(f"the server asks to wait for {failure.wait_s:g} s: {failure}")
            if tries < self._max_tries:
                await asyncio.sleep(self._backoff_s(tries))
        raise OutOfTriesError(f"failed {self._max_tries} times, the last time: {failure}")

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

    def _count(self, refused: bool, num_decreases: int) -> None:
        """Count the end of a request that was sent after so many decreases of the limit; at a round's end, set it."""
        # What was on its way when the limit fell tells nothing about the new limit.
        if num_decreases != self._num_decreases:
            return
        self._num_ended += 1
        self._num_refused += refused
        # Refusals come faster than answers: where they are many, the round ends early.
        if self._num_ended < int(self.limit) and self._num_refused < max(2.0, self.limit / 4):
            return
        share = self._num_refused / self._num_ended
        self._num_clean_rounds = 0 if share else self._num_clean_rounds + 1
        step = 1.0 - share if share else max(1.0, min(self._num_clean_rounds, self._max_in_flight * LARGEST_STEP))
        limit = min(float(self._max_in_flight), max(1.0, self.limit * (1.0 - share / 2) + step))
        self._num_decreases += limit < self.limit
        self.limit, self._num_ended, self._num_refused = limit, 0, 0

    def _pause(self, wait_s: float | None) -> None:
        """Send nothing for so many seconds."""
        if wait_s is None or wait_s > self._longest_wait_s:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
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
