"""What a training worker needs, and how long a group of them may take to start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
