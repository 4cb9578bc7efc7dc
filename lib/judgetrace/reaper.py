"""See to it that an engine's processes die with the worker that started them, however it dies.

vLLM's engine core outlives a worker that is killed with SIGKILL, and would hold its GPU or cores for ever. A small
process of its own session reads a pipe that only the worker holds open: its end means that the worker is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = """
import os, signal, sys
sys.stdin.buffer.read()
for entry in sys.argv[1:]:
    pid, started = entry.split(":")
    try:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[19] == started:
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""


def child_processes() -> list[int]:
    """List the process ids of all descendants of this process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(int(_stat_fields(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    found, todo = [], [os.getpid()]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _stat_fields(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat that follow the command: state, parent, ... start time at 19."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def reap_with_this_process(pids: Sequence[int]) -> subprocess.Popen[bytes]:
    """Have processes killed once this one has ended; they are told from later ones of the same id by start time."""
    entries = []
    for pid in pids:
        try:
            entries.append(f"{pid}:{_stat_fields(pid)[19]}")
        except OSError:
            continue
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _PROGRAM, *entries], stdin=subprocess.PIPE, start_new_session=True
    )
