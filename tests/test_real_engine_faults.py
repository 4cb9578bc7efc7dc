"""vLLM's engine core, stopped and killed for real, while it works for infer_traces."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from judgetrace.ledger import ShardLedger
from judgetrace.products import TRACE_PRODUCT
from judgetrace.storage import Folder
from judgetrace.suspects import find_suspects
from tests.oracle import check_run
from tests.test_job_faults import started_job, wait_until
from tests.test_job_real_engine import ENGINE, NUM_UNITS, ROOT, num_committed, our_processes

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def wait_for_core(others: set[int]) -> psutil.Process:
    wait_until("a new engine core", lambda: [p for p in our_processes(ENGINE) if p.pid not in others], 120)
    return next(p for p in our_processes(ENGINE) if p.pid not in others)


def wait_for_commits(run: Path, more_than: int) -> int:
    wait_until("more committed units", lambda: num_committed(run) > more_than, 120)
    return num_committed(run)


def suspects_of(run: Path) -> dict:
    ledger = ShardLedger(Folder(str(run)), 0, TRACE_PRODUCT)
    ledger.refresh()
    return find_suspects(ledger.latest())


def check(run: Path, demo: Path, num_units: int) -> None:
    rows = check_run(str(run), str(demo / "study/prepare"), is_complete=False)
    assert len(rows) == num_units
    assert {row["outcome"] for row in rows} <= {"accepted", "exhausted"}


def test_a_stopped_engine_core_is_replaced_within_thirty_seconds_and_its_process_ends(demo, ray_session, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    config = [str(demo / "traces.toml"), ray_session, log]
    with started_job(*config, f"--run={run}") as job:
        core = wait_for_core(set())
        wait_for_commits(run, 0)
        core.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_until("the stopped core's end", lambda: not core.is_running() or core.status() == "zombie", 45)
        took_s = time.monotonic() - stopped_at
        successor = wait_for_core({core.pid})
        assert suspects_of(run)
        assert job.wait(timeout=400) == 0, log.read_text()[-3000:]
    print(f"stopped core {core.pid} ended after {took_s:.1f} s, replaced by {successor.pid}")
    # Thirty seconds of silence; the last commit and the reaper's next look are a second or two.
    assert took_s < 34
    check(run, demo, NUM_UNITS)


def test_an_engine_core_killed_at_random_moments_makes_no_suspects_and_loses_nothing(demo, ray_session, tmp_path):
    run, log, choice = tmp_path / "run", tmp_path / "log", random.Random(1)
    num_units, killed = 3 * NUM_UNITS, set()
    with started_job(str(demo / "traces.toml"), ray_session, log, f"--run={run}", f"--limit={num_units}") as job:
        for _ in range(4):
            core = wait_for_core(killed)
            wait_for_commits(run, num_committed(run))
            time.sleep(choice.uniform(0, 3))
            assert job.poll() is None, "the job ended too early"
            os.kill(core.pid, signal.SIGKILL)
            killed.add(core.pid)
        wait_for_core(killed)
        assert not suspects_of(run)
        assert job.wait(timeout=400) == 0, log.read_text()[-3000:]
    check(run, demo, num_units)


def test_a_long_prefill_is_not_taken_for_silence(demo):
    model = ROOT / ".cache/judgetrace/smollm2-135m"
    command = [sys.executable, "-m", "tests.beat_probe", str(model), "64", "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["silences"] == []
    assert found["longest_gap_s"] < 30
