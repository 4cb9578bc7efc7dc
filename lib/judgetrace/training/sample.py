"""Read a sample of the examples that a run would learn, in this process: enough to say what an epoch takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.storage import Folder
from judgetrace.trace_shards import TraceShard
from judgetrace.training.encoding import Encoded, EncodingSpec
from judgetrace.training.order import EpochOrder, share_padding
from judgetrace.training.reading import (
    ExampleSurvey,
    ReadingSpec,
    encode_examples,
    index_shard,
    read_examples,
    sum_up,
)

SHARDS_OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class ExampleSample:
    """Some or all of the examples of some shards."""

    survey: ExampleSurvey
    share: float
    """Of the units of all shards, those that were read; 1 where it is no sample."""
    num_shards: int
    """Shards read."""
    first: dict[str, Any] | None
    """The first usable example (a row of examples.EXAMPLES); None where there is none."""
    encoded: Encoded | None
    longest: int
    """Tokens of the longest usable example."""
    longest_answer: int

    @property
    def is_complete(self) -> bool:
        """Whether every unit was read."""
        return self.share == 1


def sample_examples(
    shards: Sequence[TraceShard], reading: ReadingSpec, encoding: EncodingSpec, max_units: int
) -> ExampleSample:
    """Read shards, all where they hold at most `max_units` units, else in an order drawn by the seed until they do.

    What is read of the last shard is its first units.
    """
    with ThreadPoolExecutor(SHARDS_OPENED_AT_ONCE) as pool:
        sizes = list(pool.map(_count_units, shards))
    chosen = list(range(len(shards)))
    if sum(sizes) > max_units:
        chosen = np.random.default_rng(reading.seed).permutation(len(shards)).tolist()
    indexes: list[pa.Table] = []
    first, left, read = None, float(max_units), 0.0
    for number in chosen:
        examples = read_examples(shards[number], reading)
        share = min(1.0, left / max(1, sizes[number]))
        examples = examples.slice(0, int(np.ceil(share * len(examples))))
        index = index_shard(examples, encoding)
        first = first or _find_first(examples, index)
        indexes.append(index)
        read, left = read + share * sizes[number], left - share * sizes[number]
        if left <= 0:
            break
    tokens = pa.concat_tables([index.select(["num_tokens", "num_prompt_tokens"]) for index in indexes]).to_pylist()
    usable = [row for row in tokens if row["num_tokens"] is not None]
    encoded = None if first is None else encode_examples(pa.Table.from_pylist([first], examples.schema), encoding)[0]
    return ExampleSample(
        survey=sum_up(indexes, reading),
        share=1.0 if sum(sizes) <= max_units else read / sum(sizes),
        num_shards=len(indexes),
        first=first,
        encoded=encoded,
        longest=max((row["num_tokens"] for row in usable), default=0),
        longest_answer=max((row["num_tokens"] - row["num_prompt_tokens"] for row in usable), default=0),
    )


def _count_units(shard: TraceShard) -> int:
    with (Folder(shard.run) / "traces").open_parquet(shard.name) as file:
        return int(file.metadata.num_rows)


def _find_first(examples: pa.Table, index: pa.Table) -> dict[str, Any] | None:
    usable = np.flatnonzero(np.array(index["reason"].is_null()))
    if not len(usable):
        return None
    row: dict[str, Any] = examples.slice(int(usable[0]), 1).to_pylist()[0]
    return row


@dataclass(frozen=True)
class EpochEstimate:
    """What an epoch of all shards takes, as far as a sample tells."""

    examples: float
    prompt_tokens: float
    answer_tokens: float
    padding_share: float | None
    """Of the tokens computed in the sample's own steps, worse to group where they are few; None without a whole one."""
    steps: int

    @property
    def computed_tokens(self) -> float:
        """Tokens with padding."""
        return (self.prompt_tokens + self.answer_tokens) / (1 - (self.padding_share or 0.0))


def estimate_epoch(sample: ExampleSample, order: EpochOrder, workers: int, micro_batch: int) -> EpochEstimate:
    """Extrapolate a sample with at least one usable example to an epoch."""
    index = sample.survey.index()
    own = order.order_examples(index, 0)
    fills_steps = len(own) >= order.batch
    tokens = float(index.num_tokens[own].sum()) / sample.share
    answers = tokens * sample.survey.num_answer_tokens / sample.survey.num_tokens
    return EpochEstimate(
        examples=len(own) / sample.share,
        prompt_tokens=tokens - answers,
        answer_tokens=answers,
        padding_share=share_padding(index, order, 0, workers, micro_batch) if fills_steps else None,
        steps=max(1, int(len(own) / sample.share) // order.batch),
    )
