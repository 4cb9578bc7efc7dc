"""What a crashed process leaves to its successor. The processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from judgetrace import flight_recorder
from judgetrace.flight_recorder import FlightRecorder, flights_folder, read_crashes, start_recorder

FLIER = """
import os, sys, time
from pathlib import Path
from judgetrace.flight_recorder import FlightRecorder
recorder = FlightRecorder(Path(sys.argv[1]))
recorder.begin(("ended", "", "aggregate"), False)
recorder.begin(("twice", "", "aggregate"), False)
recorder.begin(("twice", "", "aggregate"), False)
recorder.end(("ended", "", "aggregate"), False)
recorder.end(("twice", "", "aggregate"), False)
recorder.begin(("\\udc80 odd\\n", "d", "ann"), True)
print("up", flush=True)
exec(sys.argv[2])
"""
LEFT = {("twice", "", "aggregate"): False, ("\udc80 odd\n", "d", "ann"): True}


def fly(folder: Path, end: str) -> None:
    flier = subprocess.Popen(
        [sys.executable, "-c", FLIER, str(folder), end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert flier.stdout.readline() == "up\n"
    if end == "time.sleep(60)":
        assert read_crashes(folder) == {}
        flier.send_signal(signal.SIGKILL)
    flier.wait()


@pytest.mark.parametrize("end", ["os.abort()", "import ctypes; ctypes.string_at(0)"])
def test_a_crash_tells_every_successor_what_was_in_flight(tmp_path, end):
    """Of two that crashed at once, either's successor may come first."""
    fly(tmp_path, end)
    assert read_crashes(tmp_path) == LEFT
    assert read_crashes(tmp_path) == LEFT


def test_who_was_alone_in_one_of_several_crashes_stays_so(tmp_path):
    for names in (("a", True, "b", False), ("a", False, "c", True)):
        first, first_alone, second, second_alone = names
        folder = tmp_path / "flights"
        program = (
            "import os, sys; from pathlib import Path; from judgetrace.flight_recorder import FlightRecorder; "
            f"recorder = FlightRecorder(Path({str(folder)!r})); "
            f"recorder.begin(({first!r}, '', ''), {first_alone}); "
            f"recorder.begin(({second!r}, '', ''), {second_alone}); os.abort()"
        )
        subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    assert read_crashes(folder) == {("a", "", ""): True, ("b", "", ""): False, ("c", "", ""): True}


@pytest.mark.parametrize("end", ["time.sleep(60)", "os._exit(1)", "recorder.close(); os.abort()"])
def test_what_was_killed_from_outside_or_told_of_it_otherwise_accuses_nobody(tmp_path, end):
    fly(tmp_path, end)
    assert read_crashes(tmp_path) == {}
    assert not list(tmp_path.glob("*.flight"))


def test_a_kill_while_memory_ran_out_is_a_crash(tmp_path, monkeypatch):
    fly(tmp_path, "os.kill(os.getpid(), 9)")
    before = flight_recorder.count_memory_kills()
    monkeypatch.setattr(flight_recorder, "count_memory_kills", lambda: before + 1)
    assert read_crashes(tmp_path) == LEFT
    monkeypatch.undo()
    assert read_crashes(tmp_path) == LEFT


def test_a_long_flight_keeps_its_file_small(tmp_path, monkeypatch):
    monkeypatch.setattr(flight_recorder, "REWRITE_AT_BYTES", 2000)
    monkeypatch.setattr(flight_recorder.faulthandler, "enable", lambda *_, **__: None)
    recorder = FlightRecorder(tmp_path)
    recorder.begin(("stays", "", "a"), True)
    for n in range(1000):
        recorder.begin((f"u{n}", "", "a"), False)
        recorder.end((f"u{n}", "", "a"), False)
    (file,) = tmp_path.glob("*.flight")
    assert file.stat().st_size < 3000
    assert flight_recorder._in_flight(file.read_text().splitlines()[1:]) == {("stays", "", "a"): True}


def test_a_full_disk_ends_the_notes_and_not_the_work(tmp_path, capsys):
    recorder = FlightRecorder(tmp_path)
    recorder.begin(("one", "", "aggregate"), is_alone=False)
    recorder._file = os.open("/dev/full", os.O_WRONLY)
    recorder.begin(("two", "", "aggregate"), is_alone=False)
    recorder.end(("one", "", "aggregate"), is_alone=False)
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
