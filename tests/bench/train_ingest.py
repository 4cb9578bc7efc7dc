"""Ingest: can the stream of traces keep a training step of 10 ms busy? The traces are synthetic, the feed is real.

A store of 40,000 traces (lengths lognormal around 200 tokens, shards of 1,000) is indexed as train_rater does it, and a
WorkerFeed (rank 0 of 1) in a Ray worker process streams one epoch into a step that sleeps 10 ms: read from Parquet,
rendered by the prompt's template and the chat template, tokenized with the embedded tokenizer, sorted into steps. The
same process then runs the same loop over a list of the same steps. Nothing of the store is in memory before.

vs_in_memory             tokens/s of the stream over those of the list, from the first batch on
vs_in_memory_with_start  the same, the stream's time counted from where its feed is made
start_s                  from there to its first batch: Ray Data's start, worker processes, the tokenizer's import
longest_wait_s           the longest time between two steps of the stream
feed_examples_per_s      what the stream gives to a step that takes no time, start included: its ceiling
padding_share            of batch 128 with micro-batches of 4 on 8 workers, over one epoch of the store
padding_share_here       of the batch used here on one worker, likewise

Arithmetic: a step of 10 ms takes 100 x batch examples/s (800 at the default batch of 8; a GPU's step of 128 examples
takes a second or more). `encoder_examples_per_s` says what one core renders and tokenizes alone; two cores give at most
twice that, Ray's own work apart. A batch for which `asked_examples_per_s` comes near to it can't reach 1 here, whatever
the feed does: it is the machine's limit, not the stream's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.trace_store import prepare_corpus, training_config, write_store

FULL = {
    "traces": 40000,
    "per_shard": 1000,
    "median_tokens": 200,
    "sigma": 0.5,
    "batch": 8,
    "step_ms": 10.0,
    "seed": 0,
}
QUICK = {**FULL, "traces": 4000}
FEED_CPUS = 0.5
"""Of the process that trains: it sleeps, and leaves the cores to the tasks that read."""
ENCODED = 2000
"""Examples that the encoder's own speed is measured on."""


def run_steps(steps: Iterable[list[Any]], step_s: float) -> dict[str, Any]:
    """Take steps, sleeping in each; returns tokens and times. `first_at` and others count from the call."""
    began = last = time.monotonic()
    first_at, longest, tokens, examples = 0.0, 0.0, 0, 0
    for step in steps:
        now = time.monotonic()
        if not examples:
            first_at = now
        else:
            longest = max(longest, now - last)
        tokens += sum(len(example.tokens) for example in step)
        examples += len(step)
        if step_s:
            time.sleep(step_s)
        last = time.monotonic()
    return {
        "tokens": tokens,
        "examples": examples,
        "start_s": first_at - began,
        "steps_s": last - first_at,
        "longest_wait_s": longest,
    }


def measure_in_worker(spec: Any, num_steps: int, step_s: float) -> dict[str, dict[str, Any]]:
    """Run the loop over the stream, over the stream without sleeping, and over a list. Runs in a Ray worker."""
    import numpy as np

    from judgetrace.training.feed import Example, WorkerFeed

    def stream() -> Iterable[list[Example]]:
        yield from WorkerFeed(spec, 0, 1).steps(0, num_steps)

    kept: list[list[Example]] = []

    def keep() -> Iterable[list[Example]]:
        for step in stream():
            # Copied: else the list would hold on to Ray's object store.
            kept.append([Example(np.array(e.tokens), e.num_prompt, e.rating_at, e.label) for e in step])
            yield step

    streamed, ceiling = run_steps(stream(), step_s), run_steps(keep(), 0.0)
    return {"stream": streamed, "ceiling": ceiling, "list": run_steps(kept, step_s)}


def measure_encoder(folder: Path, encoding: Any, reading: Any) -> float:
    """Measure how many examples one core renders and tokenizes in a second."""
    from judgetrace.trace_shards import list_trace_shards
    from judgetrace.training.reading import encode_examples, read_examples

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    examples = read_examples(list_trace_shards([str(folder / "store")])[0], reading).slice(0, ENCODED)
    encode_examples(examples.slice(0, 10), encoding)
    began = time.monotonic()
    encode_examples(examples, encoding)
    del os.environ["TOKENIZERS_PARALLELISM"]
    return len(examples) / (time.monotonic() - began)


def measure(folder: Path, options: Any) -> dict[str, Any]:
    import ray

    from judgetrace.training.config import TrainRaterConfig
    from judgetrace.training.feed import FeedSpec
    from judgetrace.training.inputs import TrainInputs
    from judgetrace.training.order import EpochOrder, share_padding
    from judgetrace.training.run import survey_traces

    config = training_config(folder, "run", training={"batch": options.batch, "seed": options.seed})
    inputs = TrainInputs(TrainRaterConfig.model_validate(config))
    encoder_rate = measure_encoder(folder, inputs.encoding, inputs.reading)
    say(f"one core encodes {encoder_rate:.0f} examples/s; a step asks {1000 * options.batch / options.step_ms:.0f}")
    with harness.own_ray():
        began = time.monotonic()
        survey = survey_traces(inputs)
        index_s = time.monotonic() - began
        index = survey.index()
        num_steps = inputs.order.count_steps(index)
        say(f"indexed {len(index):,} examples, {survey.num_tokens:,} tokens in {index_s:.1f} s; {num_steps:,} steps")
        spec = FeedSpec(str(folder / "run"), tuple(inputs.shards), inputs.reading, inputs.encoding, inputs.order)
        task = ray.remote(num_cpus=FEED_CPUS, max_retries=0)(measure_in_worker)
        found = ray.get(task.remote(spec, num_steps, options.step_ms / 1000))
    return {
        **compare(found),
        "padding_share": share_padding(index, EpochOrder(128, 32, options.seed), 0, workers=8, micro_batch=4),
        "padding_share_here": share_padding(index, inputs.order, 0, workers=1, micro_batch=4),
        "asked_examples_per_s": 1000 * options.batch / options.step_ms,
        "encoder_examples_per_s": round(encoder_rate),
        "index_s": round(index_s, 1),
        "steps": num_steps,
        "examples": len(index),
        "tokens": survey.num_tokens,
    }


def compare(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stream, ceiling, listed = found["stream"], found["ceiling"], found["list"]
    assert stream["tokens"] == ceiling["tokens"] == listed["tokens"], "the loops saw different steps"
    return {
        "vs_in_memory": listed["steps_s"] / stream["steps_s"],
        "vs_in_memory_with_start": listed["steps_s"] / (stream["start_s"] + stream["steps_s"]),
        "start_s": round(stream["start_s"], 2),
        "longest_wait_s": round(stream["longest_wait_s"], 3),
        "tokens_per_s": {
            "stream": round(stream["tokens"] / stream["steps_s"]),
            "list": round(listed["tokens"] / listed["steps_s"]),
        },
        "feed_examples_per_s": round(ceiling["examples"] / (ceiling["start_s"] + ceiling["steps_s"])),
    }


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("train_ingest", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    harness.prepare_demo()
    folder = harness.empty_folder(options.work)
    prepare_corpus(folder)
    lengths = {"median_tokens": options.median_tokens, "sigma": options.sigma}
    write_store(folder / "store", options.traces, per_shard=options.per_shard, seed=options.seed, **lengths)
    say(f"a store of {options.traces:,} traces")
    figures = measure(folder, options)
    # The traces are made up; feed, tokenizer and Ray are real.
    harness.finish("train_ingest", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
