"""What a stage that does not move says, once somebody has got a place. Without a place: tests of the jobs."""

from __future__ import annotations

import io
import sys
import time

import pytest

from judgetrace.session import StageWatch


def test_a_stage_whose_engines_load_says_so_and_not_that_it_needs_room(capsys: pytest.CaptureFixture[str]) -> None:
    with StageWatch("infer_traces", {"CPU": 1}, limit_s=60, notice_s=1.0) as watch:
        watch.note((0, 0), at_work="engines: 2 starting")
        end = time.monotonic() + 10
        told = ""
        while "has not moved" not in told and time.monotonic() < end:
            time.sleep(0.1)
            told += capsys.readouterr().err
    assert "waiting: infer_traces has not moved for" in told
    assert "; engines: 2 starting\n" in told
    assert "needs" not in told
    assert not watch.expired


def test_a_watch_whose_log_is_on_a_full_disk_still_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    monkeypatch.setattr(sys, "stderr", full)
    with pytest.raises(OSError, match="No space left"):
        full.write("heard by nobody")
    with StageWatch("infer_traces", {"CPU": 1}, limit_s=2.0, notice_s=1.0) as watch:
        watch.note((0, 0), at_work="engines: 2 starting")
        end = time.monotonic() + 10
        while not watch.expired and time.monotonic() < end:
            time.sleep(0.1)
    assert watch.expired
