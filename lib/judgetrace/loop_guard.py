"""Kill this process when its event loop stands still: a worker that is stopped or deadlocked can't end itself.

A small process hears a beat from the loop every second. Time in which the small process itself stood still (a suspended
machine) does not count.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

BEAT_EVERY_S = 1.0

# It watches its parent rather than the end of the pipe: a forked engine inherits the pipe's other end.
_PROGRAM = """
import os, select, signal, sys, time
parent, limit_s, silent_s, looked_at = int(sys.argv[1]), float(sys.argv[2]), 0.0, time.monotonic()
while os.getppid() == parent:
    heard = select.select([0], [], [], 0.5)[0]
    if heard and not os.read(0, 65536):
        break
    now = time.monotonic()
    silent_s = 0.0 if heard else silent_s + min(now - looked_at, 1.0)
    looked_at = now
    if silent_s + 0.5 > limit_s:
        os.kill(parent, signal.SIGKILL)
        break
"""


def guard_loop(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    """Have this process killed once `loop` has stood still for so many seconds. May be called from any thread."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(os.getpid()), str(limit_s)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    asyncio.run_coroutine_threadsafe(_beat(guard), loop)


async def _beat(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    while guard.poll() is None:
        try:
            os.write(guard.stdin.fileno(), b".")
        except BrokenPipeError:
            return
        await asyncio.sleep(BEAT_EVERY_S)
