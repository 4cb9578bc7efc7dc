"""Rows of several pools of engines at once, as they come, in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

LOOK_EVERY_S = 0.1
JOIN_S = 30.0


class Pool(Protocol):
    """What an EnginePool can do."""

    def run(
        self, batches: Iterable[Sequence[Any]], should_stop: Callable[[], bool], drain_s: float
    ) -> Iterator[tuple[Any, Any]]:
        """Have batches done."""


def gather_results(
    runs: Sequence[tuple[Pool, Sequence[Any]]], look: Callable[[], bool], drain_s: float = 20.0
) -> Iterator[tuple[int, Any, Any]]:
    """Have the batches of all runs done at the same time; yields (number of the run, item, row).

    `look` is called some ten times a second, in the thread that iterates; once it says so the pools stop as
    EnginePool.run tells.
    A pool's error ends the other pools likewise, and is raised when they have ended.
    """
    results: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    stopping = threading.Event()
    failures: list[BaseException] = []

    def consume(number: int, pool: Pool, batches: Sequence[Any]) -> None:
        try:
            for item, done in pool.run(batches, stopping.is_set, drain_s):
                results.put((number, item, done))
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that iterates
            failures.append(error)
            stopping.set()

    threads = [
        threading.Thread(target=consume, args=(number, *run), name=f"pool-{number}", daemon=True)
        for number, run in enumerate(runs)
        if run[1]
    ]
    for thread in threads:
        thread.start()
    looked_at = float("-inf")
    try:
        while any(thread.is_alive() for thread in threads) or not results.empty():
            # Of a thousand rows a second each would be another look.
            if time.monotonic() - looked_at >= LOOK_EVERY_S:
                looked_at = time.monotonic()
                if look():
                    stopping.set()
            try:
                yield results.get(timeout=LOOK_EVERY_S if results.empty() else 0)
            except queue.Empty:
                continue
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=drain_s + JOIN_S)
    if failures:
        raise failures[0]
