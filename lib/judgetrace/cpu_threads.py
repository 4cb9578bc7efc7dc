"""How many threads an engine or a training worker takes on CPUs: the machine's, shared by those that may run on it."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def count_cpus(quota_file: Path = CGROUP_QUOTA) -> int:
    """Count the CPUs that this process may use: by its affinity, and by its container's quota (cgroup v2), if any."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def choose_threads(num_cpus: int, cpus_per_engine: float, num_engines: int, beside: int = 0) -> int:
    """Choose an engine's threads on a machine of `num_cpus`.

    So many engines of its kind run in all, on one machine or several; Ray places no more on one than its
    `cpus_per_engine` allow (0: all may be on one). `beside` others may each be on the same machine. More threads than
    CPUs would wait for each other: two engines of two threads each, on two CPUs, make a third of the tokens that two of
    one thread do.
    """
    fit = math.floor(num_cpus / cpus_per_engine) if cpus_per_engine else num_engines
    return max(1, num_cpus // (max(1, min(num_engines, fit)) + beside))
