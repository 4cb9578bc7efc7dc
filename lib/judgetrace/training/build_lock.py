"""Wait for compilations of DeepSpeed's extensions, but not for a lock that a killed one left behind.

torch waits for such a lock without an end. The files in cluster/deepspeed compile nothing; others may.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STALE_AFTER_S = 300.0
"""A compilation takes half a minute; a lock this old belongs to nobody."""


LEFT_OUT = "deepspeed_shm_comm"
"""DeepSpeed's all-reduce on CPUs, which it compiles in any process group: its inference alone calls it."""


def list_extensions() -> list[str]:
    """List the names of what DeepSpeed compiles for this machine, which are those of the folders in torch's root."""
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    return sorted({builder.name for builder in ALL_OPS.values()} - {LEFT_OUT})


class StaleBuildLockError(RuntimeError):
    """A compiled extension's lock is older than any compilation."""


def extensions_root() -> Path:
    """Return where torch keeps the extensions it compiles."""
    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def wait_for_build_locks(
    root: Path,
    extensions: Sequence[str],
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until none of these extensions is locked.

    Raises StaleBuildLockError where one is locked for longer than it takes to compile.
    """
    while locks := [lock for lock in sorted(root.glob("**/lock")) if lock.parent.name in extensions]:
        check_build_locks(locks, now())
        sleep(1.0)


def check_build_locks(locks: list[Path], moment: float) -> None:
    """Raise StaleBuildLockError where a lock is too old, `moment` being in seconds since the epoch."""
    for lock in locks:
        try:
            age = moment - lock.stat().st_mtime
        except FileNotFoundError:
            continue  # the compilation ended just now
        if age > STALE_AFTER_S:
            raise StaleBuildLockError(
                f"{lock}: this lock is {age / 60:.0f} minutes old; a compilation of DeepSpeed's extension was killed "
                f"and left it behind, and every worker would wait for it\nDelete the folder {lock.parent} on this "
                "machine, and run the same command again."
            )
