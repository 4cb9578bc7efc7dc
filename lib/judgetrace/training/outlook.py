"""What a run of train_rater would take, by the formulas of training.estimate: from its config to tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from judgetrace.live import format_seconds
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.deepspeed_config import offloads, offloads_parameters, zero_stage
from judgetrace.training.estimate import (
    GPU_COUNTS,
    GPUS,
    UTILISATION,
    Gpu,
    ModelShape,
    Sharing,
    WorkerPass,
    estimate_flops,
    estimate_hours,
    estimate_memory,
)
from judgetrace.training.sample import EpochEstimate, ExampleSample

BUCKET = 500_000_000
"""DeepSpeed's default of reduce_bucket_size."""
SHARINGS = {
    "zero1": Sharing(1, bucket_numbers=BUCKET),
    "zero2": Sharing(2, bucket_numbers=2 * BUCKET),
    "zero2_offload": Sharing(2, offloads_optimizer=True, bucket_numbers=BUCKET),
    "zero3": Sharing(3, bucket_numbers=BUCKET),
    "zero3_offload": Sharing(3, offloads_optimizer=True, offloads_parameters=True, bucket_numbers=BUCKET),
}
"""What the files of cluster/deepspeed do."""


@dataclass(frozen=True)
class Outlook:
    """What the estimates of one run are made from."""

    config: TrainRaterConfig
    sharing: Sharing
    shape: ModelShape
    work: WorkerPass


def measure_shape(config: TrainRaterConfig) -> ModelShape:
    """Measure the shape of the base with its adapter; no weights are loaded."""
    from judgetrace.training.models import count_parameters, outline_model

    model = outline_model(config.model, config.adapter)
    every, trained = count_parameters(model)
    base = model.config.get_text_config()
    head = getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads
    return ModelShape(
        num_parameters=every,
        num_trained=trained,
        num_layers=base.num_hidden_layers,
        hidden=base.hidden_size,
        query_width=head * base.num_attention_heads,
        intermediate=getattr(base, "intermediate_size", None) or 4 * base.hidden_size,
        is_gated=any("gate" in name for name, _ in model.named_modules()),
        vocabulary=base.vocab_size,
    )


def plan_pass(config: TrainRaterConfig, sample: ExampleSample) -> WorkerPass:
    """Plan a worker's largest pass: as many as its micro-batch of the longest example.

    Where not all examples were read, the longest is taken to have data.max_tokens.
    """
    share = -(-config.num_lanes // config.workers.num_workers) * (config.training.batch // config.num_lanes)
    return WorkerPass(
        num_examples=min(config.training.micro_batch, share),
        num_tokens=sample.longest if sample.is_complete else config.data.max_tokens,
        num_answer_tokens=sample.longest_answer,
        number_bytes=2 if config.workers.num_gpus else 4,
        recomputes=config.training.activation_checkpointing,
    )


def read_sharing(deepspeed: Mapping[str, Any]) -> Sharing:
    """Read how a DeepSpeed config shares states out, and how large its buffers are."""
    zero, stage = deepspeed["zero_optimization"], zero_stage(deepspeed)
    # Stages 1 and 2 have a second buffer where communication overlaps the backward pass.
    buffers = 2 if zero.get("overlap_comm", False) and stage < 3 else 1
    numbers = buffers * int(zero.get("reduce_bucket_size", BUCKET)) if zero.get("contiguous_gradients", True) else 0
    return Sharing(stage, offloads(deepspeed), offloads_parameters(deepspeed), numbers)


def print_memory(console: Console, outlook: Outlook) -> None:
    """Print a worker's memory by DeepSpeed config, in GB."""
    config, shape, work = outlook.config, outlook.shape, outlook.work
    workers = config.workers.num_workers
    sharings = dict(SHARINGS)
    if outlook.sharing not in sharings.values():
        sharings[config.deepspeed.rpartition("/")[2].removesuffix(".json")] = outlook.sharing
    found = [estimate_memory(shape, sharing, workers, work) for sharing in sharings.values()]
    turned = replace(work, recomputes=not work.recomputes)
    others = [estimate_memory(shape, sharing, workers, turned).peak for sharing in sharings.values()]
    rows = {
        name: [getattr(memory, name) for memory in found]
        for name in ("parameters", "gradients", "optimizer", "buckets", "activations", "logits")
    }
    rows["in training"] = [memory.training for memory in found]
    rows["at the start"] = [memory.whole_base for memory in found]
    rows["at most"] = [memory.peak for memory in found]
    rows["without checkpointing" if work.recomputes else "with checkpointing"] = others
    rows["and main memory"] = [memory.offloaded for memory in found]
    table = Table(title=f"Memory of each of {workers} worker(s) in GB, estimated", title_justify="left")
    table.add_column("")
    for name, sharing in sharings.items():
        table.add_column(f"> {name}" if sharing == outlook.sharing else name, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(f"{value / 1e9:.2f}" for value in values))
    console.print()
    console.print(table)
    console.print(
        f"> is what {config.deepspeed} does. {'bf16' if work.number_bytes == 2 else 'fp32'}, micro-batches of "
        f"{work.num_examples} examples of {work.num_tokens:,} tokens, {work.num_answer_tokens:,} of them learned. "
        "'main memory' is what is offloaded to it. At the start every worker holds the whole base where it computes, "
        "also with zero3; 'at most' is the larger of both. From the formulas of the ZeRO papers and of Korthikanti et "
        "al. (2022), not measured; CUDA, NCCL, Ray, fragmentation, the layers that stage 3 gathers and what "
        "validation keeps of validation.batch items come on top.",
        markup=False,
    )


def print_hours(console: Console, outlook: Outlook, epoch: EpochEstimate) -> None:
    """Print how long training takes on named GPUs."""
    lanes = outlook.config.num_lanes
    # A GPU trains in bf16, whatever the workers of this config are.
    on_gpu = replace(outlook, work=replace(outlook.work, number_bytes=2))
    console.print()
    for name, steps in list_lengths(outlook.config, epoch).items():
        flops = estimate_flops(outlook.shape, epoch.computed_tokens * steps / epoch.steps, outlook.work.recomputes)
        table = Table(title=f"Time for {name} = {steps:,} steps, estimated", title_justify="left")
        for column in ("GPU", *(f"{count} GPU" for count in GPU_COUNTS)):
            table.add_column(column, justify="right" if column != "GPU" else "left")
        for gpu in GPUS:
            table.add_row(gpu.name, *(_describe_time(on_gpu, flops, gpu, count) for count in GPU_COUNTS))
        console.print(table)
    more = f" More than {lanes} GPUs need more data.lanes." if max(GPU_COUNTS) > lanes else ""
    console.print(
        f"From operations (2 a parameter and token in each pass) at {UTILISATION:.0%} of the data sheet's dense bf16 "
        "peak, which is an assumption; early stopping may end it before. Validation, checkpoints, communication and "
        "waiting for data come on top. 'too small': memory as estimated above does not fit on so many of them." + more,
        markup=False,
    )


def list_lengths(config: TrainRaterConfig, epoch: EpochEstimate) -> dict[str, int]:
    """List the run's limits in steps: by epochs, and by max_steps where that is earlier."""
    training = config.training
    by_epochs = max(1, round(training.max_epochs * epoch.steps))
    lengths = {f"max_epochs {training.max_epochs:g}": by_epochs}
    if training.max_steps is not None and training.max_steps < by_epochs:
        lengths[f"max_steps {training.max_steps:,}"] = training.max_steps
    return lengths


def _describe_time(outlook: Outlook, flops: float, gpu: Gpu, num_gpus: int) -> str:
    needed = estimate_memory(outlook.shape, outlook.sharing, num_gpus, outlook.work).peak
    if needed > gpu.memory_bytes:
        return "too small"
    seconds = 3600 * estimate_hours(flops, gpu, num_gpus)
    return format_seconds(seconds) if seconds >= 60 else "< 1 min"
