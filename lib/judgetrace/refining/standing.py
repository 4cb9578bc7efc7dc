"""How a run of refine_guideline stands, from its files alone. Imports no Ray."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from judgetrace.refining.panel_rows import KNOWN_BY, KNOWN_RATINGS
from judgetrace.refining.part_log import PartLog
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state


def read_standing(run: RunFolder, now: float) -> dict[str, Any]:
    """Read how a run with at least one driver stands.

    state            for a person
    stage            what is going on, or was at the last word; null before the first
    done, wanted     calls or ratings of the stage
    ratings          recorded ones by outcome, of all calls of the job
    winner           the candidate that is returned; null before the run is complete
    is_replaced      whether that is another guideline than the original; likewise
    """
    state, last = describe_state(run, now)
    log = PartLog(run.folder / "ratings", KNOWN_RATINGS, KNOWN_BY)
    log.refresh()
    outcomes: dict[str, int] = {}
    for row in log.rows:
        outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + 1
    manifest = run.folder.read_json("manifest.json") if run.has_manifest() else {}
    return {
        "state": state,
        **{name: last.get(name) for name in ("at", "stage", "done", "wanted")},
        "ratings": outcomes,
        **{name: manifest.get(name) for name in ("winner", "is_replaced")},
    }


def print_standing(console: Console, standing: dict[str, Any]) -> None:
    """Print what read_standing found."""
    if standing["stage"] is not None and standing["winner"] is None:
        console.print(f"{standing['stage']}: {standing['done']:,} of {standing['wanted']:,}", markup=False)
    ratings = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(standing["ratings"].items()))
    console.print(f"ratings: {ratings or 'none yet'}")
    if standing["winner"] is not None:
        verb = "replaces the original guideline" if standing["is_replaced"] else "is returned"
        console.print(f"{standing['winner']} {verb}")
