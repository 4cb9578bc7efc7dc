"""Tell a worker what its crashed predecessor on this node had in flight.

A worker whose engine dies says itself what was in flight; one whose own process crashes can't. So it keeps a small file
on the node's disk, a line for every draw that begins or ends, and its successor reads it, if there is evidence that the
process died of its own doing: the stack that faulthandler writes at a crash, a guard that found its loop standing
still, or a kernel that had to kill for want of memory meanwhile. A process that was killed from outside leaves no
evidence, and nothing it had in flight is suspected. The file is an aid: where the disk takes none, work goes on.

    FOLDER/4711-99812.flight    by process id and start time
    FOLDER/4711-99812.crash     empty, or the stack of a crash, or why the process was killed
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from judgetrace.process_exit import count_memory_kills
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


def read_crashes(folder: Path) -> dict[UnitKey, bool]:
    """Read what crashed workers had in flight: the units, and whether one was there alone.

    What accuses somebody stays: of two workers that crashed at once either's successor may read first, and a unit that
    is accused again of the same death is no worse off.
    """
    found: dict[UnitKey, bool] = {}
    for file in folder.glob("*.flight"):
        pid, _, ticks = file.stem.partition("-")
        if started_at(int(pid)) == ticks:
            continue
        try:
            lines = file.read_text().splitlines()
            if _has_evidence(file, lines):
                for key, is_alone in _in_flight(lines[1:]).items():
                    found[key] = found.get(key, False) or is_alone
                continue
        except FileNotFoundError:
            # Another worker that starts has just removed it.
            continue
        for each in (file, file.with_suffix(".crash")):
            each.unlink(missing_ok=True)
    return found


def _has_evidence(file: Path, lines: list[str]) -> bool:
    """Whether a process died of its own doing. Where that is told by a count that goes on, it is written down."""
    crash = file.with_suffix(".crash")
    if not crash.stat().st_size and lines and count_memory_kills() > json.loads(lines[0])["memory_kills"]:
        crash.write_text("killed while the node ran out of memory\n")
    return crash.stat().st_size > 0


def _in_flight(lines: list[str]) -> dict[UnitKey, bool]:
    counts: Counter[UnitKey] = Counter()
    alone: dict[UnitKey, bool] = {}
    for line in lines:
        # The last line may be half a line.
        if line.endswith("]"):
            change, item_id, dimension, source, is_alone = json.loads(line)
            counts[item_id, dimension, source] += change
            alone[item_id, dimension, source] = is_alone
    return {key: alone[key] for key, count in counts.items() if count > 0}


def start_recorder(folder: Path) -> FlightRecorder | None:
    """Start this process's file; None where the disk takes none."""
    try:
        return FlightRecorder(folder)
    except OSError as error:
        warn_unnoted(error)
        return None


def warn_unnoted(error: OSError) -> None:
    """Say that a crash of this process would name nobody."""
    print(f"draws in flight are not noted: {error}; a row that crashes this process stays unknown", file=sys.stderr)


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
        self._flying: Counter[tuple[UnitKey, bool]] = Counter()
        self._rewrite()

    def begin(self, key: UnitKey, is_alone: bool) -> None:
        """Note that a draw of a unit begins."""
        self._flying[key, is_alone] += 1
        self._note(1, key, is_alone)

    def end(self, key: UnitKey, is_alone: bool) -> None:
        """Note that a draw of a unit has ended."""
        self._flying[key, is_alone] -= 1
        self._note(-1, key, is_alone)

    def close(self) -> None:
        """Remove the file: whatever is in flight has been told of otherwise."""
        self._path.unlink(missing_ok=True)

    def _note(self, change: int, key: UnitKey, is_alone: bool) -> None:
        if not self._is_on:
            return
        try:
            self._write(change, key, is_alone)
        except OSError as error:
            self._is_on = False
            self._path.unlink(missing_ok=True)
            warn_unnoted(error)

    def _write(self, change: int, key: UnitKey, is_alone: bool) -> None:
        # The page cache outlives the process; only the machine's own end needs more, and then nobody reads it.
        self._size += os.write(self._file, (json.dumps([change, *key, is_alone]) + "\n").encode())
        if self._size > REWRITE_AT_BYTES:
            os.close(self._file)
            self._rewrite()

    def _rewrite(self) -> None:
        self._flying = +self._flying
        lines = [json.dumps([n, *key, is_alone]) + "\n" for (key, is_alone), n in self._flying.items()]
        temporary = self._path.with_suffix(".new")
        temporary.write_text(self._header + "".join(lines))
        os.replace(temporary, self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._size = 0
