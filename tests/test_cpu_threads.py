"""How many threads engines on CPUs take."""

import os
from pathlib import Path

import pytest

from judgetrace.cpu_threads import choose_threads, count_cpus


@pytest.mark.parametrize(
    ("num_cpus", "cpus_per_engine", "num_engines", "threads"),
    [
        (2, 1.0, 1, 2),
        (2, 0.5, 2, 1),
        (8, 1.0, 2, 4),
        # On machines of eight CPUs at most four of the 64 engines run.
        (8, 2.0, 64, 2),
        # Ray places none there, but whoever runs one does.
        (2, 4.0, 1, 2),
        (8, 0.0, 3, 2),
        (2, 0.1, 16, 1),
    ],
)
def test_a_machines_cpus_are_shared_by_the_engines_that_may_run_on_it(num_cpus, cpus_per_engine, num_engines, threads):
    assert choose_threads(num_cpus, cpus_per_engine, num_engines) == threads


@pytest.mark.parametrize(
    ("num_cpus", "cpus_per_engine", "num_engines", "beside", "threads"),
    [
        # Whatever the others take of Ray's CPUs: 5 of one pool and 3 of another may be on a machine of 8.
        (8, 5.0, 1, 1, 4),
        (8, 3.0, 1, 1, 4),
        (2, 1.5, 1, 1, 1),
        (8, 2.0, 64, 4, 1),
        (2, 4.0, 1, 1, 1),
    ],
)
def test_engines_of_other_pools_share_the_machine_too(num_cpus, cpus_per_engine, num_engines, beside, threads):
    assert choose_threads(num_cpus, cpus_per_engine, num_engines, beside) == threads


@pytest.mark.parametrize(
    ("quota", "counted"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_a_containers_quota_counts(tmp_path: Path, quota: str, counted: int | None):
    (tmp_path / "cpu.max").write_text(quota)
    allowed = len(os.sched_getaffinity(0))
    assert count_cpus(tmp_path / "cpu.max") == (counted or allowed)
    assert count_cpus(tmp_path / "none") == allowed
