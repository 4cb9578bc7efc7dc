"""Disks without room, an object store of 80 MB, CPUs that others hold: a message within a minute, and no hang.

Small disks are tmpfs mounts, which only root may make; elsewhere these tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import infer_traces
from judgetrace.config import STOPPED_EARLY_STATUS
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder, StoreError
from tests import lone_worker
from tests.oracle import accepted_set, check_run
from tests.refine_runs import make_traces, prepare_labels, write_refine_config
from tests.test_job_faults import started_job, wait_until
from tests.test_job_infer_traces import prepare, write_config
from tests.train_runs import read_losses

pytestmark = pytest.mark.timeout(400)

DISK_BYTES = 2 << 20
SMALL_STORE = f"--cluster.object_store_bytes={80 * 2**20}"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    # A short name: Ray keeps its sockets in its folder, and their paths may have 107 bytes.
    disk = Path(tempfile.mkdtemp(prefix="jt-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        disk.rmdir()
        pytest.skip("this machine lets nobody mount a tmpfs here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    disk.rmdir()


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for some bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
        file.truncate(max(0, file.tell() - left))
    return ballast


@pytest.mark.served
@pytest.mark.parametrize("left", [0, 12 << 10, 32 << 10])
def test_a_run_on_a_full_disk_stops_with_its_reason_and_goes_on_when_there_is_room(tmp_path, small_disk, left):
    corpus, run = str(tmp_path / "corpus"), str(small_disk / "run")
    lone_worker.write_corpus(corpus, 2, 20)
    lone_worker.work(corpus, str(tmp_path / "undisturbed"), {})
    undisturbed = accepted_set(check_run(str(tmp_path / "undisturbed"), corpus, is_complete=False))
    ballast = fill(small_disk, left)
    began = time.monotonic()
    with pytest.raises(StoreError, match=f"{run}.*can't be written: OSError: .*No space left on device"):
        lone_worker.work(corpus, run, {"latency_s": 0.05}, commit_every_s=0.2)
    assert time.monotonic() - began < 60
    assert not [path for path in small_disk.rglob(".*") if path.is_file()]
    ballast.unlink()
    lone_worker.work(corpus, run, {})
    assert accepted_set(check_run(run, corpus, is_complete=False)) == undisturbed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(folder, str(folder / "corpus"), num=60)


@pytest.mark.slow
def test_output_to_a_full_disk_ends_the_job_with_a_message(tmp_path, corpus):
    config = write_config(tmp_path, corpus, str(tmp_path / "run"))
    with open("/dev/full", "wb") as full:
        job = [sys.executable, "-m", "jobs.infer_traces", config, "--dry-run"]
        done = subprocess.run(job, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus) -> set[tuple]:
    """What a run over the corpus accepts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert infer_traces.main([write_config(folder, corpus, str(folder / "run"))]) == 0
    return accepted_set(check_run(str(folder / "run"), corpus))


def run_on_its_own_ray(config: str, log: Path, *more: str, job: str = "infer_traces", timeout_s: float = 60) -> int:
    # Ended, with its message, within a minute; or complete: a hundred units take seconds.
    command = [sys.executable, "-m", f"jobs.{job}", config, "--cluster.address=local", "--cluster.num_cpus=2"]
    with log.open("wb") as file:
        return subprocess.run(
            [*command, *more], stdout=file, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
        ).returncode


@pytest.mark.chaos
def test_a_job_whose_disk_fills_up_says_so_and_goes_on(tmp_path, corpus, undisturbed, small_disk):
    run, log = str(small_disk / "run"), tmp_path / "log"
    ballast = fill(small_disk, 48 << 10)
    config = write_config(tmp_path, corpus, run, latency_s=0.1)
    assert run_on_its_own_ray(config, log) == STOPPED_EARLY_STATUS, log.read_text()
    told = log.read_text()
    assert "No space left on device" in told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    ballast.unlink()
    assert run_on_its_own_ray(config, log) == 0, log.read_text()
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_a_job_whose_log_is_full_works_on(tmp_path, corpus, undisturbed):
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run, latency_s=0.02)
    with open("/dev/full", "wb") as full, (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-m", "jobs.infer_traces", config, "--cluster.address=local"]
        command += ["--cluster.num_cpus=2", "--limits.max_seconds=1"]
        subprocess.run(command, stdout=out, stderr=full, timeout=60, check=False)
        # It was ended early, which nobody could be told but by its state.
        states = RunFolder(Folder(run)).read_states().values()
        assert [state["state"] for state in states] == ["limits.max_seconds reached (1 s)"]
        subprocess.run(command[:-1], stdout=out, stderr=full, timeout=60, check=False)
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_an_object_store_of_80_mb_is_enough(tmp_path, corpus, undisturbed):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=0.02)
    assert run_on_its_own_ray(config, log, SMALL_STORE) == 0, log.read_text()
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_training_needs_no_more_than_an_object_store_of_80_mb(tmp_path, word_runs, undisturbed_training):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    config = word_runs.write_config(tmp_path, run)
    assert run_on_its_own_ray(config, log, SMALL_STORE, job="train_rater", timeout_s=200) == 0, log.read_text()
    assert read_losses(run) == pytest.approx(read_losses(undisturbed_training, 6), abs=1e-4)


@pytest.mark.chaos
def test_refining_needs_no_more_than_an_object_store_of_80_mb(tmp_path, ray_session):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    labels = prepare_labels(tmp_path, str(tmp_path / "corpus"))
    traces = make_traces(tmp_path, labels, str(tmp_path / "traces"))
    config = write_refine_config(tmp_path, labels, traces, run, generator={"qualities": [0.9]})
    assert run_on_its_own_ray(config, log, SMALL_STORE, job="refine_guideline", timeout_s=200) == 0, log.read_text()
    assert Folder(run).read_json("refinement.json")["is_replaced"]


@pytest.mark.chaos
def test_a_full_disk_under_rays_logs_and_spills_ends_or_ends_well_but_never_hangs(
    tmp_path, corpus, undisturbed, small_disk
):
    """Ray keeps logs, sockets and spilled objects in its temporary folder; the jobs keep nothing there."""
    run, log = str(tmp_path / "run"), tmp_path / "log"
    fill(small_disk, 256 << 10)
    config = write_config(tmp_path, corpus, run, latency_s=0.02)
    began = time.monotonic()
    status = run_on_its_own_ray(config, log, f"--cluster.temp_dir={small_disk}/ray")
    print(f"Ray's folder full: exit status {status} after {time.monotonic() - began:.0f} s: {log.read_text()[-500:]}")
    if status == 0:
        check_run(run, corpus, undisturbed)
    else:
        assert "No space left on device" in log.read_text()


@pytest.mark.chaos
def test_a_job_whose_cpus_others_hold_says_so_within_a_minute_and_goes_on_when_they_are_free(
    tmp_path, corpus, undisturbed, ray_session, held_cpus
):
    run, log = str(tmp_path / "run"), tmp_path / "log"
    config = write_config(tmp_path, corpus, run)
    with started_job(config, ray_session, log) as job:
        wait_until("a driver", lambda: Folder(f"{run}/drivers").list_files())
        began = time.monotonic()
        wait_until("a message", lambda: "infer_traces has not moved for" in log.read_text(), 70)
        print(f"told after {time.monotonic() - began:.0f} s")
        assert time.monotonic() - began < 60
        assert "a worker needs 0.5 CPU; free now: " in log.read_text()
        held_cpus()
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, corpus, undisturbed)
