"""The refined guideline as a section of the report: verdict, agreement, candidates, what changed line by line. Pure.

Shows what refine_guideline wrote: refinement.json, candidates.parquet, guideline.diff. Computes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.agreement.figures import title
from judgetrace.refining.losses import LOSSES, describe_losses
from judgetrace.reporting import blocks
from judgetrace.reporting.agreement_section import show_cell, show_change
from judgetrace.reporting.blocks import Block, Cell, Cells, DiffLine, Section, Table
from judgetrace.reporting.folding import say_left_out

MAX_LINES = 2000
ALPHAS = ("alpha_nominal", "alpha_ordinal", "alpha_interval")
TOGETHER = {
    "target": ("the target label", ("kendall_tau_b", "icc_3_1", "mse", "cohen_kappa", *ALPHAS)),
    "raters": ("each other", ("icc_3_1", "cohen_kappa", *ALPHAS)),
}
"""Comparison of refinement.json -> with whom raters are compared there, and the statistics to show."""
PARTS = {"confirm": "the half of the validation split that confirmed the choice", "test": "the test split"}
_WORDS = ("name", "kind", "seed", "text", "problems", "error", "why_out", "behind", "out_at_look", *LOSSES.names)
"""Columns of candidates.parquet that are no scores: what they say is in the first two columns."""
_BOUNDS = {"minus_original": ("low", "high")}
"""Score -> the columns of its interval, where these are not named after it."""


@dataclass(frozen=True)
class Refinement:
    """What refine_guideline wrote."""

    facts: Mapping[str, Any]
    """refinement.json."""
    candidates: Sequence[Mapping[str, Any]]
    """Rows of candidates.parquet."""
    difference: str
    """guideline.diff: the guideline that the run was given against the one that it returned; "" where it is that."""
    num_critiques: int = 0


def make_guideline(found: Refinement) -> Section:
    """Make the section of the refined guideline."""
    made: list[Block] = [blocks.Notes("Verdict", list(_list_verdicts(found.facts)))]
    if found.facts["agreement"]:
        made.append(_tabulate_agreement(found.facts))
    if found.candidates:
        made.append(_tabulate_candidates(found.candidates))
    made += _show_difference(found.difference)
    lead = (
        "Accepted traces, distilled into a clearer guideline. Candidates were scored on the validation split; the "
        "winner had to beat the original on a half of it that took no part in choosing."
    )
    if found.num_critiques:
        lead += f" {found.num_critiques:,} critiques were drawn from traces."
    return Section("guideline", "The refined guideline", lead, made)


def _list_verdicts(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["why_not_raced"]:
        yield f"The original guideline is returned. There was no race: {facts['why_not_raced']}."
    else:
        yield facts["confirmation"]["says"]
        # Older files do not say how the race ended.
        yield from filter(None, [(facts.get("race") or {}).get("says")])
    # Older files do not say why.
    if facts.get("why_not_measured"):
        yield f"Agreement was not measured: {facts['why_not_measured']}."
    yield from facts["notes"]


def _tabulate_agreement(facts: Mapping[str, Any]) -> Table:
    """Tabulate raters with people and with each other, before and after."""
    challenger, found = facts["challenger"], facts["agreement"]
    where = PARTS[facts["agreement_on"]]
    rows: list[Cells] = []
    for comparison, (whom, statistics) in TOGETHER.items():
        own = [row for row in found if row["comparison"] == comparison]
        chosen = [row for statistic in statistics for row in own if row["statistic"] == statistic]
        order = {who: place for place, who in enumerate(dict.fromkeys(row["who"] for row in own))}
        for row in sorted(chosen, key=lambda row: order[row["who"]]):
            rows.append([Cell(row["who"], f"with {whom}"), title(row["statistic"]), *_show_times(row, challenger)])
    if challenger is None:
        note = "There was nothing to compare the original with."
    else:
        returned = "is returned" if facts["is_replaced"] else "was not shown to be better: the original is returned"
        note = f"Before: the original guideline. After: {challenger}, which {returned}. The change is paired by item."
    columns = ["raters", "figure", "items", "before", *(["after", "change"] if challenger else [])]
    return Table(f"Agreement with the original and the refined guideline, on {where}", columns, rows, 2, note)


def _show_times(row: Mapping[str, Any], challenger: str | None) -> Iterator[str | Cell]:
    yield f"{row['num_items']:,}"
    yield show_cell(_pick(row, "before"))
    if challenger is not None:
        yield show_cell(_pick(row, "after"))
        yield show_change(row["statistic"], _pick(row, "change"))


def _pick(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}


def _tabulate_candidates(candidates: Sequence[Mapping[str, Any]]) -> Table:
    scores = _list_scores(candidates)
    rows = [
        [
            Cell(str(row["name"]), str(row["kind"]), "good" if row["is_winner"] else ""),
            Cell(_explain(row), describe_losses(row)),
            *(_show_score(row, name) for name in scores),
        ]
        for row in candidates
    ]
    columns = ["candidate", "what became of it", *(name.removeprefix("num_").replace("_", " ") for name in scores)]
    return Table("Candidates", columns, rows)


def _list_scores(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the columns that hold a figure of any candidate; bounds of intervals are shown beside theirs."""
    names = list(candidates[0])
    bounds = {bound for name in names for bound in _bounds_of(name) if bound in names}
    return [
        name
        for name in names
        if name not in _WORDS and name not in bounds and any(_is_figure(row.get(name)) for row in candidates)
    ]


def _bounds_of(name: str) -> tuple[str, str]:
    return _BOUNDS.get(name, (f"{name}_low", f"{name}_high"))


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show_score(row: Mapping[str, Any], name: str) -> str | Cell:
    value, (low, high) = row.get(name), _bounds_of(name)
    if isinstance(value, float):
        interval = {"value": value, "low": row.get(low), "high": row.get(high)}
        return show_cell(interval, sign=name.startswith("minus") or name.endswith("change"))
    return "" if value is None else f"{value:,}"


def _explain(row: Mapping[str, Any]) -> str:
    """Say what became of a candidate, as refine_guideline's report.md does."""
    if row["why_out"]:
        return f"not raced: {row['why_out']}"
    if row["out_at_look"] is not None:
        return f"out at look {row['out_at_look']}, behind {row['behind']}"
    if row["is_winner"]:
        return "returned"
    return "came out ahead" if row["is_challenger"] else ""


def _show_difference(difference: str) -> list[Block]:
    lines = list(read_difference(difference))
    if not lines:
        return [blocks.Prose("Nothing changed: the original guideline is returned.")]
    added, removed = (sum(line.mark == mark for line in lines) for mark in "+-")
    diff = blocks.Diff(
        f"Original and refined guideline; lines added: {added:,}, removed: {removed:,}", lines[:MAX_LINES]
    )
    return [diff, *say_left_out(len(lines) - MAX_LINES, "lines", "guideline.diff of the refinement")]


def read_difference(difference: str) -> Iterator[DiffLine]:
    """Read the lines of a unified difference; its two lines of names are left out."""
    for line in difference.split("\n")[2:]:
        if re.match(r"@@ .* @@$", line):
            yield DiffLine("@", "")
        elif line:
            yield DiffLine(line[0], line[1:])
