"""The killer of the benchmarks kills what it says, and counts it."""

import os
import random
import subprocess
import sys

from tests.bench.kills import Killed, Killer
from tests.bench.noted_engine import list_engines


class CountedNodes:
    """Nodes that are numbers."""

    def __init__(self) -> None:
        self.living: list[int] = []
        self.num_added = 0

    def add(self) -> int:
        self.num_added += 1
        self.living.append(self.num_added)
        return self.num_added

    def kill(self, *nodes: int) -> None:
        for node in nodes:
            self.living.remove(node)


def test_each_third_loss_takes_all_nodes_and_as_many_join(tmp_path):
    nodes = CountedNodes()
    killer = Killer(nodes, tmp_path, 3, engine_every_s=1e9, node_every_s=0.0, chance=random.Random(0))
    assert nodes.living == [1, 2, 3]
    seen = []
    for _ in range(4):
        killer.step()
        seen.append(list(nodes.living))
    assert seen == [[4, 5, 6], [5, 6, 7], [6, 7, 8], [9, 10, 11]]
    assert killer.killed == Killed(engines=0, nodes=3 + 1 + 1 + 3, losses=4)


def test_only_what_is_due_happens_and_no_engine_is_killed_where_none_lives(tmp_path):
    nodes = CountedNodes()
    killer = Killer(nodes, tmp_path, 2, engine_every_s=0.0, node_every_s=1e9, chance=random.Random(0))
    killer.step()
    assert killer.killed == Killed()
    assert nodes.living == [1, 2]


def test_only_living_processes_of_ray_count_as_engines(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (os.getpid(), ended.pid):
        (tmp_path / str(pid)).touch()
    assert list_engines(tmp_path) == []
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]
    engine = subprocess.Popen(["bash", "-c", "exec -a ray::Engine sleep 60"])
    try:
        (tmp_path / str(engine.pid)).touch()
        # It has its name once bash has handed over.
        while list_engines(tmp_path) != [engine.pid]:
            assert engine.poll() is None
    finally:
        engine.kill()
        engine.wait()
