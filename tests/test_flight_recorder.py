"""What a crashed process leaves to its successor. The processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from judgetrace import flight_recorder
from judgetrace.flight_recorder import FlightRecorder, flights_folder, read_crashes, start_recorder
from judgetrace.scheduler import Suspicion

FLIER = """
import os, sys, time
from pathlib import Path
from judgetrace.flight_recorder import FlightRecorder
recorder = FlightRecorder(Path(sys.argv[1]))
recorder.begin(("ended", "", "aggregate"), 0, None)
recorder.begin(("twice", "", "aggregate"), 0, None)
recorder.begin(("twice", "", "aggregate"), 1, None)
recorder.end(("ended", "", "aggregate"), 0)
recorder.end(("twice", "", "aggregate"), 0)
recorder.begin(("\\udc80 odd]\\n", "d", "ann"), 7, None)
print("up", flush=True)
exec(sys.argv[2])
"""
LEFT = {("twice", "", "aggregate"): [1], ("\udc80 odd]\n", "d", "ann"): [7]}


def lost_in(folder: Path) -> dict:
    (crash,) = read_crashes(folder)
    assert crash.alone is None
    assert all(0 <= seconds < 60 for draws in crash.lost_draws.values() for seconds in draws.values())
    return {key: list(draws) for key, draws in crash.lost_draws.items()}


def fly(folder: Path, end: str) -> None:
    flier = subprocess.Popen(
        [sys.executable, "-c", FLIER, str(folder), end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert flier.stdout.readline() == "up\n"
    if end == "time.sleep(60)":
        assert read_crashes(folder) == []
        flier.send_signal(signal.SIGKILL)
    flier.wait()


@pytest.mark.parametrize("end", ["os.abort()", "import ctypes; ctypes.string_at(0)"])
def test_a_crash_tells_every_successor_what_was_in_flight(tmp_path, end):
    """Of two that crashed at once, either's successor may come first."""
    fly(tmp_path, end)
    assert lost_in(tmp_path) == LEFT
    assert lost_in(tmp_path) == LEFT


def test_a_crash_tells_why_its_unit_was_alone_and_for_how_long_it_was_in_flight(tmp_path):
    for suspicion in (None, Suspicion("1-1", 3, 2.5)):
        program = (
            "import os, sys, time; from pathlib import Path; from judgetrace.flight_recorder import FlightRecorder; "
            "from judgetrace.scheduler import Suspicion; "
            f"FlightRecorder(Path({str(tmp_path)!r})).begin(('a', '', ''), 2, {suspicion!r}); time.sleep(1); os.abort()"
        )
        subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    crashes = read_crashes(tmp_path)
    assert {crash.alone for crash in crashes} == {None, Suspicion("1-1", 3, 2.5)}
    assert len({crash.death for crash in crashes}) == 2
    for crash in crashes:
        assert list(crash.lost_draws) == [("a", "", "")]
        # Files have the time of the last tick.
        assert 0.9 < crash.lost_draws["a", "", ""][2] < 20


@pytest.mark.parametrize("half", ['["half", "", "a", 3', '["half]'])
def test_half_a_line_is_no_line(tmp_path, half):
    fly(tmp_path, f"os.write(recorder._file, {half.encode()!r}); os.abort()")
    assert lost_in(tmp_path) == LEFT


@pytest.mark.parametrize("end", ["time.sleep(60)", "os._exit(1)", "recorder.close(); os.abort()"])
def test_what_was_killed_from_outside_or_told_of_it_otherwise_accuses_nobody(tmp_path, end):
    fly(tmp_path, end)
    assert read_crashes(tmp_path) == []
    assert not list(tmp_path.glob("*.flight"))


def test_a_kill_while_memory_ran_out_is_a_crash(tmp_path, monkeypatch):
    fly(tmp_path, "os.kill(os.getpid(), 9)")
    before = flight_recorder.count_memory_kills()
    monkeypatch.setattr(flight_recorder, "count_memory_kills", lambda: before + 1)
    assert lost_in(tmp_path) == LEFT
    monkeypatch.undo()
    assert lost_in(tmp_path) == LEFT


def test_a_kill_for_want_of_memory_is_known_though_it_can_not_be_written_down(tmp_path, monkeypatch, capsys):
    fly(tmp_path, "os.kill(os.getpid(), 9)")
    before = flight_recorder.count_memory_kills()
    monkeypatch.setattr(flight_recorder, "count_memory_kills", lambda: before + 1)

    def refuse(path: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert lost_in(tmp_path) == LEFT
    assert "No space left on device" in capsys.readouterr().err


def test_a_long_flight_keeps_its_file_small(tmp_path, monkeypatch):
    monkeypatch.setattr(flight_recorder, "REWRITE_AT_BYTES", 2000)
    monkeypatch.setattr(flight_recorder.faulthandler, "enable", lambda *_, **__: None)
    recorder = FlightRecorder(tmp_path)
    recorder.begin(("stays", "", "a"), 0, None)
    for n in range(1000):
        recorder.begin((f"u{n}", "", "a"), 0, None)
        recorder.end((f"u{n}", "", "a"), 0)
    (file,) = tmp_path.glob("*.flight")
    assert file.stat().st_size < 3000
    crash = flight_recorder._read_crash("1-1", file.read_text().splitlines()[1:], time.time())
    assert list(crash.lost_draws) == [("stays", "", "a")]


def test_a_full_disk_ends_the_notes_and_not_the_work(tmp_path, capsys):
    recorder = FlightRecorder(tmp_path)
    recorder.begin(("one", "", "aggregate"), 0, None)
    recorder._file = os.open("/dev/full", os.O_WRONLY)
    recorder.begin(("two", "", "aggregate"), 0, None)
    recorder.end(("one", "", "aggregate"), 0)
    assert capsys.readouterr().err.count("No space left on device") == 1
    # What can't be kept up accuses nobody.
    assert list(tmp_path.glob("*.flight")) == []


def test_a_folder_that_can_not_be_made_costs_the_notes_alone(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert start_recorder(tmp_path / "file/flights") is None
    assert "draws in flight are not noted" in capsys.readouterr().err


def test_each_driver_has_a_folder_of_its_own():
    assert flights_folder("s3://b/run", 1) != flights_folder("s3://b/run", 2)
    assert str(os.getuid()) in str(flights_folder("s3://b/run", 1))
