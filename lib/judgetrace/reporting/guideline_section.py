"""The refined guideline as a section of the report: verdict, candidates, and what changed, line by line. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.agreement.figures import title
from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, Cells, DiffLine, Section, Table

CONTEXT_LINES = 3
MEASURED_ON = {
    "confirm": ", on the half of the validation split that confirms",
    "test": ", on the test split",
}
MAX_LINES = 2000
_SHOWN = ("name", "kind", "seed", "is_winner", "problems", "error")
_HIDDEN = ("text", "out_at_look", "is_challenger")


@dataclass(frozen=True)
class Refinement:
    """What refine_guideline wrote; every part may be missing."""

    original: str | None
    """The corpus's guideline, which a run may have been given another one for."""
    refined: str | None
    candidates: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """refinement.json."""
    num_critiques: int = 0
    difference: str | None = None
    """guideline.diff: from the guideline that was refined; empty where it was kept."""


def make_guideline(found: Refinement) -> Section:
    """Make the section of the refined guideline."""
    made: list[Block] = []
    verdict = _find_verdict(found.facts)
    if verdict:
        made.append(blocks.Notes("Verdict", verdict))
    if found.candidates:
        made.append(_tabulate_candidates(found.candidates))
    agreement = _tabulate_agreement(found.facts)
    if agreement is not None:
        made.append(agreement)
    if found.difference is not None:
        made.append(_show_difference(list(read_difference(found.difference.splitlines()))))
    elif found.original is not None and found.refined is not None:
        made.append(_show_difference(list(compare_lines(found.original, found.refined))))
    elif found.refined is not None:
        made.append(blocks.Prose("The original is not in the run or the corpus, so there is nothing to compare with."))
        made.append(blocks.Diff("The guideline", [DiffLine(" ", line) for line in found.refined.splitlines()]))
    lead = (
        "Accepted traces, distilled into a clearer guideline. Candidates were scored on the validation split; the "
        "winner had to beat the original on a half of it that took no part in choosing."
    )
    if found.num_critiques:
        lead += f" {found.num_critiques:,} critiques were drawn from traces."
    return Section("guideline", "The refined guideline", lead, made)


def _find_verdict(facts: Mapping[str, Any]) -> list[str]:
    """Read what a refinement says of itself (refining.outcome.describe_outcome)."""
    said = [facts.get("confirmation", {}).get("says"), facts.get("why_not_raced"), *facts.get("notes", ())]
    return [str(sentence) for sentence in said if sentence]


def _tabulate_agreement(facts: Mapping[str, Any]) -> Table | None:
    """Tabulate how far raters agree before and after: rows of refining.agreement_change.CHANGES."""
    rows: list[Cells] = [
        [
            Cell(row["who"], "with the target label" if row["comparison"] == "target" else "among raters"),
            title(row["statistic"]),
            _show_interval(row, "before"),
            _show_interval(row, "after"),
            _show_interval(row, "change"),
            _show(row["num_items"]),
        ]
        for row in facts.get("agreement") or ()
    ]
    where = MEASURED_ON.get(facts.get("agreement_on") or "", "")
    caption = f"Agreement with the original and the refined guideline{where}"
    columns = ["who", "statistic", "original", "refined", "change", "items"]
    return Table(caption, columns, rows) if rows else None


def _show_interval(row: Mapping[str, Any], name: str) -> Cell:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    tone = "" if name != "change" or low is None else "quiet" if low <= 0 <= high else ""
    return Cell(_show(value), "" if low is None else f"{low:.3f} to {high:.3f}", tone)


def _tabulate_candidates(candidates: Sequence[Mapping[str, Any]]) -> Table:
    present = list(candidates[0])
    scores = [
        name
        for name in present
        if name not in (*_SHOWN, *_HIDDEN) and any(isinstance(row.get(name), int | float) for row in candidates)
    ]
    rows: list[Cells] = [
        [
            Cell(str(row.get("name", "")), _describe_place(row), "good" if row.get("is_winner") else ""),
            *(_show(row.get(name)) for name in scores),
            _say_why(row),
        ]
        for row in candidates
    ]
    columns = ["candidate", *(name.replace("_", " ") for name in scores), "out because"]
    return Table("Candidates", columns, rows)


def _describe_place(row: Mapping[str, Any]) -> str:
    """Say what kind of guideline a candidate is, and how far it came."""
    place = "is returned" if row.get("is_winner") else "won the race" if row.get("is_challenger") else ""
    return ", ".join(filter(None, (str(row.get("kind") or ""), place)))


def _say_why(row: Mapping[str, Any]) -> str:
    """Say why a candidate did not win: the lint, a call that failed, the race."""
    behind = f"clearly behind {row['behind']}" if row.get("behind") else ""
    return str(row.get("why_out") or row.get("error") or behind)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _show_difference(lines: Sequence[DiffLine]) -> Block:
    if not any(line.mark in "+-" for line in lines):
        return blocks.Prose("The original guideline was kept.")
    added, removed = (sum(line.mark == mark for line in lines) for mark in "+-")
    return blocks.Diff(f"Original and refined guideline: {added} lines added, {removed} removed", lines[:MAX_LINES])


def compare_lines(original: str, refined: str) -> Iterator[DiffLine]:
    """Compare two texts line by line; of a long run of equal lines only those near a change are kept."""
    return read_difference(
        difflib.unified_diff(original.splitlines(), refined.splitlines(), lineterm="", n=CONTEXT_LINES)
    )


def read_difference(lines: Iterable[str]) -> Iterator[DiffLine]:
    """Read the lines of a unified diff; its first two name the files."""
    for number, line in enumerate(lines):
        if number < 2:
            continue
        yield DiffLine(line[:1] or " ", "" if line.startswith("@@") else line[1:])
