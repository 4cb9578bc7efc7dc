"""report.md of a run of refine_guideline: what a person reads first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from judgetrace.agreement.figures import show_share, title, write_table
from judgetrace.refining.agreement_change import RATERS, TARGET
from judgetrace.refining.losses import describe_losses
from judgetrace.refining.outcome import PARTS, Outcome, describe_race, tabulate_candidates

LEFT_OUT = {
    "no_thinking": "its rating was given without any thinking",
    "not_verified": "verify_traces has no verdict about it",
    "not_recovered": "a second model could not tell the rating from it",
    "hinted_unverified": "it was told the label, and verify_traces has no verdict about it",
    "hinted_leaks": "it was told the label, and names a level or says that it was told",
    "hinted_over_share": "it was told the label, and selection.max_hinted_share leaves no more room",
}


def write_report(outcome: Outcome, dimension: str, difference: str) -> str:
    """Write the report; `difference` is guideline.diff."""
    name = f" of {dimension}" if dimension else ""
    lines = [f"# Refined guideline{name}", "", outcome.contest.confirmation.describe()]
    if outcome.contest.why_not_raced:
        lines.append(f"There was no race: {outcome.contest.why_not_raced}.")
    lines += [f"\n**Note.** {note}" for note in outcome.notes]
    lines += ["", "## Agreement", "", *_write_agreement(outcome)]
    lines += ["", "## Traces", "", *_write_traces(outcome)]
    lines += ["", "## Candidates", "", *_write_candidates(outcome)]
    lines += ["", "## What changed", "", *_write_difference(difference)]
    return "\n".join(lines) + "\n"


def _write_agreement(outcome: Outcome) -> Iterator[str]:
    rows = outcome.changes.to_pylist()
    if outcome.measured_on is None:
        yield f"Not measured: {outcome.why_not_measured}."
        return
    yield f"On {len(outcome.items.rows[outcome.measured_on]):,} items of {PARTS[outcome.measured_on]}."
    if outcome.measured_on == "confirm":
        yield "These items decided whether the original is replaced; `test.enabled` would measure on others."
    challenger, winner = outcome.contest.challenger, outcome.contest.winner
    if challenger is None:
        yield "There is no refined guideline to compare with; these are the original's figures."
    elif challenger != winner:
        yield f'"After" is the best candidate, {challenger}, which was **not** shown to beat the original.'
    else:
        yield f'"Before" is the original, "after" is {winner}, which is returned.'
    for comparison, heading in ((TARGET, "Raters with people's labels"), (RATERS, "Raters with each other")):
        own = [row for row in rows if row["comparison"] == comparison]
        if own:
            yield f"\n### {heading}\n"
            yield from write_table(("who", "statistic", "items", "before", "after", "change"), map(_write_row, own))
    yield "\n### Coverage\n"
    yield from write_table(
        ("rater", *outcome.coverage),
        (
            (rater, *(show_share(shares[rater]) for shares in outcome.coverage.values()))
            for rater in next(iter(outcome.coverage.values()))
        ),
    )


def _write_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    shown = (_show(row, "before"), _show(row, "after"), _show(row, "change", "+"))
    return (row["who"], title(row["statistic"]), f"{row['num_items']:,}", *shown)


def _show(row: Mapping[str, Any], name: str, mark: str = "") -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return ""
    return f"{value:{mark}.3f}" + ("" if low is None else f" [{low:{mark}.3f}, {high:{mark}.3f}]")


def _write_traces(outcome: Outcome) -> Iterator[str]:
    traces = outcome.traces
    yield f"Candidates were written from accepted traces of the train split, {traces.wanted:,} of each level at most.\n"
    yield from write_table(("level", "may teach"), ((level, f"{n:,}") for level, n in traces.available.items()))
    if traces.left_out:
        yield "\nOther accepted traces were left out:\n"
        lines = ((f"{n:,}", reason, LEFT_OUT.get(reason, "")) for reason, n in sorted(traces.left_out.items()))
        yield from write_table(("traces", "reason", "which means"), lines)
    lost = [(row["name"], found) for row in tabulate_candidates(outcome).to_pylist() if (found := describe_losses(row))]
    if lost:
        yield "\nNot all of them went in: these candidates lack what the generator gave no usable answer for.\n"
        yield from write_table(("candidate", "lacks"), lost)


def _write_candidates(outcome: Outcome) -> Iterator[str]:
    race = outcome.contest.race
    if race is not None:
        yield f"{describe_race(race)}\n"
    lines = (
        (
            f"**{row['name']}**" if row["is_winner"] else row["name"],
            "" if row["num_items"] is None else f"{row['num_items']:,}",
            "" if row["mean_score"] is None else f"{row['mean_score']:.4f}",
            _show(
                {"minus": row["minus_original"], "minus_low": row["low"], "minus_high": row["high"]}, "minus", mark="+"
            ),
            _explain(row),
            f"{row['num_calls']:,}",
            f"{row['num_ratings']:,}",
        )
        for row in tabulate_candidates(outcome).to_pylist()
    )
    yield from write_table(
        ("candidate", "items", "score", "minus original", "what became of it", "calls", "ratings"), lines
    )
    yield "\nCalls are those of the generator that a candidate was made from; what several share counts for each."


def _explain(row: Mapping[str, Any]) -> str:
    if row["why_out"]:
        return f"not raced: {row['why_out']}"[:300]
    if row["out_at_look"] is not None:
        return f"out at look {row['out_at_look']}, behind {row['behind']}"
    if row["is_winner"]:
        return "returned"
    return "came out ahead" if row["is_challenger"] else ""


def _write_difference(difference: str) -> Iterator[str]:
    if not difference:
        yield "Nothing: the original guideline is returned."
        return
    longest = max(map(len, re.findall("`+", difference)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}diff\n{difference}{fence}"
