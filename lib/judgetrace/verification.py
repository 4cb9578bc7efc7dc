"""Hold accepted traces against a second model: can it tell the rating from the reasoning alone? Pure.

The model reads the guideline and the trace without its rating (stripping.strip_ratings), and names the level that the
trace argues for. It does not see the item: else it could rate that, and find the label whatever the trace says. A trace
from which the level can't be told argues for something else, or for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from judgetrace.asking import AskedUnit, Told
from judgetrace.config import STRICT
from judgetrace.decisions import encode_draw
from judgetrace.fingerprints import hash_text
from judgetrace.products import VERIFICATION_PRODUCT, Product
from judgetrace.sampling import DrawReason, SamplingConfig, Temperature, TopK, TopP, UnitSampling
from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY
from judgetrace.stripping import MASK, mentions_hint, names_level, strip_ratings
from judgetrace.traces import name_units

NOTHING_LEFT = "nothing is left of the trace without its rating"


class RecoveryConfig(BaseModel):
    """How the second model's rating is sampled: once."""

    model_config = STRICT

    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    max_tokens: int = Field(default=2048, ge=1, description="Output tokens at most, thinking and rating.")
    seed: int = Field(default=0, description="Seed of the run.")

    def sampling(self) -> SamplingConfig:
        """Return it as the sampling policy knows it: one draw."""
        return SamplingConfig(mode="fixed", max_draws=1, **self.model_dump())


@dataclass(frozen=True)
class TraceFacts:
    """What is known of a trace before anyone is asked; columns of schema.VERDICTS."""

    proposal: str
    hinted: bool
    rating: str
    trace_hash: str
    stripped_trace: str
    leaks: bool
    mentions_hint: bool


def hash_trace(trace: str | None) -> str:
    """Fingerprint a trace: a verdict counts for the very trace that it was given about."""
    return hash_text(trace or "")


def describe_trace(row: Mapping[str, Any], scale: Scale) -> TraceFacts:
    """Strip an accepted trace (columns trace, rating, proposal, hinted) and look at what is left."""
    trace = row["trace"] or ""
    stripped = strip_ratings(trace, scale)
    return TraceFacts(
        proposal=row["proposal"],
        hinted=row["hinted"],
        rating=row["rating"],
        trace_hash=hash_trace(trace),
        stripped_trace=stripped,
        leaks=names_level(stripped, scale),
        mentions_hint=mentions_hint(trace),
    )


@dataclass(frozen=True)
class VerificationDecider:
    """Decides whether a trace's rating was recovered from it."""

    trace_run: str
    decoding: RecoveryConfig = field(default_factory=RecoveryConfig)
    keep_text: bool = False
    product: Product = VERIFICATION_PRODUCT
    asks_dropped: bool = False
    scores_levels: bool = False
    selects_all: bool = False
    earlier_columns: tuple[str, ...] = ("trace", "rating", "proposal", "hinted")

    @cached_property
    def sampling(self) -> SamplingConfig:
        """One draw."""
        return self.decoding.sampling()

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """The run whose traces are verified."""
        return (self.trace_run,)

    def select_units(self, items: pa.Table, before: pa.Table, earlier: pa.Table) -> pa.Table:
        """Select the units that were accepted, and add what is known of their traces."""
        accepted = earlier.filter(pc.equal(earlier["outcome"], "accepted"))
        row = pc.index_in(name_units(items), name_units(accepted))
        units = items.filter(pc.is_valid(row))
        traces = accepted.take(row.drop_null())
        for name in self.earlier_columns:
            if name in traces.column_names:
                units = units.append_column(name, traces[name])
        return units

    def tell(self, row: Mapping[str, Any], scale: Scale) -> Told:
        """Tell the stripped trace; of an empty one there is nothing to ask."""
        facts = describe_trace(row, scale)
        is_empty = re.search(r"\w", facts.stripped_trace.replace(MASK, "")) is None
        return Told({"trace": facts.stripped_trace}, facts, "missed" if is_empty else None)

    def judge(self, rating: str, unit: AskedUnit) -> tuple[DrawReason, str | None]:
        """Any level of the scale is an answer."""
        return "rated", None

    def decide(self, unit: AskedUnit, sampling: UnitSampling) -> dict[str, Any]:
        """Make a row of schema.VERDICTS."""
        draws = sampling.draws
        label = next((draw.rating for draw in draws if draw.rating is not None), None)
        outcome, error = self._find_outcome(unit, sampling, label)
        return {
            **dict(zip(UNIT_KEY, unit.key, strict=True)),
            **vars(unit.facts),
            "recovered_label": label,
            "recovers": outcome == "recovered",
            "outcome": outcome,
            "error": error,
            "shortened": unit.shortened,
            "draws": [encode_draw(draw, self.keep_text) for draw in draws],
        }

    def _find_outcome(self, unit: AskedUnit, sampling: UnitSampling, label: str | None) -> tuple[str, str | None]:
        failures = [draw.error for draw in sampling.draws if draw.reason == "failed"]
        if unit.refused is not None:
            return "quarantined", unit.refused
        if unit.skipped is not None:
            return unit.skipped, NOTHING_LEFT
        if not sampling.is_decided:
            return "undecided", None
        if failures:
            return "failed", failures[-1]
        if label is None:
            return "unrated", sampling.draws[0].reason
        return ("recovered" if label == unit.facts.rating else "missed"), None
