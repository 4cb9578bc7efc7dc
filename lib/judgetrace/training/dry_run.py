"""Show what train_rater would do, without a cluster: config, one example, what an epoch holds, memory and hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from judgetrace.config import UserError
from judgetrace.training.encoding import Encoded
from judgetrace.training.inputs import TrainInputs, check_first_draws
from judgetrace.training.outcome import warn_of_warmup
from judgetrace.training.outlook import (
    Outlook,
    list_lengths,
    measure_shape,
    plan_pass,
    print_hours,
    print_memory,
    read_sharing,
)
from judgetrace.training.sample import EpochEstimate, ExampleSample, estimate_epoch, sample_examples

MAX_UNITS = 2000
"""Units of traces that are read at most."""


def print_dry_run(console: Console, inputs: TrainInputs, max_units: int = MAX_UNITS) -> None:
    """Print what a run would do and take. Raises UserError where it could not start, after what was found."""
    config = inputs.config
    console.print_json(config.model_dump_json())
    sample = sample_examples(inputs.shards, inputs.reading, inputs.encoding, max_units)
    if sample.first is not None and sample.encoded is not None:
        print_example(console, inputs, sample.first, sample.encoded)
    print_units(console, inputs, sample)
    if sample.is_complete:
        inputs.plan(sample.survey)
    else:
        check_first_draws(sample.survey, config.data.target)
    if sample.first is None:
        raise UserError("no unit of the sample teaches anything; see the reasons above")
    epoch = estimate_epoch(sample, inputs.order, config.workers.num_workers, config.training.micro_batch)
    print_epoch(console, inputs, sample, epoch)
    outlook = Outlook(config, read_sharing(inputs.deepspeed), measure_shape(config), plan_pass(config, sample))
    every, trained = outlook.shape.num_parameters, outlook.shape.num_trained
    console.print(f"\n[bold]Parameters[/]: {every:,} in all, {trained:,} to be trained ({trained / every:.2%})")
    print_memory(console, outlook)
    print_hours(console, outlook, epoch)
    warn_of_warmup(console, min(list_lengths(config, epoch).values()), config.training.warmup_steps)


def print_example(console: Console, inputs: TrainInputs, row: Mapping[str, Any], encoded: Encoded) -> None:
    """Print an example as the rater sees it: its prompt, and its answer with a mark where the rating begins."""
    tokens, prompt, rating_at = encoded.tokens.tolist(), encoded.num_prompt, encoded.rating_at
    name = f"{row['item_id']} {row['dimension']}".strip()
    console.print(f"\nAn example: {name}, {len(tokens):,} tokens", markup=False, soft_wrap=True)
    console.print(f"--- prompt, not learned: {prompt:,} tokens", markup=False)
    console.print(inputs.tokenizer.decode(tokens[:prompt]), markup=False, soft_wrap=True)
    console.print(f"--- answer, learned: {len(tokens) - prompt:,} tokens; the rating begins at ‹›", markup=False)
    texts = [inputs.tokenizer.decode(part) for part in (tokens[prompt:rating_at], tokens[rating_at:])]
    console.print("‹›".join(texts) + "\n---", markup=False, soft_wrap=True)


def print_units(console: Console, inputs: TrainInputs, sample: ExampleSample) -> None:
    """Print how many units teach something, and why others do not."""
    survey, shards = sample.survey, len(inputs.shards)
    read = "all" if sample.is_complete else f"a sample: {sample.share:.1%} of the units, from {sample.num_shards:,}"
    console.print(f"\n[bold]Read[/]: {read} of {shards:,} shard(s)", soft_wrap=True)
    split = inputs.config.data.split
    left_out = survey.describe_left_out()
    console.print(
        f"[bold]Units of {split}[/]: {survey.usable.num_rows:,} usable; left out: {escape(left_out)}", soft_wrap=True
    )


def print_epoch(console: Console, inputs: TrainInputs, sample: ExampleSample, epoch: EpochEstimate) -> None:
    """Print what an epoch holds."""
    about, where = ("", "") if sample.is_complete else ("about ", " in the sample")
    padding = (
        "unknown, the sample fills no step" if epoch.padding_share is None else f"{epoch.padding_share:.1%}{where}"
    )
    console.print(
        f"[bold]An epoch[/]: {about}{epoch.examples:,.0f} examples, {epoch.steps:,} steps of {inputs.order.batch}; "
        f"{about}{epoch.prompt_tokens:,.0f} tokens of prompts, {epoch.answer_tokens:,.0f} of answers; "
        f"padding {padding} ({inputs.config.workers.num_workers} workers)",
        soft_wrap=True,
    )
