"""Turn a unit's draws into a rater's annotation: a sampled rating, the mean or majority of several, an expectation.

Pure. A nominal scale has no mean: there one sampled label or the majority counts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, model_validator

from judgetrace.asking import NOTHING_TOLD, AskedUnit, Told
from judgetrace.config import STRICT
from judgetrace.decisions import encode_draw
from judgetrace.products import RATING_PRODUCT, Product
from judgetrace.sampling import Draw, DrawReason, SamplingConfig, Temperature, TopK, TopP, UnitSampling
from judgetrace.scale import Scale, expect_rating
from judgetrace.schema import TARGET_AGGREGATE, UNIT_KEY


class DecodingConfig(BaseModel):
    """How a rater's rating is read off the model."""

    model_config = STRICT

    rating: Literal["sampled", "expected"] = Field(
        default="sampled",
        description="sampled: the rating that the model writes; expected: the expectation over the scale under the "
        "model's own probabilities of each whole level (at temperature 1, made to sum to 1).",
    )
    samples: int = Field(default=1, ge=1, le=1024, description="Samples of thinking and rating for each item.")
    combine: Literal["mean", "majority"] = Field(
        default="mean", description="What several samples come to: their mean, or the most frequent level."
    )
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    max_tokens: int = Field(default=4096, ge=1, description="Output tokens of a sample at most, thinking and rating.")
    seed: int = Field(default=0, description="Seed of the run.")

    @model_validator(mode="after")
    def _check(self) -> DecodingConfig:
        if self.rating == "expected" and self.combine == "majority":
            raise ValueError("combine = 'majority' counts sampled levels; with rating = 'expected' use 'mean'")
        return self

    def sampling(self) -> SamplingConfig:
        """Return it as the sampling policy knows it: a fixed number of draws."""
        return SamplingConfig(
            mode="fixed",
            max_draws=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Rating:
    """What an item's draws come to; see schema.RATINGS."""

    label: str
    rating: float | None
    spread: float | None


def combine_draws(draws: Sequence[Draw], scale: Scale, decoding: DecodingConfig) -> Rating | None:
    """Combine the draws that gave a rating, in the order of their indices; None where none did.

    spread  of one sample: null, or the SD of the level distribution where it was scored; of several: the sample SD
            (ddof=1) of their numbers; by majority: the share of samples that gave another level. Which of these it is
            depends on the samples asked for: where one of several gave a rating, it is null.
    """
    rated = sorted((draw for draw in draws if draw.rating is not None), key=lambda draw: draw.index)
    if not rated:
        return None
    if scale.type == "nominal" or decoding.combine == "majority":
        return _take_majority(rated, scale)
    numbers = [_number(draw, scale) for draw in rated]
    mean = math.fsum(numbers) / len(numbers)
    label = scale.values[scale.snap(mean, "floor")[0]]
    if decoding.samples > 1:
        return Rating(label, mean, statistics.stdev(numbers) if len(numbers) > 1 else None)
    probabilities = rated[0].level_probabilities
    return Rating(label, mean, None if probabilities is None else _deviation(probabilities, scale))


def _take_majority(rated: Sequence[Draw], scale: Scale) -> Rating:
    """Take the most frequent level; of equally frequent ones the lowest (nominal: the first in the scale's order)."""
    counts = Counter(draw.rating for draw in rated)
    level = max(range(len(scale.values)), key=lambda level: (counts[scale.values[level]], -level))
    spread = None if len(rated) == 1 else 1 - counts[scale.values[level]] / len(rated)
    return Rating(scale.values[level], None if scale.type == "nominal" else scale.numbers[level], spread)


def _number(draw: Draw, scale: Scale) -> float:
    assert draw.rating is not None
    return scale.numbers[scale.values.index(draw.rating)] if draw.expected is None else draw.expected


def _deviation(probabilities: Sequence[float], scale: Scale) -> float:
    mean, total = expect_rating(probabilities, scale), math.fsum(probabilities)
    squares = math.fsum(p * (x - mean) ** 2 for p, x in zip(probabilities, scale.numbers, strict=True))
    return math.sqrt(squares / total)


@dataclass(frozen=True)
class RatingDecider:
    """Decides without any label: what the rater's draws come to."""

    rater_id: str
    decoding: DecodingConfig
    splits: tuple[str, ...] = ()
    asks_dropped: bool = False
    keep_text: bool = False
    dimensions: tuple[str, ...] = ()
    product: Product = RATING_PRODUCT
    earlier_runs: tuple[str, ...] = ()
    earlier_columns: tuple[str, ...] = ()
    selects_all: bool = False

    @cached_property
    def sampling(self) -> SamplingConfig:
        """A fixed number of draws. Made once: workers ask for it at every unit."""
        return self.decoding.sampling()

    @property
    def scores_levels(self) -> bool:
        """Whether levels are scored instead of sampled."""
        return self.decoding.rating == "expected"

    def tell(self, row: Mapping[str, Any], scale: Scale) -> Told:
        """Tell nothing: a rater sees the item alone."""
        return NOTHING_TOLD

    def select_units(self, items: pa.Table, before: pa.Table, earlier: pa.Table | None = None) -> pa.Table:
        """Select the first unit of each item and dimension, in the splits and dimensions asked for.

        Where targets are kept per annotator, an item's units lie together; `before` ends with what this shard goes on
        with. A target label that is one annotator's is set to null.
        """
        pairs = pa.concat_tables([before.select(UNIT_KEY[:2]), items.select(UNIT_KEY[:2])])
        seen: dict[tuple[str, str], int] = {}
        for row, pair in enumerate(zip(*(column.to_pylist() for column in pairs.columns), strict=True)):
            seen.setdefault(pair, row)
        first = pa.array([row - len(before) for row in seen.values() if row >= len(before)], pa.int64())
        chosen = items.take(first)
        if self.splits:
            chosen = chosen.filter(pc.is_in(chosen["split"], pa.array(self.splits)))
        if self.dimensions:
            chosen = chosen.filter(pc.is_in(chosen["dimension"], pa.array(self.dimensions)))
        is_aggregate = pc.equal(chosen["target_source"], TARGET_AGGREGATE)
        labels = pc.if_else(is_aggregate, chosen["target_label"], pa.scalar(None, pa.string()))
        return chosen.set_column(chosen.schema.get_field_index("target_label"), "target_label", labels)

    def judge(self, rating: str, unit: AskedUnit) -> tuple[DrawReason, str | None]:
        """Any level of the scale is a rating."""
        return "rated", None

    def decide(self, unit: AskedUnit, sampling: UnitSampling) -> dict[str, Any]:
        """Make a row of schema.RATINGS."""
        draws = sampling.draws
        failures = [draw.error for draw in draws if draw.reason == "failed"]
        rating = combine_draws(draws, unit.scale, self.decoding)
        error = unit.refused
        if unit.refused is not None:
            outcome = "quarantined"
        elif not sampling.is_decided:
            outcome = "undecided"
        elif failures:
            outcome, error = "failed", failures[-1]
        elif rating is None:
            outcome, error = "unrated", Counter(draw.reason for draw in draws).most_common(1)[0][0]
        else:
            outcome = "rated"
        shown = rating if outcome == "rated" else None
        return {
            **dict(zip(UNIT_KEY, unit.key, strict=True)),
            "rater_id": self.rater_id,
            "label": shown and shown.label,
            "rating": shown and shown.rating,
            "spread": shown and shown.spread,
            "num_ratings": sum(draw.rating is not None for draw in draws),
            "outcome": outcome,
            "error": error,
            "shortened": unit.shortened,
            "draws": [encode_draw(draw, self.keep_text) for draw in draws],
        }
