"""Wait until the cluster has room for all workers of a stage at once. Ray Train and Ray Data would wait in silence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from judgetrace.session import StageWatch
from judgetrace.training.config import WorkersConfig

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def needs_of(workers: WorkersConfig) -> dict[str, float]:
    """Return the Ray resources of one training worker."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return {name: amount for name, amount in needs.items() if amount}


@contextmanager
def allowing_slow_start(workers: WorkersConfig) -> Iterator[None]:
    """Give a fixed number of workers 10 minutes to start, while the block runs; a value of the user's stays.

    Ray Train's 60 s are less than a new node with GPUs takes. An elastic group keeps them: where a node was lost
    suddenly, Ray Train asks for as many workers as before, and counts anew after this time only.
    """
    if workers.max_workers is not None or _START_TIMEOUT in os.environ:
        yield
        return
    os.environ[_START_TIMEOUT] = "600"
    try:
        yield
    finally:
        del os.environ[_START_TIMEOUT]


def wait_for_room(
    stage: str, needs: Mapping[str, float], count: int, wait_s: float, *, beside: Mapping[str, float] | None = None
) -> None:
    """Wait for room for `count` workers that need so much each, and what is to run beside them.

    An autoscaler sees what is wanted. The room is given back at once, for the stage to take. Raises UserError where
    there is none after `wait_s` seconds.
    """
    from ray.util import placement_group, remove_placement_group

    if not needs:
        return
    group = placement_group([dict(needs)] * count + ([dict(beside)] if beside else []))
    try:
        with StageWatch(stage, needs, wait_s) as watch:
            while not group.wait(1):
                if watch.expired:
                    raise watch.give_up()
    finally:
        remove_placement_group(group)
