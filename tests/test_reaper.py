"""No engine outlives its worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import os, subprocess, sys, time
from judgetrace.reaper import reaping_new_children
before = subprocess.Popen(["sleep", "60"])
with reaping_new_children():
    if sys.argv[1] == "fork":
        child = os.fork()
        if child == 0:
            grandchild = subprocess.Popen(["sleep", "60"])
            time.sleep(60)
    else:
        child = subprocess.Popen(["sleep", "60"]).pid
    print(before.pid, child, flush=True)
    if sys.argv[2] == "starting":
        time.sleep(60)
print("up", flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["fork", "spawn"])
@pytest.mark.parametrize("moment", ["starting", "up"])
def test_processes_born_while_an_engine_starts_die_with_the_worker_and_no_others(kind, moment):
    command = [sys.executable, "-c", WORKER, kind, moment]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    before, child = (int(pid) for pid in worker.stdout.readline().split())
    if moment == "up":
        assert worker.stdout.readline() == "up\n"
    else:
        time.sleep(1.5)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline, "the child outlived its worker"
        time.sleep(0.05)
    assert is_alive(before)
    os.kill(before, signal.SIGKILL)
