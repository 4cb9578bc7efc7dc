"""infer_traces on S3 behind a proxy that injects faults, each time on a Ray of its own: only the store outlives it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from jobs import infer_traces
from judgetrace.config import STOPPED_EARLY_STATUS
from judgetrace.storage import Folder
from tests.fault_proxy import FaultProxy, Plan, at_random, never, proxied
from tests.oracle import accepted_set, check_run
from tests.test_job_faults import read_journal, started, started_job, wait_until
from tests.test_job_infer_traces import prepare, read_rows, write_config
from tests.test_job_node_faults import Nodes
from tests.test_reaper import is_alive

NUM_UNITS = 100
DRIVER_STEPS = {
    "probe": ("PUT", "drivers/probe"),
    "contract": ("PUT", "contract.json"),
    "claim": ("PUT", "drivers/driver"),
    "state": ("PUT", "drivers/state"),
    "part": ("PUT", "ledger/"),
    "publish": ("PUT", "traces/"),
    "clear": ("DELETE", "ledger/"),
    "manifest": ("PUT", "manifest.json"),
}
CLUSTER_KILLS, DRIVER_KILLS = 20, 100

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session, s3) -> str:
    folder = tmp_path_factory.mktemp("storefaults")
    return prepare(folder, f"{s3}/{folder.name}/corpus", num=NUM_UNITS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus) -> set:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert infer_traces.main([write_config(folder, corpus, str(folder / "run"))]) == 0
    return accepted_set(check_run(str(folder / "run"), corpus))


@pytest.fixture
def proxy(corpus, undisturbed) -> Iterator[FaultProxy]:
    with proxied(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


def job_on_its_own_ray(config: str, log: Path) -> AbstractContextManager[subprocess.Popen]:
    own = ["--cluster.address=local", "--cluster.num_cpus=2"]
    return started([sys.executable, "-m", "jobs.infer_traces", config, *own], log)


def wait_for_workers(journal: Path) -> None:
    """Wait for the workers of a driver that was killed: they end with it."""
    workers = {int(line[0]) for line in read_journal(journal)}
    wait_until("the killed driver's workers to end", lambda: not any(map(is_alive, workers)))


def finish(config: str, log: Path, run: str, corpus: str, undisturbed: set) -> None:
    with job_on_its_own_ray(config, log) as job:
        assert job.wait(timeout=240) == 0, log.read_text()
    check_run(run, corpus, undisturbed)


def ends_with_after_a_part(proxy: FaultProxy, fault: str, meanwhile: Plan) -> Plan:
    """Let a fault befall all requests from soon after a second part on, and those before what `meanwhile` says."""
    return lambda seen: fault if any("part-00001" in one.path for one in proxy.seen[:-10]) else meanwhile(seen)


@pytest.mark.chaos
def test_a_job_through_a_throttling_store_that_then_refuses_stops_clearly_and_goes_on(
    tmp_path, s3, corpus, undisturbed, proxy
):
    run, log = f"{s3}/{tmp_path.name}/run", tmp_path / "log"
    # Shards take longer than two commits: draws of half a second, some of them one after another, commits every second.
    config = write_config(tmp_path, corpus, run, latency_s=0.5)
    proxy.plan = ends_with_after_a_part(proxy, "403", at_random("503", 0.1))
    check_stop(config, log, s3, 180)
    assert "PermissionError" in log.read_text()
    proxy.plan = at_random("503", 0.1, seed=1)
    finish(config, log, run, corpus, undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["503", "abort"])
def test_a_store_that_stays_away_stops_the_job_clearly_and_it_goes_on(tmp_path, s3, corpus, undisturbed, proxy, fault):
    run, log = f"{s3}/{tmp_path.name}/run", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=0.5)
    proxy.plan = ends_with_after_a_part(proxy, fault, never)
    began = time.monotonic()
    check_stop(config, log, s3, 600)
    print(f"{fault} for ever: ended after {time.monotonic() - began:.0f} s")
    proxy.plan = never
    finish(config, log, run, corpus, undisturbed)


def check_stop(config: str, log: Path, s3: str, seconds: float) -> None:
    """Run a job to its early end, and check what it tells."""
    with job_on_its_own_ray(config, log) as job:
        assert job.wait(timeout=seconds) == STOPPED_EARLY_STATUS, log.read_text()
    told = log.read_text()
    assert f"error: {s3}" in told, told
    assert "the same command goes on" in told
    assert "Traceback" not in told


@pytest.mark.chaos
def test_a_head_lost_under_working_engines_is_followed_by_a_new_cluster_from_the_store_alone(
    tmp_path, s3, corpus, undisturbed
):
    """The driver was on the head; the engines are not, and draw on for a while."""
    run, journal, log = f"{s3}/{tmp_path.name}/run", tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=2.5, journal=str(journal))
    replicas = ["--engine.min_replicas=2", "--engine.max_replicas=2", "--engine.num_cpus=0.8"]
    with ExitStack() as clusters:
        old = Nodes()
        clusters.callback(old.cluster.shutdown)
        nodes = [old.add(), old.add()]
        with started_job(config, old.address, log, *replicas) as job:
            wait_until("draws on both nodes", lambda: len({line[1] for line in read_journal(journal)}) == 2, 90)
            wait_until("a part", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
            old.lose_head()
            job.send_signal(signal.SIGKILL)
            job.wait(timeout=30)
        lost, drawn = {line[1] for line in read_journal(journal)}, len(read_journal(journal))
        assert len(lost) == len(nodes)
        wait_until("the engines to draw on without a head", lambda: len(read_journal(journal)) > drawn)
        new = Nodes()
        clusters.callback(new.cluster.shutdown)
        new.add()
        with started_job(config, new.address, tmp_path / "log2", *replicas[1:]) as job:
            assert job.wait(timeout=240) == 0, (tmp_path / "log2").read_text()
    assert {line[1] for line in read_journal(journal)} - lost
    check_run(run, corpus, undisturbed)


def kill_at(proxy: FaultProxy, config: str, log: Path, journal: Path, plan: Plan) -> None:
    """Kill the driver, and the cluster with it, when a request of a run is held."""
    proxy.forget()
    proxy.plan = plan
    with job_on_its_own_ray(config, log) as job:
        wait_until("the step", lambda: proxy.held.is_set() or job.poll() is not None, 120)
        assert proxy.held.is_set(), log.read_text()
        job.send_signal(signal.SIGKILL)
        job.wait(timeout=30)
    wait_for_workers(journal)
    proxy.plan = never
    proxy.release()


def hold_step(run: str, step: str, fault: str) -> Plan:
    method, part = DRIVER_STEPS[step]
    name = run.removeprefix("s3://")
    return lambda seen: fault if seen.method == method and name in seen.path and part in seen.path else ""


@pytest.mark.chaos
def test_a_cluster_lost_with_its_head_is_followed_by_a_new_one_from_the_store_alone(
    tmp_path, s3, corpus, undisturbed, proxy
):
    run, log, journal = f"{s3}/{tmp_path.name}/run", tmp_path / "log", tmp_path / "journal"
    config = write_config(tmp_path, corpus, run, latency_s=0.1, journal=str(journal))
    kill_at(proxy, config, log, journal, hold_step(run, "publish", "done"))
    finish(config, log, run, corpus, undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["hold", "done"])
@pytest.mark.parametrize("step", DRIVER_STEPS)
def test_a_driver_killed_at_any_step_is_followed_by_one_that_goes_on(
    tmp_path, s3, corpus, undisturbed, proxy, step, fault
):
    run, log, journal = f"{s3}/{tmp_path.name}/run", tmp_path / "log", tmp_path / "journal"
    config = write_config(tmp_path, corpus, run, latency_s=0.05, journal=str(journal))
    kill_at(proxy, config, log, journal, hold_step(run, step, fault))
    finish(config, log, run, corpus, undisturbed)


def write_run(tmp_path: Path, s3: str, corpus: str, number: int, **script: object) -> tuple[str, Path, str]:
    """Write the config of one of a test's runs; returns the run's folder, its log and the config."""
    folder = tmp_path / str(number)
    folder.mkdir()
    run = f"{s3}/{tmp_path.name}/run-{number}"
    return run, folder / "log", write_config(folder, corpus, run, **script)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_drivers_killed_at_random_moments_on_one_cluster_lose_and_repeat_nothing(
    tmp_path, s3, corpus, undisturbed, ray_session
):
    chance = random.Random(4)
    killed = runs = 0
    while killed < DRIVER_KILLS:
        run, log, config = write_run(tmp_path, s3, corpus, runs, latency_s=0.5)
        runs += 1
        for _ in range(10):
            # The next one starts while workers of the last one still end.
            with started_job(config, ray_session, log) as job:
                time.sleep(chance.uniform(2, 9))
                if job.poll() is not None:
                    break
                killed += 1
                job.kill()
        with started_job(config, ray_session, log) as job:
            assert job.wait(timeout=240) == 0, log.read_text()
        check_run(run, corpus, undisturbed)
    print(f"{killed} kills in {runs} runs")


@pytest.mark.chaos
def test_clusters_lost_with_their_drivers_at_random_moments_lose_and_repeat_nothing(
    tmp_path, s3, corpus, undisturbed, proxy
):
    chance = random.Random(3)
    killed = runs = 0
    while killed < CLUSTER_KILLS:
        journal = tmp_path / f"journal-{runs}"
        run, log, config = write_run(tmp_path, s3, corpus, runs, latency_s=0.2, journal=str(journal))
        runs += 1
        for _ in range(4):
            with job_on_its_own_ray(config, log) as job:
                time.sleep(chance.uniform(4, 20))
                killed += job.poll() is None
                job.kill()
            wait_for_workers(journal)
        finish(config, log, run, corpus, undisturbed)
    print(f"{killed} kills in {runs} runs")


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("fault", "rate"), [("503", 0.5), ("500", 0.5), ("reset", 0.1), ("truncate", 0.1), ("lost", 0.1), ("503", 0.01)]
)
def test_a_job_through_a_failing_store_ends_as_if_undisturbed(tmp_path, s3, corpus, undisturbed, proxy, fault, rate):
    run, log = f"{s3}/{tmp_path.name}/run", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=0.1)
    proxy.plan = at_random(fault, rate)
    finish(config, log, run, corpus, undisturbed)
    assert proxy.count()[fault]
    print(f"{fault} {rate}: {dict(proxy.count())}")


@pytest.mark.chaos
def test_a_driver_that_wakes_up_after_its_successor_has_ended_the_run_changes_nothing(
    tmp_path, s3, corpus, undisturbed, ray_session
):
    run, log = f"{s3}/{tmp_path.name}/run", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=0.5)
    with started_job(config, ray_session, log) as old:
        wait_until("a part", lambda: Folder(f"{run}/ledger").list_files(".parquet", recursive=True))
        old.send_signal(signal.SIGSTOP)
        with started_job(config, ray_session, tmp_path / "log2") as new:
            assert new.wait(timeout=180) == 0, (tmp_path / "log2").read_text()
        before = read_files(run)
        old.send_signal(signal.SIGCONT)
        assert old.wait(timeout=60) == STOPPED_EARLY_STATUS, log.read_text()
    assert "replaced by a newer one" in log.read_text()
    after = read_files(run)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} <= {"drivers/state-00000.json"}
    check_run(run, corpus, undisturbed)
    assert len(read_rows(run)) == NUM_UNITS


@pytest.mark.slow
def test_a_job_names_broken_and_missing_shards_does_the_others_and_goes_on_once_they_are_restored(
    tmp_path, s3, corpus, undisturbed, ray_session
):
    run, log = f"{s3}/{tmp_path.name}/run", tmp_path / "log"
    config = write_config(tmp_path, corpus, run)
    items = Folder(f"{corpus}/items")
    # The first two that are given out: what follows them is worked on all the same.
    broken, missing, *others = items.list_files()
    whole = {name: items.read_bytes(name) for name in (broken, missing)}
    items.write_atomic(broken, whole[broken][:-50])
    items.delete([missing])
    try:
        with started_job(config, ray_session, log) as job:
            assert job.wait(timeout=120) == 2, log.read_text()
    finally:
        for name, data in whole.items():
            items.write_atomic(name, data)
    told, rows = log.read_text(), check_run(run, corpus, is_complete=False)
    assert "error: 2 shard(s) can't be read; all others were worked on\n" in told
    assert f"  {items.url}/{broken}: is not the Parquet file it must be" in told
    assert f"  {items.url}/{missing}: is not there, while the corpus's manifest has it\n" in told
    assert f"warning: {items.url}/{missing}: is not there" in told
    assert "Traceback" not in told
    assert others
    assert len(rows) == sum(items.read_table(name).num_rows for name in others)
    assert Folder(f"{run}/traces").list_files() == others
    assert not Folder(run).exists("manifest.json")
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, corpus, undisturbed)


def read_files(run: str) -> dict[str, bytes]:
    folder = Folder(run)
    return {name: folder.read_bytes(name) for name in folder.list_files(recursive=True)}
