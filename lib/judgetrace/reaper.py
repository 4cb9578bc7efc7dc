"""See to it that an engine's processes die with the worker that started them, however it dies.

vLLM's engine core outlives a worker that is killed with SIGKILL, and would hold its GPU or cores for ever. A small
process of its own session learns of them by a pipe, and kills them when the worker is no longer its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# It watches its parent rather than the end of the pipe: a forked engine inherits the pipe's other end.
_PROGRAM = """
import os, select, signal, sys
parent, named = int(sys.argv[1]), b""
while os.getppid() == parent:
    if select.select([0], [], [], 0.5)[0]:
        more = os.read(0, 65536)
        if not more:
            break
        named += more
os.set_blocking(0, False)
try:
    named += os.read(0, 65536) or b""
except OSError:
    pass
for entry in named.decode().split():
    pid, started = entry.split(":")
    try:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[19] == started:
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
LOOK_EVERY_S = 0.5


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


@contextmanager
def reaping_new_children() -> Iterator[None]:
    """Have every process that is born below this one during the block killed once this one has ended.

    They are named to the reaper while they come, so that a worker killed while its engine starts leaves none behind.
    """
    others = set(child_processes())
    command = [sys.executable, "-S", "-c", _PROGRAM, str(os.getpid())]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    named = others | {reaper.pid}
    started = threading.Event()

    def name_new_children() -> None:
        while True:
            is_last = started.wait(LOOK_EVERY_S)
            for pid in set(child_processes()) - named:
                _name_child(reaper, pid)
                named.add(pid)
            if is_last:
                return

    thread = threading.Thread(target=name_new_children, name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        started.set()
        thread.join()
        _open_pipes.append(reaper)


_open_pipes: list[subprocess.Popen[bytes]] = []
"""Kept open as long as this process lives: a closed pipe tells a reaper to end as well."""


def _name_child(reaper: subprocess.Popen[bytes], pid: int) -> None:
    """Name a process with its start time, by which it is told from a later one of the same id."""
    assert reaper.stdin is not None
    try:
        reaper.stdin.write(f"{pid}:{_stat_fields(pid)[19]}\n".encode())
        reaper.stdin.flush()
    except OSError:
        return
