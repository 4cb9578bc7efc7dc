"""infer_traces under kills, on a cluster of two nodes: nothing is lost, nothing is recorded twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from jobs import infer_traces
from judgetrace.config import STOPPED_EARLY_STATUS
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state
from judgetrace.storage import Folder
from tests.oracle import check_run
from tests.test_job_infer_traces import write_config
from tests.test_reaper import is_alive

pytestmark = pytest.mark.slow

NUM_UNITS = 200


def wait_until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Start a process whose output goes to a log; it does not outlive the block."""
    with log.open("ab") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()
        job.wait(timeout=30)


def started_job(config: str, address: str, log: Path, *more: str) -> AbstractContextManager[subprocess.Popen]:
    return started([sys.executable, "-m", "jobs.infer_traces", config, f"--cluster.address={address}", *more], log)


def read_journal(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []


def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(
    tmp_path, faults_corpus, faults_undisturbed, ray_session
):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.15, journal=str(journal))
    with started_job(config, ray_session, log) as job:
        wait_until("a committed part", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
        os.kill(job.pid, signal.SIGKILL)
    workers = {int(line[0]) for line in read_journal(journal)}
    wait_until("the killed driver's workers to end", lambda: not any(map(is_alive, workers)))
    drawn_before = len(read_journal(journal))
    ledger = Folder(f"{run}/ledger")
    parts = [ledger.read_table(name) for name in ledger.list_files(".parquet", recursive=True)]
    committed = {item_id for part in parts for item_id in part.column("item_id").to_pylist()}
    assert committed
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, faults_corpus, faults_undisturbed)
    assert committed.isdisjoint(line[2] for line in read_journal(journal)[drawn_before:])


@pytest.mark.chaos
def test_a_worker_that_is_killed_is_replaced(tmp_path, faults_corpus, faults_undisturbed, ray_session):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.1, journal=str(journal))
    with started_job(config, ray_session, log) as job:
        for kills in range(1, 4):
            wait_until("a new worker", lambda kills=kills: len({line[0] for line in read_journal(journal)}) == kills)
            time.sleep(1.0)
            os.kill(int(read_journal(journal)[-1][0]), signal.SIGKILL)
        assert job.wait(timeout=120) == 0, log.read_text()
    assert len({line[0] for line in read_journal(journal)}) == 4
    check_run(run, faults_corpus, faults_undisturbed)


@pytest.mark.chaos
def test_a_control_that_is_killed_ends_the_job_early_and_it_goes_on(
    tmp_path, faults_corpus, faults_undisturbed, ray_session
):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.3)
    with started_job(config, ray_session, log) as job:
        wait_until("a committed part", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
        # Of this test's own Ray, since others may run on the machine; that of an earlier job may not have ended yet.
        mine = psutil.Process().children(recursive=True)
        controls = [process for process in mine if any("ray::RunControl" in word for word in process.cmdline())]
        max(controls, key=psutil.Process.create_time).kill()
        assert job.wait(timeout=60) == STOPPED_EARLY_STATUS, log.read_text()
    assert "error: the process that counts for the driver, on the driver's node, has ended" in log.read_text()
    assert "Traceback" not in log.read_text()
    state, _ = describe_state(RunFolder(Folder(run)), time.time())
    assert state.startswith("stopped: the process that counts for the driver")
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, faults_corpus, faults_undisturbed)


def test_sigterm_drains_commits_and_leaves_a_run_that_goes_on(tmp_path, faults_corpus, faults_undisturbed, ray_session):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.15, journal=str(journal))
    with started_job(config, ray_session, log) as job:
        wait_until("some draws", lambda: len(read_journal(journal)) > 100)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=60) == STOPPED_EARLY_STATUS, log.read_text()
    assert "SIGTERM received" in log.read_text()
    drawn = {tuple(line[2:]) for line in read_journal(journal)}
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, faults_corpus, faults_undisturbed)
    repeated = [k for k, count in Counter(tuple(x[2:]) for x in read_journal(journal)).items() if count > 1]
    # A drained run keeps every draw that ended, also those of undecided units: only cancelled ones are made again.
    assert set(repeated) <= drawn
    assert len(repeated) <= 16


def test_a_second_driver_fences_the_first_and_completes_the_run(
    tmp_path, faults_corpus, faults_undisturbed, ray_session
):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    # Slow enough that the first driver is far from done when the second one is up.
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.5)
    with started_job(config, ray_session, log) as first:
        wait_until("the first driver", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
        with started_job(config, ray_session, tmp_path / "log2") as second:
            assert first.wait(timeout=90) == STOPPED_EARLY_STATUS, log.read_text()
            assert "replaced by a newer one" in log.read_text()
            assert second.wait(timeout=120) == 0, (tmp_path / "log2").read_text()
    check_run(run, faults_corpus, faults_undisturbed)


@pytest.mark.chaos
def test_two_engines_work_on_two_nodes(tmp_path, faults_corpus, faults_undisturbed, ray_session):
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_config(tmp_path, faults_corpus, run, latency_s=0.1, journal=str(journal))
    replicas = ["--engine.min_replicas=2", "--engine.max_replicas=2", "--engine.num_cpus=0.6"]
    assert infer_traces.main([config, *replicas]) == 0
    assert len({line[1] for line in read_journal(journal)}) == 2
    check_run(run, faults_corpus, faults_undisturbed)


def test_a_job_that_cannot_get_its_resources_says_what_it_waits_for(tmp_path, faults_corpus, ray_session):
    log = tmp_path / "log"
    config = write_config(tmp_path, faults_corpus, str(tmp_path / "run"))
    with log.open("wb") as file:
        job = [sys.executable, "-m", "jobs.infer_traces", config, f"--cluster.address={ray_session}"]
        job += ["--engine.num_gpus=4", "--cluster.wait_s=5"]
        status = subprocess.run(job, stdout=file, stderr=subprocess.STDOUT, timeout=60, check=False).returncode
    assert status == 2
    assert "infer_traces needs 0.5 CPU, 4 GPU on one node; the cluster has 2 node(s)" in log.read_text()
    assert "gave up: infer_traces has not moved" in log.read_text()
    state, _ = describe_state(RunFolder(Folder(str(tmp_path / "run"))), time.time())
    assert state.startswith("stopped: gave up: infer_traces has not moved")
