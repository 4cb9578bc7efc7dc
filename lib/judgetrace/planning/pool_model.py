"""A pool of engines at work, shard by shard: what they hold, what is left to give out, who idles at the end. Pure.

An engine works through the shards it holds in the order it got them, all of its slots full; the draw-by-draw end of its
last units is added from engine_model. Ray Data gives an engine new shards as old ones end, up to some more than it
works on at once, and takes none back: that is what leaves some engines without work while others still have some.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pool:
    """A pool of equal engines."""

    replicas: int
    slot_rate: float
    """Tokens a second that one engine samples with all slots full."""
    shards_held: int
    """Shards that an engine holds at most, those that wait among them."""
    startup_s: float
    """From the start until an engine samples."""
    tail_s: float
    """How much longer than its work at the full rate an engine takes to end its last units."""
    driver_s_per_shard: float = 0.0
    """The driver gives out one shard after the other, each in so many seconds."""


@dataclass(frozen=True)
class PoolRun:
    """What came of it, in seconds."""

    wall_s: float
    """From the start to the end of the last engine."""
    idle_share: float
    """Share of all engines' time from the start to the end in which they did not work at the full rate."""


def run_pool(work: Sequence[float], pool: Pool) -> PoolRun:
    """Work through shards; `work` is the tokens of each, in the order in which they are given out."""
    left = iter(work)
    driver_at = 0.0
    busy: list[tuple[float, int]] = []
    engine_ends = [pool.startup_s] * pool.replicas

    def give(engine: int, now: float) -> bool:
        nonlocal driver_at
        tokens = next(left, None)
        if tokens is None:
            return False
        driver_at = max(driver_at, now) + pool.driver_s_per_shard
        engine_ends[engine] = max(engine_ends[engine], driver_at) + tokens / pool.slot_rate
        heapq.heappush(busy, (engine_ends[engine], engine))
        return True

    for _ in range(pool.shards_held):
        # Each in turn, as all are equally loaded.
        if not all(give(engine, 0.0) for engine in range(pool.replicas)):
            break
    while busy:
        now, engine = heapq.heappop(busy)
        give(engine, now)
    wall = max(engine_ends) + pool.tail_s
    full = sum(work) / pool.slot_rate
    return PoolRun(wall, 1 - full / (wall * pool.replicas))


def draw_shards(num_units: int, units_per_shard: int, mean: float, sd: float, seed: int) -> list[float]:
    """Draw the tokens of each shard: sums over so many units, each of this mean and SD; the last shard may be short."""
    full, rest = divmod(num_units, units_per_shard)
    sizes = np.array([units_per_shard] * full + [rest] * bool(rest), dtype=float)
    chance = np.random.default_rng(seed).standard_normal(sizes.size)
    work: list[float] = np.maximum(0.0, sizes * mean + np.sqrt(sizes) * sd * chance).tolist()
    return work
