"""Scaling: infer_traces on 1 to 64 engines. Simulated: scripted engines, 64 slots, draws of 5 s (exponential).

Each number of engines has the same units an engine, one draw a unit, and a Ray of its own. The engines begin to draw
together, when all are up, so that start-up is left out. Time runs from there to the end of the last draw.

efficiency_N          units/s on N engines over N times those on one
slot_use_N            time that all slots would need for the draws that outcomes depend on, over the time it took: the
                      last draws, which leave slots idle, are in it
driver_ms_per_item    CPU time of the driver's process over the units, at the last number of engines that was measured

What could not be measured is null; `by_engines` tells why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.paced_engine import make_corpus, read_wall_s, run_config, sum_needed_lengths

FULL = {"engines": "1,2,4,8,64", "units": 4000, "slots": 64, "mean_s": 5.0, "shard": 250}
QUICK = {"engines": "1,8", "units": 1000, "slots": 64, "mean_s": 5.0, "shard": 250}


def measure(folder: Path, options: Any, replicas: int) -> dict[str, Any]:
    """Run the job on so many engines in this process."""
    import psutil

    from jobs import infer_traces

    units = options.units * replicas
    with harness.own_ray():
        corpus = make_corpus(folder / "input", units, options.shard, labels=(1,))
        gate, run = folder / "gate", folder / "run"
        sizes = {"replicas": replicas, "slots": options.slots, "mean_s": options.mean_s}
        config = run_config(corpus, run, gate=gate, sigma=0.0, levels=[1], **sizes)
        began, before = time.time(), sum(psutil.Process().cpu_times()[:2])
        if infer_traces.main([str(harness.write_config(folder / "config.toml", config))]):
            raise RuntimeError("infer_traces failed")
        cpu_s = sum(psutil.Process().cpu_times()[:2]) - before
    wall = read_wall_s(gate)
    ideal = sum_needed_lengths(run, 0.0) * options.mean_s / options.slots / replicas
    return {
        "engines": replicas,
        "units": units,
        "wall_s": wall,
        "units_per_s": units / wall,
        "slot_use": ideal / wall,
        "startup_s": float((gate / "began").read_text()) - began,
        "driver_ms_per_item": 1000 * cpu_s / units,
    }


def run_part(folder: Path, options: Any, replicas: int) -> dict[str, Any]:
    """Measure one number of engines in a process of its own; where that fails, the result holds its `error` alone."""
    part = folder / f"engines-{replicas}"
    part.mkdir()
    command = [sys.executable, "-m", "tests.bench.scaling", "--work", str(part), "--part", str(replicas)]
    command += [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in FULL]
    with (part / "log").open("ab") as log:
        status = subprocess.call(command, cwd=harness.ROOT, env=harness.job_environment(), stdout=log, stderr=log)
    result: dict[str, Any] = {"engines": replicas}
    if status:
        say((part / "log").read_text()[-3000:])
        result["error"] = f"ended with status {status}: {read_last_line(part / 'log')}"
    else:
        result = json.loads((part / "result.json").read_text())
    say(json.dumps(result))
    return result


def read_last_line(log: Path) -> str:
    """Read the last line of a log: of a Python that failed, the error."""
    return (log.read_text().strip().splitlines() or ["nothing in its log"])[-1]


def compare(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the parts; a figure is None where a part it needs has failed or was not asked for."""
    one = next((result.get("units_per_s") for result in results if result["engines"] == 1), None)
    figures: dict[str, Any] = {}
    for result in results:
        number, rate = result["engines"], result.get("units_per_s")
        figures[f"efficiency_{number}"] = rate / number / one if rate and one else None
        figures[f"slot_use_{number}"] = result.get("slot_use")
    driver = [result["driver_ms_per_item"] for result in results if "driver_ms_per_item" in result]
    return figures | {"driver_ms_per_item": driver[-1] if driver else None, "by_engines": results}


def main(arguments: list[str]) -> None:
    parser = harness.make_parser("scaling", __doc__)
    parser.add_argument("--part", type=int, help="used by the benchmark itself: measure one number of engines")
    options = harness.apply_sizes(parser, arguments, FULL, QUICK)
    harness.use_job_environment()
    if options.part:
        folder = Path(options.work)
        (folder / "result.json").write_text(json.dumps(measure(folder, options, options.part)))
        return
    folder = harness.empty_folder(options.work)
    results = [run_part(folder, options, int(number)) for number in options.engines.split(",")]
    harness.finish("scaling", compare(results), {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
