"""infer_traces on a cluster that loses nodes, two at once and again and again, and gets new ones.

The head runs no work. Nodes are raylets of one machine, killed by their process ids.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from judgetrace.storage import Folder
from tests.oracle import check_run
from tests.test_job_faults import read_journal, started_job, wait_until
from tests.test_job_infer_traces import write_config
from tests.test_reaper import is_alive

pytestmark = pytest.mark.timeout(900)

KILL_EVERY_S = 20
REPLICAS = ["--engine.min_replicas=1", "--engine.max_replicas=4"]


class Nodes:
    """A cluster of its own: a head without CPUs, and nodes that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=100 * 2**20)
        self.address = str(self.cluster.address)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)

    def kill(self, *nodes: Any) -> set[int]:
        """Kill nodes with all that runs on them, as a machine that is gone; returns the process ids."""
        killed: set[int] = set()
        for node in nodes:
            for info in node.all_processes["raylet"]:
                raylet = psutil.Process(info.process.pid)
                family = [raylet, *raylet.children(recursive=True)]
                killed |= {process.pid for process in family}
                for process in family:
                    # Its own processes may end before their turn comes.
                    if is_alive(process.pid):
                        os.kill(process.pid, signal.SIGKILL)
            self.cluster.remove_node(node, allow_graceful=False)
        return killed

    def lose_head(self) -> None:
        """Kill all of the head's processes; the other nodes find out by themselves, as they do with a machine's end."""
        self.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)


@pytest.fixture
def nodes(faults_undisturbed) -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.mark.slow
def test_two_nodes_lost_at_once_cost_nothing_and_a_new_one_gets_work(
    tmp_path, faults_corpus, faults_undisturbed, nodes
):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.4, journal=str(journal))
    both = [nodes.add(), nodes.add()]
    with started_job(config, nodes.address, log, *REPLICAS, "--engine.num_cpus=0.8") as job:
        wait_until("draws on both nodes", lambda: len({line[1] for line in read_journal(journal)}) == 2, 90)
        wait_until("a part", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
        nodes.kill(*both)
        lost = {line[1] for line in read_journal(journal)}
        began = time.monotonic()
        nodes.add()
        wait_until("a draw on the new node", lambda: {line[1] for line in read_journal(journal)} - lost, 120)
        print(f"from the loss of both nodes to the first draw on a new one: {time.monotonic() - began:.1f} s")
        assert job.wait(timeout=240) == 0, log.read_text()
    check_run(run, faults_corpus, faults_undisturbed)


@pytest.mark.chaos
def test_nodes_lost_again_and_again_cost_nothing(tmp_path, faults_corpus, faults_undisturbed, nodes):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    # Some 200 units x 4 draws x 4 s over 16 slots: 200 s, were nothing lost.
    config = write_config(tmp_path, faults_corpus, run, latency_s=4.0, journal=str(journal))
    alive = [nodes.add(), nodes.add()]
    num_killed = losses = 0
    with started_job(config, nodes.address, log, *REPLICAS, "--engine.num_cpus=0.8") as job:
        wait_until("a draw", lambda: read_journal(journal), 90)
        while job.poll() is None and num_killed < 20:
            time.sleep(KILL_EVERY_S)
            if job.poll() is None:
                doomed = alive if losses % 3 == 0 else alive[:1]
                losses += 1
                nodes.kill(*doomed)
                num_killed += len(doomed)
                alive = [node for node in alive if node not in doomed]
                alive += [nodes.add() for _ in doomed]
        assert job.wait(timeout=400) == 0, log.read_text()
    check_run(run, faults_corpus, faults_undisturbed)
    assert num_killed >= 10
    print(f"{num_killed} nodes killed, draws on {len({line[1] for line in read_journal(journal)})} nodes")
