"""Scaling: infer_traces on 1 to 64 engines. Simulated: scripted engines, 64 slots, draws of 5 s (exponential).

Each number of engines has the same units an engine, one draw a unit, and a Ray of its own. The engines begin to draw
together, when all are up, so that start-up is left out. Time runs from there to the end of the last draw.

efficiency_N          units/s on N engines over N times those on one
slot_use_N            time that all slots would need for the draws that outcomes depend on, over the time it took: the
                      last draws, which leave slots idle, are in it
driver_ms_per_item    CPU time of the driver's process over the units, at the largest number of engines
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

FULL = {"engines": "1,2,4,8,64", "units": 4000, "slots": 64, "mean_s": 5.0, "shard": 20}
QUICK = {"engines": "1,8", "units": 1000, "slots": 64, "mean_s": 5.0, "shard": 20}


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
    """Measure one number of engines in a process of its own."""
    part = folder / f"engines-{replicas}"
    part.mkdir()
    command = [sys.executable, "-m", "tests.bench.scaling", "--work", str(part), "--part", str(replicas)]
    command += [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in FULL]
    with (part / "log").open("ab") as log:
        status = subprocess.call(command, cwd=harness.ROOT, env=harness.job_environment(), stdout=log, stderr=log)
    if status:
        raise RuntimeError(f"{replicas} engines ended with status {status}:\n{(part / 'log').read_text()[-3000:]}")
    result: dict[str, Any] = json.loads((part / "result.json").read_text())
    say(json.dumps(result))
    return result


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
    one = next((result for result in results if result["engines"] == 1), None)
    figures: dict[str, Any] = {}
    for result in results:
        number = result["engines"]
        if one is not None:
            figures[f"efficiency_{number}"] = result["units_per_s"] / number / one["units_per_s"]
        figures[f"slot_use_{number}"] = result["slot_use"]
    figures |= {"driver_ms_per_item": results[-1]["driver_ms_per_item"], "by_engines": results}
    harness.finish("scaling", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
