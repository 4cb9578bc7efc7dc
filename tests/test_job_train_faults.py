"""train_rater under kills, on a cluster: the loss curve is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs import train_rater
from judgetrace.config import UserError
from judgetrace.storage import Folder
from judgetrace.training.checkpoints import count_workers
from tests.test_job_faults import wait_until
from tests.test_job_real_engine import our_processes
from tests.train_runs import list_checkpoints, read_losses, write_traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def write_config(word_runs) -> Callable[..., str]:
    def write(own: Path, run: str | None = None, traces: str | None = None) -> str:
        config = Path(word_runs.write_long_config(own, run or str(own / "run"), traces))
        config.write_text(config.read_text().replace("max_items = 8", "max_items = 0"))
        return str(config)

    return write


@pytest.fixture(scope="session")
def undisturbed(undisturbed_training) -> dict[int, float]:
    return read_losses(undisturbed_training)


def after_first_checkpoint(run: str, act: Callable[[], None]) -> threading.Thread:
    """Act on a thread once the first checkpoint is complete."""

    def wait() -> None:
        wait_until("a checkpoint", lambda: Folder(run).exists("checkpoints/checkpoint_manager_snapshot.json"), 180)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def tell_of_new_nodes() -> None:
    """Have Ray's coordinator look for nodes now: it does each 20 s, and an elastic group starts on those it knows."""
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator

    ray.get(default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()._tick.remote())


def test_a_killed_worker_is_replaced_from_a_checkpoint_on_s3_and_the_losses_are_the_same(
    write_config, undisturbed, word_runs, tmp_path, s3
):
    run = f"{s3}/killed-worker/run"
    traces = write_traces(word_runs.corpus, f"{s3}/killed-worker/traces")
    workers: list[psutil.Process] = []

    def kill_one() -> None:
        workers.extend(our_processes("RayTrainWorker"))
        kill(workers[0])

    thread = after_first_checkpoint(run, kill_one)
    assert train_rater.main([write_config(tmp_path, run, traces)]) == 0
    thread.join()
    assert len(workers) == 2
    assert read_losses(run) == pytest.approx(undisturbed, abs=1e-4)
    assert "model.safetensors" in (Folder(run) / "rater").list_files()


@pytest.mark.chaos
def test_a_killed_driver_is_followed_by_one_that_goes_on_from_the_newest_checkpoint(
    write_config, undisturbed, tmp_path, ray_session
):
    config = write_config(tmp_path)
    command = [sys.executable, "-m", "jobs.train_rater", config, f"--cluster.address={ray_session}"]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    thread = after_first_checkpoint(str(tmp_path / "run"), lambda: os.kill(job.pid, signal.SIGKILL))
    assert job.wait(timeout=240) == -signal.SIGKILL
    thread.join()
    known = (tmp_path / "run/checkpoints/checkpoint_manager_snapshot.json").read_text()
    assert "checkpoint_" in known
    wait_until("the killed job's workers to end", lambda: not our_processes("RayTrainWorker"))
    assert train_rater.main([config]) == 0
    losses = read_losses(str(tmp_path / "run"))
    assert losses == pytest.approx(undisturbed, abs=1e-4)
    assert Folder(str(tmp_path / "run")).exists("drivers/driver-00001.json")


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_with_status_3_and_the_same_command_goes_on(
    write_config, undisturbed, tmp_path, ray_session, number
):
    config, log = write_config(tmp_path), tmp_path / "log"
    command = [sys.executable, "-m", "jobs.train_rater", config, f"--cluster.address={ray_session}"]
    with log.open("wb") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    thread = after_first_checkpoint(str(tmp_path / "run"), lambda: job.send_signal(number))
    assert job.wait(timeout=120) == 3, log.read_text()
    thread.join()
    told = log.read_text()
    assert f"error: {number.name} received\nThe same command goes on, from the newest checkpoint" in told, told
    wait_until("the ended job's workers to end", lambda: not our_processes("RayTrainWorker"))
    assert train_rater.main([config]) == 0
    assert read_losses(str(tmp_path / "run")) == pytest.approx(undisturbed, abs=1e-4)


@pytest.mark.chaos
def test_a_lost_node_leaves_the_others_to_go_on(write_config, undisturbed, tmp_path, ray_cluster, monkeypatch):
    # After the loss Ray Train waits so long for the node that is gone, by default a minute.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    # One worker a node: two of .6 CPU don't fit into one.
    nodes = [
        ray_cluster.add_node(num_cpus=1, resources={"train": 1}, object_store_memory=256 * 2**20) for _ in range(2)
    ]
    tell_of_new_nodes()
    config = write_config(tmp_path)
    text = (
        Path(config)
        .read_text()
        .replace(
            "num_workers = 2\nnum_cpus = 0.5",
            "num_workers = 1\nmax_workers = 2\nnum_cpus = 0.6\nresources = { train = 0.6 }",
        )
    )
    Path(config).write_text(text)
    lost: list[psutil.Process] = []

    def lose_one() -> None:
        # Ray's coordinator decides whether the group starts on both nodes or on one and grows later.
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
        lost.append(next(worker for worker in our_processes("RayTrainWorker") if worker.ppid() in raylets))
        node = raylets[lost[0].ppid()]
        nodes.remove(node)
        ray_cluster.remove_node(node, allow_graceful=False)

    try:
        thread = after_first_checkpoint(str(tmp_path / "run"), lose_one)
        assert train_rater.main([config]) == 0
        thread.join()
        assert len(lost) == 1
        assert len(nodes) == 1
        assert not lost[0].is_running()
        # The node that is left has room for one.
        assert count_workers(list_checkpoints(str(tmp_path / "run"))[-1]) == 1
    finally:
        for node in nodes:
            ray_cluster.remove_node(node)
    assert read_losses(str(tmp_path / "run")) == pytest.approx(undisturbed, abs=1e-4)


@pytest.mark.chaos
def test_a_driver_that_was_replaced_stops_without_saving(write_config, tmp_path):
    from judgetrace.run_folder import RunFolder

    run = RunFolder(Folder(str(tmp_path / "run")))
    thread = after_first_checkpoint(str(tmp_path / "run"), lambda: run.claim(0.0))
    with pytest.raises(UserError, match="was replaced by a newer one") as raised:
        train_rater.main([write_config(tmp_path), "--training.max_steps=4000", "--workers.max_failures=0"])
    thread.join()
    assert raised.value.exit_status == 3


@pytest.mark.chaos
def test_elastic_workers_that_take_every_cpu_are_still_fed(write_config, undisturbed, tmp_path, ray_session):
    tell_of_new_nodes()
    changes = ["--workers.num_cpus=1", "--workers.max_workers=2", "--training.max_steps=10"]
    assert train_rater.main([write_config(tmp_path), *changes]) == 0
    assert read_losses(str(tmp_path / "run")) == pytest.approx({n: undisturbed[n] for n in range(1, 11)}, abs=1e-4)
    assert count_workers(list_checkpoints(str(tmp_path / "run"))[-1]) == 2


@pytest.mark.chaos
def test_workers_that_end_without_a_word_are_said_to_want_memory_perhaps(write_config, tmp_path):
    thread = after_first_checkpoint(str(tmp_path / "run"), lambda: kill(our_processes("RayTrainWorker")[0]))
    with pytest.raises(UserError, match=r"max_failures 0 allows(.|\n)*ended by the system, for memory") as raised:
        train_rater.main([write_config(tmp_path), "--training.max_steps=4000", "--workers.max_failures=0"])
    thread.join()
    assert "Lower training.micro_batch" in str(raised.value)
    assert "The last checkpoint is intact" in str(raised.value)


@pytest.mark.chaos
def test_a_job_that_cannot_get_its_workers_says_what_it_waits_for(write_config, tmp_path, ray_session):
    import ray

    @ray.remote(num_cpus=0.7)
    class Holder:
        def ping(self) -> int:
            return 1

    # Room to read traces, and for one of the two workers.
    holder = Holder.remote()
    ray.get(holder.ping.remote())
    command = [sys.executable, "-m", "jobs.train_rater", write_config(tmp_path), f"--cluster.address={ray_session}"]
    command += ["--workers.num_cpus=1", "--cluster.wait_s=5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        ray.kill(holder)
    assert done.returncode == 2, done.stderr
    assert "gave up: train_rater with 2 worker(s) has not moved for" in done.stderr
    assert "a worker needs 1 CPU; free now: 1.3 CPU; cluster: 2 node(s)" in done.stderr
    assert "raise cluster.wait_s" in done.stderr
    assert not Folder(str(tmp_path / "run")).exists("checkpoints")
