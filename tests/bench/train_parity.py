"""Parity: the loss curve of train_rater against a plain loop's, and after a kill against an undisturbed run's.

The job trains the embedded model on synthetic traces: 2 workers, ZeRO-1, gradients accumulated, fp32; an adapter, or
all weights with --full-weights 1. The plain loop (tests/plain_training.py) takes the same batches and shares nothing
else with the job. An epoch ends within the steps.
A third run has its driver's process group killed (SIGKILL) as soon as the checkpoint of a step is complete, and is
started again by the same command. Curves are read from RUN/metrics.parquet.

max_abs_diff     largest difference between a step's losses (nats a token) of the job and of the plain loop
resume_abs_diff  the same between the undisturbed run and the killed one, over all steps
resumed_at_step  the step that the killed run went on from
grad_norm_diff   largest difference between gradient norms, job and plain loop
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.job_process import JobProcess
from tests.bench.trace_store import prepare_corpus, training_config, write_store
from tests.plain_training import read_batches, train_plainly

FULL = {
    "steps": 20,
    "kill_step": 10,
    "every_steps": 5,
    "traces": 120,
    "median_tokens": 40,
    "batch": 8,
    "micro_batch": 2,
    "learning_rate": 2e-4,
    "warmup_steps": 4,
    "full_weights": 0,
    "seed": 0,
}
QUICK = {**FULL, "steps": 4, "kill_step": 2, "every_steps": 1, "traces": 24, "median_tokens": 10}
FEED_CPUS = 0.5
KILL_WAIT_S = 3600.0


def write_run_config(folder: Path, run: str, options: Any) -> Path:
    config = training_config(
        folder,
        run,
        training={
            "batch": options.batch,
            "micro_batch": options.micro_batch,
            "learning_rate": options.learning_rate,
            "warmup_steps": options.warmup_steps,
            "max_steps": options.steps,
            "seed": options.seed,
        },
        full_weights=bool(options.full_weights),
        validation={"every_steps": options.every_steps, "max_items": 0},
        workers={"num_workers": 2, "num_cpus": FEED_CPUS, "max_failures": 0},
    )
    return harness.write_config(folder / f"{run}.toml", config)


def read_curve(run: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(run / "metrics.parquet").to_pylist()


def last_checkpoint(run: Path) -> int:
    """Return the step of the newest checkpoint that Ray Train calls complete; 0 where there is none."""
    from judgetrace.storage import Folder

    try:
        newest = Folder(str(run / "checkpoints")).read_json("checkpoint_manager_snapshot.json")
    except (FileNotFoundError, ValueError):
        # Not written yet, or being written.
        return 0
    found = newest["latest_checkpoint_result"]
    return int(found["metrics"]["step"]) if found else 0


def run_killed(folder: Path, temp: Path, options: Any) -> dict[str, Any]:
    """Run the job, kill it once a checkpoint is complete, run it again to the end."""
    config, log, run = write_run_config(folder, "killed", options), folder / "killed.log", folder / "killed"
    job = JobProcess("train_rater", config, log, temp / "k0")
    harness.wait_until(lambda: last_checkpoint(run) >= options.kill_step or job.has_ended(), KILL_WAIT_S)
    if job.has_ended():
        job.wait()
        raise RuntimeError("the job ended before it could be killed: raise --steps")
    step, killed_at, survivors = last_checkpoint(run), time.time(), job.kill()
    say(f"killed after the checkpoint of step {step}" + f"; SURVIVED {survivors}" * bool(survivors))
    JobProcess("train_rater", config, log, temp / "k1").wait()
    redone = [row["step"] for row in read_curve(run) if row["at"] > killed_at]
    return {"killed_at_step": step, "resumed_at_step": min(redone) - 1, "survivors": list(survivors)}


def largest_difference(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], key: str) -> float:
    return max(abs(one[key] - other[key]) for one, other in zip(first, second, strict=True))


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("train_parity", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    harness.prepare_demo()
    folder = harness.empty_folder(options.work)
    prepare_corpus(folder)
    # Shards of 50: an epoch goes over several of them.
    write_store(folder / "store", options.traces, per_shard=50, median_tokens=options.median_tokens, sigma=0.5)
    config = write_run_config(folder, "calm", options)
    with tempfile.TemporaryDirectory(prefix="jt", dir="/tmp", ignore_cleanup_errors=True) as temp:
        began = time.monotonic()
        JobProcess("train_rater", config, folder / "calm.log", Path(temp) / "c0").wait()
        calm_s = time.monotonic() - began
        say(f"an undisturbed run of {options.steps} steps in {calm_s:.0f} s")
        killed = run_killed(folder, Path(temp), options)
    calm, resumed = read_curve(folder / "calm"), read_curve(folder / "killed")
    began = time.monotonic()
    with harness.own_ray():
        batches = read_batches(str(config), options.steps, FEED_CPUS)
    plain = train_plainly(
        batches,
        harness.MODEL,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        seed=options.seed,
        full_weights=bool(options.full_weights),
        tell=say,
    )
    figures = {
        "max_abs_diff": largest_difference(calm, plain, "loss"),
        "resume_abs_diff": largest_difference(calm, resumed, "loss"),
        **killed,
        "grad_norm_diff": largest_difference(calm, plain, "grad_norm"),
        "loss": {name: [row["loss"] for row in rows] for name, rows in (("job", calm), ("plain", plain))},
        "epochs": round(calm[-1]["epoch"], 2),
        "wall_s": {"job": round(calm_s), "plain": round(time.monotonic() - began)},
    }
    # The traces are made up; model, optimizer and workers are real.
    harness.finish("train_parity", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
