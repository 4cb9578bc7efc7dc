"""What runs on an engine's loop, seen from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from judgetrace.engine_loop import run_each_on, start_loop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    own = start_loop()
    yield own
    own.call_soon_threadsafe(own.stop)


async def take(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


async def fail(seconds: float) -> str:
    await asyncio.sleep(seconds)
    raise ValueError("scripted fault")


def test_results_come_with_their_places_as_they_end(loop):
    works = [take(0.4, "slow"), take(0.0, "fast"), take(0.2, "between")]
    assert list(run_each_on(loop, works)) == [(1, "fast"), (2, "between"), (0, "slow")]


def test_an_error_ends_the_others_and_what_had_ended_before_is_out(loop):
    ended = asyncio.run_coroutine_threadsafe(make_event(), loop).result()
    results = run_each_on(loop, [wait_for_end(ended), take(0.05, "early"), fail(0.3), take(0.1, "too")])
    found = []
    with pytest.raises(ValueError, match="scripted fault"):
        found.extend(results)
    assert sorted(found) == [(1, "early"), (3, "too")]
    assert asyncio.run_coroutine_threadsafe(asyncio.wait_for(ended.wait(), 5), loop).result()


def test_who_stops_to_listen_ends_what_still_runs(loop):
    ended = asyncio.run_coroutine_threadsafe(make_event(), loop).result()
    results = run_each_on(loop, [wait_for_end(ended), take(0.0, "first")])
    assert next(results) == (1, "first")
    results.close()
    assert asyncio.run_coroutine_threadsafe(asyncio.wait_for(ended.wait(), 5), loop).result()


async def make_event() -> asyncio.Event:
    return asyncio.Event()


async def wait_for_end(ended: asyncio.Event) -> str:
    """Wait until cancelled, and say so."""
    try:
        await asyncio.sleep(3600)
    finally:
        ended.set()
    return "never"
