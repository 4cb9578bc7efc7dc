"""A process whose event loop stands still is killed, and no other."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.test_reaper import is_alive

WORKER = """
import asyncio, sys, threading, time
from pathlib import Path
from judgetrace import loop_guard
from judgetrace.loop_guard import guard_loop
loop_guard.STARVED_AT_MOST = float(sys.argv[2]) if sys.argv[2:] else 10
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
guard_loop(loop, 3.0, Path(sys.argv[1]) if sys.argv[1:] else None)
time.sleep(1.0)
print("up", flush=True)
{then}
"""


def start(then: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER.format(then=then), *arguments]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "up\n"
    return worker


@pytest.mark.parametrize("then", ["time.sleep(60)", "loop.call_soon_threadsafe(time.sleep, 60); time.sleep(60)"])
def test_a_process_that_is_stopped_or_whose_loop_is_blocked_is_killed_in_time_and_leaves_a_word(then, tmp_path):
    worker = start(then, str(tmp_path / "crash"))
    if then == "time.sleep(60)":
        worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert worker.wait(timeout=20) == -signal.SIGKILL
    assert time.monotonic() - began < 5
    assert (tmp_path / "crash").read_text() == "its loop stood still\n"


def test_a_process_whose_main_thread_is_busy_lives():
    worker = start("time.sleep(6); print('done', flush=True)")
    assert worker.stdout.readline() == "done\n"
    assert worker.wait(timeout=20) == 0


STARVED = """
import os
def turn():
    os.sched_setaffinity(0, {{{cpu}}})
    os.nice(10)
    ends = time.monotonic() + {turn_s}
    while time.monotonic() < ends:
        pass
    print("turned", flush=True)
loop.call_soon_threadsafe(turn)
time.sleep(60)
"""
"""A loop whose turn takes 6 s on a CPU that it hardly gets. On Linux both calls are about the calling thread alone."""


def test_a_loop_that_waits_for_a_cpu_is_not_one_that_stands_still():
    cpu = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(4)]
    try:
        worker = start(STARVED.format(cpu=cpu, turn_s=6))
        # The guard lets a loop stand still for 3 s: of these 6 it has a CPU for 1.2 at most, the fifth part of one.
        assert worker.stdout.readline() == "turned\n"
        assert worker.poll() is None
        worker.kill()
        worker.wait()
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_loop_that_is_starved_for_too_long_is_ended_and_nothing_suspected(tmp_path):
    cpu = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(4)]
    try:
        # After 1.2 times the limit of 3 s, of which it stood still for the fifth part at most.
        worker = start(STARVED.format(cpu=cpu, turn_s=60), str(tmp_path / "crash"), "1.2")
        assert worker.wait(timeout=40) == -signal.SIGKILL
        assert not (tmp_path / "crash").exists()
    finally:
        for other in others:
            other.kill()
            other.wait()


LOADER = """
import sys, time
from judgetrace import engine_loop
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.parsing import ThinkingConfig

def load_engine(spec):
    print("loading", flush=True)
    time.sleep(float(sys.argv[1]))

engine_loop.load_engine = load_engine
engine_loop.load_thinking_engine(ModelConfig(path="none"), EngineConfig(start_s=5.0), None, ThinkingConfig(), {})
time.sleep(5.0)
print("alive", flush=True)
"""


@pytest.mark.parametrize(("load_s", "told", "status"), [("3", "alive\n", 0), ("60", "", -signal.SIGKILL)])
def test_a_process_whose_engine_hangs_in_its_start_is_killed_and_one_that_is_in_time_is_left_alone(
    load_s, told, status
):
    loader = subprocess.Popen([sys.executable, "-c", LOADER, load_s], stdout=subprocess.PIPE, text=True)
    assert loader.stdout.readline() == "loading\n"
    began = time.monotonic()
    assert loader.stdout.read() == told
    assert loader.wait(timeout=20) == status
    assert time.monotonic() - began < 20


def test_the_guard_ends_with_its_process():
    worker = start("time.sleep(60)")
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(worker.pid)], capture_output=True, text=True, check=True)
    (guard,) = (int(line) for line in found.stdout.split())
    worker.kill()
    worker.wait()
    deadline = time.monotonic() + 10
    while is_alive(guard):
        assert time.monotonic() < deadline
        time.sleep(0.1)
