"""The refined guideline as a section of the report: verdict, candidates, and what changed, line by line. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, DiffLine, Section, Table

CONTEXT_LINES = 3
MAX_LINES = 2000
_SHOWN = ("name", "kind", "seed", "is_winner", "problems", "error")
_HIDDEN = ("text",)


@dataclass(frozen=True)
class Refinement:
    """What refine_guideline wrote; every part may be missing."""

    original: str | None
    refined: str | None
    candidates: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """refinement.json."""
    num_critiques: int = 0


def make_guideline(found: Refinement) -> Section:
    """Make the section of the refined guideline."""
    made: list[Block] = []
    verdict = _find_verdict(found.facts)
    if verdict:
        made.append(blocks.Notes("Verdict", verdict))
    if found.candidates:
        made.append(_tabulate_candidates(found.candidates))
    if found.original is not None and found.refined is not None:
        made.append(_compare(found.original, found.refined))
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
    """Read what a refinement says of itself: sentences under `verdict` or `verdicts`, as texts or by name."""
    found = facts.get("verdicts", facts.get("verdict"))
    if isinstance(found, str):
        return [found]
    if isinstance(found, Mapping):
        return [f"{name}: {value}" for name, value in found.items() if isinstance(value, str | int | float | bool)]
    return [str(sentence) for sentence in found] if isinstance(found, Sequence) else []


def _tabulate_candidates(candidates: Sequence[Mapping[str, Any]]) -> Table:
    present = list(candidates[0])
    scores = [
        name
        for name in present
        if name not in (*_SHOWN, *_HIDDEN) and any(isinstance(row.get(name), int | float) for row in candidates)
    ]
    rows = [
        [
            Cell(str(row.get("name", "")), str(row.get("kind") or ""), "good" if row.get("is_winner") else ""),
            "winner" if row.get("is_winner") else "",
            *(_show(row.get(name)) for name in scores),
            _say(row.get("problems") or row.get("error")),
        ]
        for row in candidates
    ]
    columns = ["candidate", "", *(name.replace("_", " ") for name in scores), "not raced because"]
    return Table("Candidates", columns, rows)


def _say(found: Any) -> str:
    return "" if found is None else found if isinstance(found, str) else "; ".join(map(str, found))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _compare(original: str, refined: str) -> Block:
    lines = list(compare_lines(original, refined))
    if not any(line.mark in "+-" for line in lines):
        return blocks.Prose("The original guideline was kept: no candidate was better with enough certainty.")
    added, removed = (sum(line.mark == mark for line in lines) for mark in "+-")
    return blocks.Diff(f"Original and refined guideline: {added} lines added, {removed} removed", lines[:MAX_LINES])


def compare_lines(original: str, refined: str) -> Iterator[DiffLine]:
    """Compare two texts line by line; of a long run of equal lines only those near a change are kept."""
    for number, line in enumerate(
        difflib.unified_diff(original.splitlines(), refined.splitlines(), lineterm="", n=CONTEXT_LINES)
    ):
        if number < 2:
            continue
        yield DiffLine(line[:1] or " ", "" if line.startswith("@@") else line[1:])
