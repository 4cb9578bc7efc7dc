"""Tell a worker what its crashed predecessor on this node had in flight.

A worker whose engine dies says itself what was in flight; one whose own process crashes can't. So it keeps a small file
on the node's disk, a line for every draw that begins or ends, and its successor reads it, if there is evidence that the
process died of its own doing: the stack that faulthandler writes at a crash, a guard that found its loop standing
still, or a kernel that had to kill for want of memory meanwhile. A process that was killed from outside leaves no
evidence, and nothing it had in flight is suspected by this file; where that happens again and again over one shard,
the driver does (shard_deaths.py). The file is an aid: where the disk takes none, work goes on.

    FOLDER/4711-99812.flight    by process id and start time
    FOLDER/4711-99812.crash     empty, or the stack of a crash, or why the process was killed
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from judgetrace.console import say
from judgetrace.process_exit import count_memory_kills
from judgetrace.scheduler import Suspicion
from judgetrace.schema import UnitKey

REWRITE_AT_BYTES = 2**20


def flights_folder(run: str, driver: int) -> Path:
    """Name the folder of one driver's workers on this node: those of an earlier driver were ended with it."""
    name = hashlib.blake2b(f"{run}\x1f{driver}".encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"judgetrace-{os.getuid()}" / name


def started_at(pid: int) -> str | None:
    """Return a process's start time, in clock ticks since boot; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


@dataclass(frozen=True)
class Crash:
    """What a process had in flight when it died of its own doing."""

    death: str
    """Which death it was."""
    lost_draws: dict[UnitKey, dict[int, float]]
    """By unit and index, for how many seconds."""
    alone: Suspicion | None
    """Why the one unit that was in flight was alone; null where it was not."""


def read_crashes(folder: Path) -> list[Crash]:
    """Read what crashed workers had in flight.

    What accuses somebody stays: of two workers that crashed at once either's successor may read first.
    """
    found = []
    for file in folder.glob("*.flight"):
        pid, _, ticks = file.stem.partition("-")
        if started_at(int(pid)) == ticks:
            continue
        try:
            # The last line may be half a line.
            *lines, _ = file.read_text().split("\n")
            died_at = _find_evidence(file.with_suffix(".crash"), lines)
            if died_at is not None:
                found.append(_read_crash(file.stem, lines[1:], died_at))
                continue
        except FileNotFoundError:
            # Another worker that starts has just removed it.
            continue
        for each in (file, file.with_suffix(".crash")):
            each.unlink(missing_ok=True)
    return found


def _find_evidence(crash: Path, lines: list[str]) -> float | None:
    """Return when a process died of its own doing; None where nothing says so.

    Where that is told by a count that goes on, it is written down.
    """
    if not crash.stat().st_size and lines and count_memory_kills() > json.loads(lines[0])["memory_kills"]:
        try:
            crash.write_text("killed while the node ran out of memory\n")
        except OSError as error:
            warn_unnoted(error)
            return time.time()
    about = crash.stat()
    return about.st_mtime if about.st_size else None


def _read_crash(death: str, lines: list[str], died_at: float) -> Crash:
    flying: dict[tuple[UnitKey, int], list[Any]] = {}
    for line in lines:
        item_id, dimension, source, index, *begun = json.loads(line)
        flying.pop(((item_id, dimension, source), index), None)
        if begun:
            flying[(item_id, dimension, source), index] = begun
    lost: dict[UnitKey, dict[int, float]] = {}
    alone = None
    for (key, index), (began, suspicion) in flying.items():
        lost.setdefault(key, {})[index] = max(0.0, died_at - began)
        alone = alone if suspicion is None else Suspicion(*suspicion)
    return Crash(death, lost, alone)


def start_recorder(folder: Path) -> FlightRecorder | None:
    """Start this process's file; None where the disk takes none."""
    try:
        return FlightRecorder(folder)
    except OSError as error:
        warn_unnoted(error)
        return None


def warn_unnoted(error: OSError) -> None:
    """Say that a crash of this process would name nobody: that takes more deaths (shard_deaths.py)."""
    say(f"draws in flight are not noted: {error}; a row that crashes this process is found late")


class FlightRecorder:
    """Keeps this process's file. Not for use by two threads at once."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._is_on = True
        self._path = folder / f"{os.getpid()}-{started_at(os.getpid())}.flight"
        self.evidence = self._path.with_suffix(".crash")
        """Who ends this process for its own doing writes why into this file."""
        self._crash = self.evidence.open("w")
        faulthandler.enable(self._crash, all_threads=False)
        self._header = json.dumps({"memory_kills": count_memory_kills()}) + "\n"
        self._flying: dict[tuple[UnitKey, int], str] = {}
        self._rewrite()

    def begin(self, key: UnitKey, index: int, suspicion: Suspicion | None) -> None:
        """Note that a draw of a unit begins, and why it is alone, if it is."""
        line = json.dumps([*key, index, time.time(), None if suspicion is None else astuple(suspicion)]) + "\n"
        self._flying[key, index] = line
        self._note(line)

    def end(self, key: UnitKey, index: int) -> None:
        """Note that a draw of a unit has ended, or never began."""
        self._flying.pop((key, index), None)
        self._note(json.dumps([*key, index]) + "\n")

    def close(self) -> None:
        """Remove the file: whatever is in flight has been told of otherwise."""
        self._path.unlink(missing_ok=True)

    def _note(self, line: str) -> None:
        if not self._is_on:
            return
        try:
            self._write(line)
        except OSError as error:
            self._is_on = False
            self._path.unlink(missing_ok=True)
            warn_unnoted(error)

    def _write(self, line: str) -> None:
        # The page cache outlives the process; only the machine's own end needs more, and then nobody reads it.
        self._size += os.write(self._file, line.encode())
        if self._size > REWRITE_AT_BYTES:
            os.close(self._file)
            self._rewrite()

    def _rewrite(self) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(self._header + "".join(self._flying.values()))
        os.replace(temporary, self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._size = 0
