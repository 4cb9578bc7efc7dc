"""Planning: forecasts of plan_run from a pilot against runs that were measured; and what a shard costs the driver.

Simulated: scripted engines (lognormal lengths, log-SD 0.7). A pilot on one engine, then whole runs of other sizes on
other numbers of engines, all in one Ray; each is forecast from the pilot alone.

wall_error              largest |forecast / measured - 1| of the seconds from the start of the pool to its end
sampling_error          the same of the seconds from the first draw to the last one; there the forecast is without start
accepted_error          the same of accepted traces
tokens_error            the same of output tokens
driver_ms_per_shard     CPU time of the driver's process for a shard of one unit, answered at once: the slope from few
                        shards to many
driver_bytes_per_shard  private memory of the driver for one, likewise
store_bytes_per_shard   Ray's object store for one: the bytes of its task as Ray Data holds it
driver_ms_per_report    a worker's report to the head, until it is answered, of many sent at once
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.paced_engine import make_corpus, read_wall_s, run_config

FULL = {"pilot": 400, "runs": "1000x1,2000x2,4000x4", "slots": 16, "mean_s": 0.4, "sigma": 0.7, "shards": "200,1200"}
QUICK = {"pilot": 200, "runs": "600x1,1200x2,1600x4", "slots": 16, "mean_s": 0.25, "sigma": 0.7, "shards": "50,250"}
UNITS_PER_SHARD = 25


def run(folder: Path, config: dict[str, Any], limit: int) -> float:
    """Run infer_traces in this process's Ray; returns its seconds."""
    from jobs import infer_traces

    folder.mkdir()
    began = time.monotonic()
    path = harness.write_config(folder / "config.toml", config)
    if infer_traces.main([str(path), f"--limit={limit}"]):
        raise RuntimeError("infer_traces failed")
    return time.monotonic() - began


def paced(folder: Path, corpus: Path, options: Any, replicas: int) -> dict[str, Any]:
    sizes = {"slots": options.slots, "mean_s": options.mean_s, "sigma": options.sigma, "output_tokens": 200}
    config = run_config(corpus, folder / "run", replicas=replicas, gate=folder / "gate", **sizes)
    # Few draws, so that some units are exhausted.
    return config | {"sampling": {"max_draws": 4, "max_tokens": 4000}}


def read_run(folder: Path) -> dict[str, float]:
    """Read what a run took and gave, from its files."""
    from judgetrace.planning.pilot import read_pilot

    found = read_pilot(str(folder / "run"))
    return {
        "wall_s": found.seconds,
        "sampling_s": read_wall_s(folder / "gate"),
        "accepted": sum(unit.outcome == "accepted" for unit in found.units),
        "output_tokens": sum(sum(unit.output_tokens) for unit in found.units),
    }


def forecast(pilot: Path, units: int, replicas: int) -> dict[str, float]:
    """Forecast a run from the pilot."""
    from judgetrace.planning.config import PlanRunConfig
    from judgetrace.planning.forecast import Forecaster
    from judgetrace.planning.pilot import read_pilot

    config = PlanRunConfig(pilot=str(pilot / "run"), output="", units_per_row=1.0)
    forecaster = Forecaster(read_pilot(str(pilot / "run")), config)
    figures = {name: figure.value for name, figure in forecaster.forecast(units, replicas).figures.items()}
    return figures | {"sampling_s": figures["wall_s"] - forecaster.rates.startup_s}


def compare(folder: Path, corpus: Path, options: Any) -> dict[str, Any]:
    """Measure the pilot and the runs, and hold them against their forecasts."""
    run(folder / "pilot", paced(folder / "pilot", corpus, options, 1), options.pilot)
    rows, errors = [], dict.fromkeys(("wall", "sampling", "accepted", "tokens"), 0.0)
    for name in options.runs.split(","):
        units, replicas = map(int, name.split("x"))
        run(folder / name, paced(folder / name, corpus, options, replicas), units)
        measured, expected = read_run(folder / name), forecast(folder / "pilot", units, replicas)
        rows.append({"run": name, **{key: [round(expected[key], 1), round(measured[key], 1)] for key in measured}})
        say(f"forecast, measured: {rows[-1]}")
        for key in measured:
            short = key.removesuffix("_s").removeprefix("output_")
            errors[short] = max(errors[short], abs(expected[key] / measured[key] - 1))
    return {**{f"{key}_error": error for key, error in errors.items()}, "forecast_and_measured": rows}


def measure_shards(folder: Path, options: Any) -> dict[str, float]:
    """Measure what shards of one unit cost the driver: the slope from few to many."""
    import psutil

    from tests.bench.streaming_scale import read_private_bytes

    few, many = map(int, options.shards.split(","))
    corpus, process, points = make_corpus(folder / "tiny", many, 1), psutil.Process(), []
    for number in (few, many):
        target = folder / f"tiny-{number}"
        config = run_config(corpus, target / "run", replicas=1, slots=16, mean_s=0.0)
        before, memory = sum(process.cpu_times()[:2]), read_private_bytes(process.pid)
        seconds = run(target, config, number)
        cpu = sum(process.cpu_times()[:2]) - before
        points.append((cpu, read_private_bytes(process.pid) - memory))
        say(f"{number} shards of one unit: {seconds:.1f} s, {cpu:.1f} s of the driver")
    return {
        "driver_ms_per_shard": 1000 * (points[1][0] - points[0][0]) / (many - few),
        "driver_bytes_per_shard": max(0.0, (points[1][1] - points[0][1]) / (many - few)),
        "store_bytes_per_shard": measure_store(),
        "driver_ms_per_report": measure_reports(),
    }


def measure_store(num: int = 500) -> float:
    """Measure what the task of a shard takes in the object store."""
    import ray

    def free() -> float:
        return float(ray.available_resources()["object_store_memory"])

    tasks = [{"shard": number, "num_units": 1000} for number in range(num)]
    before = free()
    held = ray.data.from_items(tasks, override_num_blocks=num).materialize()
    harness.wait_until(lambda: free() < before, 10)
    time.sleep(2.0)
    used = before - free()
    del held
    return used / num


def measure_reports(num: int = 2000) -> float:
    """Measure a report to the RunControl actor, many under way at once."""
    import ray

    from judgetrace.control import RunControl, WorkerReport

    control = ray.remote(num_cpus=0)(RunControl).remote()
    ray.get(control.report.remote(WorkerReport("0", "running")))
    began = time.monotonic()
    ray.get([control.report.remote(WorkerReport(f"{n % 64}", "running")) for n in range(num)])
    return 1000 * (time.monotonic() - began) / num


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("planning", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    folder = harness.empty_folder(options.work)
    most = max(int(name.split("x")[0]) for name in options.runs.split(","))
    with harness.own_ray():
        corpus = make_corpus(folder / "input", most, UNITS_PER_SHARD)
        figures = compare(folder, corpus, options) | measure_shards(folder, options)
    harness.finish("planning", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
