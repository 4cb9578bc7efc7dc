"""Parity: the loss curve of train_rater against a plain loop's, and after a kill against an undisturbed run's.

The job trains the embedded model on synthetic traces: 2 workers, ZeRO-1, gradients accumulated, fp32; an adapter, or
all weights with --full-weights 1. The plain loop takes the same batches (a WorkerFeed of rank 0 in a world of 1) and
shares nothing else with the job: one process, transformers' model and peft's adapter, an example at a time without any
padding, cross-entropy of the answer's tokens by hand, torch's AdamW and clipping. An epoch ends within the steps.
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


def read_batches(config: Path, num_steps: int) -> list[list[Any]]:
    """Read the steps of a run as one worker of one would see them."""
    import ray

    from judgetrace.config import load_config
    from judgetrace.training.config import TrainRaterConfig
    from judgetrace.training.feed import FeedSpec, WorkerFeed
    from judgetrace.training.inputs import TrainInputs

    inputs = TrainInputs(load_config(TrainRaterConfig, "train_rater", [str(config)]))
    spec = FeedSpec(inputs.config.run, tuple(inputs.shards), inputs.reading, inputs.encoding, inputs.order)

    def read() -> list[list[tuple[list[int], int]]]:
        steps = WorkerFeed(spec, 0, 1).steps(0, num_steps)
        return [[(example.tokens.tolist(), example.num_prompt) for example in step] for step in steps]

    with harness.own_ray():
        return ray.get(ray.remote(num_cpus=FEED_CPUS)(read).remote())


def train_plainly(batches: Sequence[Sequence[tuple[list[int], int]]], options: Any) -> list[dict[str, float]]:
    """Train in this process; returns loss and gradient norm of each step. `batches` hold (tokens, prompt tokens)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(harness.MODEL), dtype=torch.float32)
    if not options.full_weights:
        model = wrap_in_adapter(model, options.seed)
    model.train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=options.learning_rate, weight_decay=0.01)
    curve = []
    for number, batch in enumerate(batches, start=1):
        num_learned = sum(len(tokens) - num_prompt for tokens, num_prompt in batch)
        total = 0.0
        for tokens, num_prompt in batch:
            ids = torch.tensor([tokens])
            log_probabilities = model(input_ids=ids).logits[0, num_prompt - 1 : -1].log_softmax(dim=-1)
            loss = -log_probabilities.gather(1, ids[0, num_prompt:, None]).sum() / num_learned
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(learned, 1.0).item()
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, number / max(1, options.warmup_steps))
        optimizer.step()
        optimizer.zero_grad()
        curve.append({"loss": total, "grad_norm": norm})
        say(f"plain step {number}: loss {total:.5f}")
    return curve


def wrap_in_adapter(model: Any, seed: int) -> Any:
    """Wrap a model in the adapter that the job has by default: rank 16, alpha 32, on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


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
    plain = train_plainly(read_batches(config, options.steps), options)
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
