"""The benchmark `scaling` measures what it says, also where engines die or a part fails."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig, Prompt, Request
from tests.bench.paced_engine import PacedEngine, read_wall_s
from tests.bench.scaling import compare, read_last_line

REQUEST = Request("\x1f".join(["item", "", "aggregate", "0"]), Prompt(1), 0, 1.0, 1.0, -1, 100)


def make_engine(gate, engines):
    args = {"levels": [1, 2], "mean_s": 0.0, "gate": str(gate), "engines": engines}
    return PacedEngine(EngineSpec(ModelConfig(path="none"), EngineConfig(slots=1, args=args)))


def leave_file_of_a_dead_engine(gate):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gate.mkdir()
    (gate / f"ended-{ended.pid}").touch()


def test_a_gate_waits_for_living_engines_and_stays_open(tmp_path):
    gate = tmp_path / "gate"
    leave_file_of_a_dead_engine(gate)

    async def run():
        draw = asyncio.create_task(make_engine(gate, engines=2).generate(REQUEST))
        await asyncio.sleep(0.5)
        assert not draw.done()
        assert not (gate / "began").exists()
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (gate / f"ended-{other.pid}").touch()
        await asyncio.wait_for(draw, 5)
        other.kill()
        other.wait()
        # The engine that is started in the other's place.
        await asyncio.wait_for(make_engine(gate, engines=2).generate(REQUEST), 5)

    asyncio.run(run())


def test_an_engine_that_ended_no_draw_does_not_count_in_the_wall_time(tmp_path):
    gate = tmp_path / "gate"
    leave_file_of_a_dead_engine(gate)
    (gate / "began").write_text("100.5")
    (gate / f"ended-{os.getpid()}").write_text("103.0")
    assert read_wall_s(gate) == 2.5


def test_the_wall_time_ends_with_the_last_draw(tmp_path):
    asyncio.run(make_engine(tmp_path, engines=1).generate(REQUEST))
    began = float((tmp_path / "began").read_text())
    assert began + read_wall_s(tmp_path) == pytest.approx(time.time(), abs=2.0)


def test_a_part_that_failed_costs_its_own_figures_alone():
    parts = [
        {"engines": 1, "units_per_s": 10.0, "slot_use": 0.9, "driver_ms_per_item": 3.0},
        {"engines": 2, "units_per_s": 18.0, "slot_use": 0.8, "driver_ms_per_item": 2.0},
        {"engines": 64, "error": "ended with status 1: RuntimeError: infer_traces failed"},
    ]
    assert compare(parts) == {
        "efficiency_1": 1.0,
        "slot_use_1": 0.9,
        "efficiency_2": 0.9,
        "slot_use_2": 0.8,
        "efficiency_64": None,
        "slot_use_64": None,
        "driver_ms_per_item": 2.0,
        "by_engines": parts,
    }
    assert compare(parts[1:2])["efficiency_2"] is None
    assert compare(parts[2:])["driver_ms_per_item"] is None


def test_the_reason_of_a_failed_part_is_the_last_line_of_its_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("Traceback ...\nRuntimeError: infer_traces failed\n\n")
    assert read_last_line(log) == "RuntimeError: infer_traces failed"
    log.write_text("")
    assert read_last_line(log) == "nothing in its log"
