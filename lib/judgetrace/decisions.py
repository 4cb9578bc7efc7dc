"""Turn a unit's draws into its row of traces: outcome, trace, rating, draws. Pure.

The same function serves a run and a later decision from recorded draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.acceptance import AcceptanceConfig, accept_rating
from judgetrace.asking import NOTHING_TOLD, AskedUnit, Told
from judgetrace.products import TRACE_PRODUCT, Product
from judgetrace.sampling import Draw, DrawReason, SamplingConfig, UnitSampling
from judgetrace.scale import Scale
from judgetrace.schema import DECISIONS, FIRST_PROPOSAL, UNIT_KEY, UnitKey, unit_key
from judgetrace.traces import select_left

FINAL_OUTCOMES = frozenset(
    {"accepted", "exhausted", "over_quota", "rated", "unrated", "recovered", "missed", "quarantined"}
)
"""Outcomes that no later run changes."""


class Decider(Protocol):
    """What a job wants of units: which of them, what a rating is worth, what their draws come to. Can be pickled."""

    @property
    def sampling(self) -> SamplingConfig:
        """How draws are sampled."""

    @property
    def product(self) -> Product:
        """What is published."""

    @property
    def asks_dropped(self) -> bool:
        """Whether items that the target rule dropped are asked too."""

    @property
    def scores_levels(self) -> bool:
        """Whether a draw's rating is read off the probabilities of all levels instead of being sampled."""

    @property
    def selects_all(self) -> bool:
        """Whether every unit of the corpus with a target label is asked."""

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """Complete runs of infer_traces that the selection depends on."""

    @property
    def earlier_columns(self) -> tuple[str, ...]:
        """Columns of their traces, besides key and outcome, that units are asked with."""

    def select_units(self, items: pa.Table, before: pa.Table, earlier: pa.Table) -> pa.Table:
        """Select the units (schema.ITEMS) of a shard.

        `before` has the keys of the shard before it in its bucket, `earlier` the shard's rows of `earlier_runs`
        (traces.read_earlier), without `earlier_columns` where units are only counted. Further columns may be added.
        """

    def tell(self, row: Mapping[str, Any], scale: Scale) -> Told:
        """Say what the prompt of a unit (a row that was selected) holds besides its item."""

    def judge(self, rating: str, unit: AskedUnit) -> tuple[DrawReason, str | None]:
        """Judge a draw that gave a level of the scale; returns its reason and by which rule it was accepted."""

    def decide(self, unit: AskedUnit, sampling: UnitSampling) -> dict[str, Any]:
        """Make the unit's row (schema `product.decisions`) of its draws so far; `undecided` where more are needed."""


@dataclass(frozen=True)
class TraceDecider:
    """Decides by the human label: the first draw that matches it is accepted."""

    sampling: SamplingConfig
    acceptance: AcceptanceConfig
    keep_rejected_text: bool = False
    product: Product = TRACE_PRODUCT
    asks_dropped: bool = False
    scores_levels: bool = False
    proposal: str = FIRST_PROPOSAL
    hinted: bool = False
    earlier_runs: tuple[str, ...] = ()
    earlier_columns: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def selects_all(self) -> bool:
        """Whether neither splits nor earlier runs leave anything out."""
        return not self.splits and not self.earlier_runs

    def select_units(self, items: pa.Table, before: pa.Table, earlier: pa.Table) -> pa.Table:
        """Select all units, or those of the splits asked for, and of these the ones that the earlier runs left."""
        if self.splits:
            items = items.filter(pc.is_in(items["split"], pa.array(self.splits)))
        return select_left(items, earlier) if self.earlier_runs else items

    def tell(self, row: Mapping[str, Any], scale: Scale) -> Told:
        """Tell the target label where the run is to argue for it."""
        return Told({"hint": row["target_label"]}) if self.hinted else NOTHING_TOLD

    def judge(self, rating: str, unit: AskedUnit) -> tuple[DrawReason, str | None]:
        """Accept a rating that matches the unit's labels; of a hinted one the label that it was told alone."""
        labels = unit.accepted_labels[:1] if self.hinted else unit.accepted_labels
        accepted_by = accept_rating(rating, labels, unit.annotator_labels, unit.scale, self.acceptance)
        return ("accepted" if accepted_by else "disagrees"), accepted_by

    def decide(self, unit: AskedUnit, sampling: UnitSampling) -> dict[str, Any]:
        """Make a row of schema.DECISIONS."""
        row = decide_unit(
            unit.key, sampling, self.keep_rejected_text, unit.refused, unit.shortened, skipped=unit.skipped
        )
        return row | {"proposal": self.proposal, "hinted": self.hinted}


def decide_unit(
    key: UnitKey,
    sampling: UnitSampling,
    keep_rejected_text: bool,
    refused: str | None = None,
    shortened: bool = False,
    *,
    skipped: str | None = None,
) -> dict[str, Any]:
    """Decide a unit by its draws so far; returns a row of schema.DECISIONS but for what its proposal was.

    `refused` is why the unit can't be asked at all, `skipped` the outcome of one that is not to be asked. A unit that
    is not decided yet is `undecided`.
    """
    draws = sampling.draws
    accepted = sampling.accepted
    failures = [draw for draw in draws if draw.reason == "failed"]
    if refused is not None:
        outcome = "quarantined"
    elif skipped is not None:
        outcome = skipped
    elif not sampling.is_decided:
        outcome = "undecided"
    elif accepted:
        outcome = "accepted"
    else:
        outcome = "failed" if failures else "exhausted"
    first = accepted[0] if outcome == "accepted" else None
    return {
        **dict(zip(UNIT_KEY, key, strict=True)),
        "outcome": outcome,
        "trace": first.trace if first else None,
        "rating": first.rating if first else None,
        "draw_index": first.index if first else None,
        "accepted_by": first.accepted_by if first else None,
        "num_needed": sampling.num_needed,
        "error": refused or (failures[-1].error if outcome == "failed" else None),
        "shortened": shortened,
        "draws": [encode_draw(draw, keep_rejected_text or draw in accepted) for draw in draws],
    }


def tabulate_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of rows. What no UTF-8 can hold (half a surrogate pair, from a server's JSON) becomes "?"."""
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except UnicodeEncodeError:
        return pa.Table.from_pylist([_mend(row) for row in rows], schema=schema)


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {key: _mend(part) for key, part in value.items()}
    return [_mend(part) for part in value] if isinstance(value, list | tuple) else value


def encode_draw(draw: Draw, keep_text: bool) -> dict[str, Any]:
    """Write a draw as schema.DRAW holds it."""
    # vars() rather than asdict(), which copies deeply and took a fifth of a worker's time.
    return dict(vars(draw)) if keep_text else {**vars(draw), "text": None, "trace": None}


def decode_draw(row: Mapping[str, Any]) -> Draw:
    """Read a draw back."""
    return Draw(**row)


TEXT_NOT_KEPT = "the texts of the draws that match were not kept; sample again with ledger.keep_rejected_text = true"


def decide_again(
    row: Mapping[str, Any], scale: Scale, acceptance: AcceptanceConfig, sampling: SamplingConfig
) -> dict[str, Any]:
    """Decide a unit anew from its recorded draws, by its row's labels and another acceptance rule.

    `row` has the columns of schema.TRACES. Of the draws that match the first one counts whose text was kept: another
    has no trace to teach. A unit becomes `undecided` that needs draws which nobody sampled, or, with the error
    TEXT_NOT_KEPT, texts which nobody kept.
    """
    if row["outcome"] in ("quarantined", "failed", "over_quota"):
        return {name: row.get(name) for name in DECISIONS.names}
    draws = [_judge_again(decode_draw(draw), row, scale, acceptance) for draw in row["draws"]]
    again = decide_unit(unit_key(row), UnitSampling(sampling, draws, forget_failed=False), keep_rejected_text=True)
    again |= {name: row.get(name) for name in ("shortened", "proposal", "hinted")}
    return again if again["outcome"] != "accepted" else again | _choose_kept(draws)


def _choose_kept(draws: Sequence[Draw]) -> dict[str, Any]:
    """Choose the first draw that matches and whose text was kept; returns what that changes in the unit's row."""
    matching = (draw for draw in draws if draw.reason == "accepted")
    chosen = next((draw for draw in matching if draw.text is not None or draw.trace is not None), None)
    if chosen is None:
        lacking = dict.fromkeys(("trace", "rating", "draw_index", "accepted_by"))
        return {**lacking, "outcome": "undecided", "error": TEXT_NOT_KEPT}
    return {
        "trace": chosen.trace,
        "rating": chosen.rating,
        "draw_index": chosen.index,
        "accepted_by": chosen.accepted_by,
        "num_needed": chosen.index + 1,
    }


def _judge_again(draw: Draw, row: Mapping[str, Any], scale: Scale, acceptance: AcceptanceConfig) -> Draw:
    if draw.rating is None:
        return draw
    labels = row["accepted_labels"]
    if row.get("hinted"):
        # It argued for the label that it was told: agreeing with another one says nothing.
        labels, acceptance = labels[:1], AcceptanceConfig()
    accepted_by = accept_rating(draw.rating, labels, row["annotator_labels"], scale, acceptance)
    return replace(draw, reason="accepted" if accepted_by else "disagrees", accepted_by=accepted_by)
