"""What a run asks of the parts around its engines, and which part gives out first. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from judgetrace.control import choose_report_interval
from judgetrace.planning.config import Capacities

READS_PER_SHARD = 5
"""GET and HEAD: the items, whether the shard is finished (3; tests/test_planning_requests.py counts them); and its
footer when the run is summed up (2)."""
LISTS_PER_SHARD = 8
"""Of ledger and traces; counted there."""
WRITES_PER_SHARD = 1
"""PUT of the finished shard."""
WRITES_PER_COMMIT = 2
"""PUT of a part and its DELETE."""
LISTS_PER_COMMIT = 1
"""Whether a newer driver has taken over."""


@dataclass(frozen=True)
class RunShape:
    """A run as the parts around its engines see it."""

    num_shards: int
    units_per_shard: int
    replicas: int
    shards_at_once: int
    wall_s: float
    engine_share: float
    """Share of the engines' time in which they work at their full rate."""
    commit_every_s: float


@dataclass(frozen=True)
class Requests:
    """Requests to the object store of a whole run."""

    writes: float
    deletes: float
    lists: float
    reads: float


@dataclass(frozen=True)
class Demand:
    """What is asked of a part, over what it can give."""

    part: str
    share: float
    detail: str
    is_memory: bool = False
    """Memory that is not full slows nothing; memory that is too small ends the run."""


def count_requests(shape: RunShape) -> Requests:
    """Count a run's requests to the object store."""
    # Every open shard is committed in each interval, and at least none where it ends within one.
    commits = shape.replicas * shape.shards_at_once * shape.wall_s / shape.commit_every_s
    commits = min(commits, shape.num_shards * shape.units_per_shard)
    return Requests(
        writes=shape.num_shards * WRITES_PER_SHARD + commits,
        deletes=commits * (WRITES_PER_COMMIT - 1),
        lists=shape.num_shards * LISTS_PER_SHARD + commits * LISTS_PER_COMMIT,
        reads=float(shape.num_shards * READS_PER_SHARD),
    )


def list_demands(shape: RunShape, limits: Capacities) -> list[Demand]:
    """List what a run asks of each part."""
    requests, wall = count_requests(shape), shape.wall_s
    changes, looks = (requests.writes + requests.deletes) / wall, (requests.lists + requests.reads) / wall
    driver_s = shape.num_shards * limits.driver_ms_per_shard / 1000
    reports_per_s = shape.replicas / choose_report_interval(shape.replicas)
    driver_s += reports_per_s * wall * limits.driver_ms_per_report / 1000
    stored = shape.num_shards * limits.store_bytes_per_shard
    open_units = shape.shards_at_once * shape.units_per_shard
    worker, driver = open_units * limits.worker_bytes_per_unit, shape.num_shards * limits.driver_bytes_per_shard
    return [
        Demand("engine", shape.engine_share, f"{shape.replicas} engines at their full rate"),
        Demand("driver", driver_s / wall, f"{driver_s:,.0f} s of its time"),
        Demand(
            "S3 requests",
            max(changes / limits.writes_per_s, looks / limits.reads_per_s),
            f"{changes:,.1f} writes/s, {looks:,.1f} reads/s",
        ),
        Demand("object store", stored / limits.store_bytes, f"{stored / 1e6:,.1f} MB of tasks on the head", True),
        Demand(
            "ids in memory",
            max(worker / limits.worker_bytes, driver / limits.driver_bytes),
            f"{worker / 1e6:,.1f} MB of open units in a worker, {driver / 1e6:,.1f} MB of shards in the driver",
            True,
        ),
    ]


def rank_bottlenecks(demands: list[Demand]) -> list[Demand]:
    """Put first what limits the run: memory that is too small, else the busiest part; the others follow by share."""
    too_small = [demand for demand in demands if demand.is_memory and demand.share > 1]
    first = max(too_small or [d for d in demands if not d.is_memory], key=lambda demand: demand.share)
    return [first, *sorted((d for d in demands if d is not first), key=lambda demand: -demand.share)]
