"""What a run of refine_guideline came to: its table of candidates, its figures as data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from judgetrace.refining.agreement_change import RATERS
from judgetrace.refining.contest import Contest
from judgetrace.refining.entries import Entry
from judgetrace.refining.held_items import HeldItems, Part
from judgetrace.refining.losses import LOSSES, list_columns
from judgetrace.refining.racing import Race
from judgetrace.refining.standings import STANDINGS, list_standings
from judgetrace.refining.trace_choice import TraceSupply

ALPHAS = {f"alpha_{kind}": "alpha" for kind in ("nominal", "ordinal", "interval")}
FIGURES = {
    "people": {"kendall_tau_b": "tau", "icc_3_1": "icc", "mse": "mse", "exact_agreement": "exact"},
    "raters": {"icc_3_1": "icc"} | ALPHAS,
}
"""Whose agreement -> statistic of agreement_change.CHANGES -> its name in columns of CANDIDATES."""
PARTS: dict[Part, str] = {
    "race": "the racing half of the validation split",
    "confirm": "the confirming half of the validation split",
    "test": "the test split",
}
"""What parts of the items are called."""
VERDICTS = {
    "leads": "one candidate was left",
    "original_stands": "every other candidate fell clearly behind",
    "none_better": "none of those left was better than the one that is named by what matters",
    "no_items_left": "the items ran out; nothing is claimed about who is best",
}
CANDIDATES = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),  # original, given, instructions, rubric, both
        ("seed", pa.int64()),  # of the traces that it was written from; null for the original and one that was given
        ("text", pa.string()),  # the guideline of the dimension; null where there is none
        ("problems", pa.list_(pa.string())),  # what the lint found
        ("error", pa.string()),  # why a call failed that it needed; null otherwise
        ("why_out", pa.string()),  # why it did not enter the race; null where it did, or would have
        *(field for field in STANDINGS if field.name != "candidate"),  # null where there was no race for it
        # Agreement on the items of the race that have been rated with the original and the candidate, its paired change
        # from the original, and that one's interval; null where undefined. people: of raters with people's labels, the
        # mean over raters; raters: of all raters with each other
        *(
            (f"{who}_{figure}{end}", pa.float64())
            for who, figures in FIGURES.items()
            for figure in dict.fromkeys(figures.values())
            for end in ("", "_change", "_change_low", "_change_high")
        ),
        # Calls of the generator that it was made from: critiques, drafts, merges; shared ones are counted for each
        ("num_calls", pa.int64()),
        *LOSSES,
        ("num_ratings", pa.int64()),  # ratings that were made with it in all calls of this run
        ("prompt_tokens", pa.int64()),  # of these
        ("output_tokens", pa.int64()),
        ("is_winner", pa.bool_()),  # it is guideline.md
    ]
)
"""One row a candidate; what candidates.parquet holds."""


@dataclass(frozen=True)
class Spent:
    """What ratings by one guideline took."""

    num_ratings: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Outcome:
    """All that is written about a run."""

    entries: Sequence[Entry]
    contest: Contest
    items: HeldItems
    measured_on: Part | None
    """Where agreement was measured; None where nowhere."""
    changes: pa.Table
    """Rows of agreement_change.CHANGES."""
    coverage: Mapping[str, Mapping[str, float]]
    """before, after -> rater -> share of these items with a rating."""
    spent: Mapping[str, Spent]
    """By candidate."""
    notes: Sequence[str]
    """What a reader must know, each a sentence."""
    traces: TraceSupply
    """What candidates were written from."""
    raced: Mapping[str, pa.Table] = field(default_factory=dict)
    """Candidate -> rows of agreement_change.CHANGES on the items of the race, from the original to it."""

    @property
    def why_not_measured(self) -> str | None:
        """Why agreement was measured nowhere; None where it was."""
        if self.measured_on is not None:
            return None
        part: Part = "confirm" if self.items.rule.test is None else "test"
        if not self.items.rows[part]:
            return f"{PARTS[part]} has no items"
        return (
            "no candidate was left to compare the original with, and the test split is left alone "
            "(test.enabled = false)"
        )

    @property
    def winner(self) -> Entry:
        """The candidate that is returned."""
        return next(entry for entry in self.entries if entry.name == self.contest.winner)


def tabulate_candidates(outcome: Outcome) -> pa.Table:
    """Tabulate all candidates as CANDIDATES."""
    race = outcome.contest.race
    standings = {} if race is None else {row["candidate"]: row for row in list_standings(race).to_pylist()}
    rows = []
    for entry in outcome.entries:
        candidate = entry.candidate
        row = dict.fromkeys(CANDIDATES.names) | standings.get(entry.name, {})
        row |= {"name": candidate.name, "kind": candidate.kind, "seed": candidate.seed, "text": candidate.text or None}
        row |= {"problems": list(candidate.problems), "error": candidate.error, "why_out": entry.why_out}
        row |= {"num_calls": candidate.num_calls} | list_columns(candidate.losses)
        time: Literal["before", "after"] = "before" if candidate.kind == "original" else "after"
        row |= describe_agreement(outcome.raced.get(entry.name), time)
        row |= vars(outcome.spent.get(entry.name, Spent())) | {"is_winner": entry.name == outcome.contest.winner}
        row.pop("candidate", None)
        rows.append(row)
    return pa.Table.from_pylist(rows, CANDIDATES)


def describe_agreement(changes: pa.Table | None, time: Literal["before", "after"]) -> dict[str, float | None]:
    """Describe how far raters agree with people and each other under a candidate, by names of CANDIDATES' columns.

    `changes` are from the original to the candidate, so its own figures are those after; the original's, before.
    """
    found: dict[str, float | None] = {}
    for row in [] if changes is None else changes.to_pylist():
        who = "raters" if row["comparison"] == RATERS else "people"
        figure = FIGURES[who].get(row["statistic"])
        if figure is not None:
            # The last one counts: the mean follows the raters, all raters follow the pairs. One alone is the mean.
            ends = {f"{who}_{figure}_{end}": row[end] for end in ("change", "change_low", "change_high")}
            found |= {f"{who}_{figure}": row[time]} | ends
    return found


def describe_race(race: Race) -> str:
    """Say how a race ended, by which rule, and how often that rule errs."""
    return (
        f"The race took {race.look} of {len(race.looks)} looks and {race.num_scores:,} scores, of "
        f"{len(race.candidates) * len(race.groups):,} without racing; it ended since "
        f"{VERDICTS[str(race.verdict)]}. Scores lie between 0 and 1; those of different items can't be compared. "
        "A candidate that is clearly behind another gets no more calls; the chance that this, or an early end, "
        f"costs more than {race.config.indifference:.2g} of score is {race.config.alpha:.0%} at most."
    )


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """Collect verdicts, intervals and figures, for refinement.json and the manifest."""
    contest, race = outcome.contest, outcome.contest.race
    found: dict[str, Any] = {
        "winner": contest.winner,
        "is_replaced": contest.confirmation.is_replaced,
        "challenger": contest.challenger,
        "why_not_raced": contest.why_not_raced,
        "race": None,
        "confirmation": {**vars(contest.confirmation), "says": contest.confirmation.describe()},
        "items": {part: len(rows) for part, rows in outcome.items.rows.items()},
        "groups": {part: outcome.items.count_groups(part) for part in outcome.items.rows},
        "agreement_on": outcome.measured_on,
        "why_not_measured": outcome.why_not_measured,
        "agreement": outcome.changes.to_pylist(),
        "coverage": {time: dict(shares) for time, shares in outcome.coverage.items()},
        "notes": list(outcome.notes),
        "traces": {
            "available": dict(outcome.traces.available),
            "left_out": dict(outcome.traces.left_out),
            "wanted_per_level": outcome.traces.wanted,
        },
    }
    if race is not None:
        found["race"] = {
            "verdict": race.verdict,
            "says": describe_race(race),
            "looks": race.look,
            "looks_planned": len(race.looks),
            "scores": race.num_scores,
            "scores_without_racing": len(race.candidates) * len(race.groups),
            "standings": list_standings(race).to_pylist(),
        }
    return found
