"""Notice a lock that a killed compilation of DeepSpeed's extensions left behind: everyone after would wait for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

STALE_AFTER_S = 600.0
"""A compilation takes half a minute; a lock this old belongs to nobody."""


class StaleBuildLockError(RuntimeError):
    """A compiled extension's lock is older than any compilation."""


def extensions_root() -> Path:
    """Return where torch keeps the extensions it compiles."""
    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def check_build_locks(root: Path, now: float | None = None) -> None:
    """Raise StaleBuildLockError where an extension of DeepSpeed's is locked for longer than it takes to compile."""
    moment = time.time() if now is None else now
    for lock in sorted(root.glob("**/deepspeed_*/lock")):
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
