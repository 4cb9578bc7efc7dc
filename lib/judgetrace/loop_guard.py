"""Kill this process when its event loop stands still, or a block takes too long.

A worker that is stopped or deadlocked can't end itself. A small process hears a beat from the loop every second; of a
block it hears none. Time in which the small process itself stood still (a suspended machine) does not count, nor time
in which a thread of the worker waited for a CPU: where many workers start at once, a loop may stand still for long, and
to start them again would make it worse. A stopped or deadlocked one waits for none.

Source of the latter: Linux, Documentation/scheduler/sched-stats.rst (/proc/PID/task/TID/schedstat: nanoseconds on a
CPU, nanoseconds waited for one, time slices).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOOD_STILL = "its loop stood still"
STARVED_AT_MOST = 10
"""After so many times the limit a silent loop is ended whatever its threads wait for: others of them than the loop's
may be what is starved."""
BEAT_EVERY_S = 1.0

# It watches its parent rather than the end of the pipe: a forked engine inherits the pipe's other end.
_PROGRAM = """
import glob, os, select, signal, sys, time

def read_waits(tasks):
    waits = {}
    for name in glob.glob(f"{tasks}/*/schedstat"):
        try:
            with open(name) as file:
                waits[name] = int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            pass  # the thread has ended meanwhile, or the kernel keeps no such figures
    return waits

parent, limit_s, silent_s, looked_at = int(sys.argv[1]), float(sys.argv[2]), 0.0, time.monotonic()
tasks, before, evidence, told = f"/proc/{parent}/task", {}, sys.argv[3], sys.argv[4]
heard_at, longest_s = looked_at, limit_s * float(sys.argv[5])
while os.getppid() == parent:
    heard = select.select([0], [], [], 0.5)[0]
    if heard and not os.read(0, 65536):
        break
    now = time.monotonic()
    # A worker whose beats come in time has its many threads left alone.
    waits = read_waits(tasks) if silent_s > 1 else {}
    starved_s = max((waited - before.get(name, waited) for name, waited in waits.items()), default=0.0)
    silent_s = 0.0 if heard else max(0.0, silent_s + min(now - looked_at, 1.0) - starved_s)
    looked_at, before, heard_at = now, waits, now if heard else heard_at
    stands_still = silent_s + 0.5 > limit_s
    if stands_still or (silent_s > 1 and now - heard_at > longest_s):
        # What is starved has done nothing: no unit is to be suspected for it.
        if evidence and stands_still:
            try:
                with open(evidence, "a") as file:
                    file.write(told)
            except OSError:
                pass  # a full disk saves nobody
        os.kill(parent, signal.SIGKILL)
        break
"""


def guard_loop(loop: asyncio.AbstractEventLoop, limit_s: float, evidence: Path | None = None) -> None:
    """Have this process killed once `loop` has stood still for so many seconds. May be called from any thread.

    `evidence` is a file that says so afterwards, for who asks why the process died; of a starved one it says nothing.
    """
    asyncio.run_coroutine_threadsafe(_beat(_start_guard(limit_s, evidence)), loop)


@contextmanager
def guard_block(limit_s: float) -> Iterator[None]:
    """Have this process killed where the block takes more than so many seconds, but for those it waits for a CPU."""
    guard = _start_guard(limit_s, None)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def _start_guard(limit_s: float, evidence: Path | None) -> subprocess.Popen[bytes]:
    """Start the small process, which kills this one when it has heard no beat for so many seconds."""
    told = [str(evidence or ""), f"{STOOD_STILL}\n", str(STARVED_AT_MOST)]
    command = [sys.executable, "-S", "-c", _PROGRAM, str(os.getpid()), str(limit_s), *told]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


async def _beat(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    while guard.poll() is None:
        try:
            os.write(guard.stdin.fileno(), b".")
        except BrokenPipeError:
            return
        await asyncio.sleep(BEAT_EVERY_S)
