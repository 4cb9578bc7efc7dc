"""Tell whether processes were killed from outside (an operator, a spot machine, a test) or died of their own doing.

Where the kernel has killed for want of memory meanwhile, a SIGKILL says nothing: what ran may be the reason.
Source: proc(5), /proc/vmstat `oom_kill`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM})


def count_memory_kills() -> int:
    """Count the processes that this machine's kernel has killed for want of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def were_killed_from_outside(exit_codes: Iterable[int | None], memory_kills: int) -> bool:
    """Whether every process that ended was ended by a signal that no crash sends.

    `exit_codes` as subprocess gives them: -9 is SIGKILL, null is still running. `memory_kills` is how many the kernel
    has killed since the processes started.
    """
    ended = [code for code in exit_codes if code is not None]
    return bool(ended) and not memory_kills and all(-code in OUTSIDE_SIGNALS for code in ended)
