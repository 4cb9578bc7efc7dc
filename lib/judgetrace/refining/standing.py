"""How a run of refine_guideline stands, from its files alone. Imports no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console

from judgetrace.refining.caller import CALL_KEY
from judgetrace.refining.calls import CALLS
from judgetrace.refining.panel_rows import KNOWN_BY, KNOWN_RATINGS
from judgetrace.refining.part_log import PartLog
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state
from judgetrace.storage import Folder


def read_standing(run: RunFolder, now: float) -> dict[str, Any]:
    """Read how a run with at least one driver stands.

    state            for a person
    stage            what is going on, or was at the last word; null before the first
    done, wanted     calls or ratings of the stage
    calls            recorded calls of the generator by outcome, of all calls of the job
    ratings          recorded ratings likewise
    winner           the candidate that is returned; null before the run is complete
    is_replaced      whether that is another guideline than the original; likewise
    """
    state, last = describe_state(run, now)
    manifest = run.folder.read_json("manifest.json") if run.has_manifest() else {}
    return {
        "state": state,
        **{name: last.get(name) for name in ("at", "stage", "done", "wanted")},
        "calls": count_outcomes(run.folder / "calls", CALLS, CALL_KEY),
        "ratings": count_outcomes(run.folder / "ratings", KNOWN_RATINGS, KNOWN_BY),
        **{name: manifest.get(name) for name in ("winner", "is_replaced")},
    }


def count_outcomes(folder: Folder, schema: pa.Schema, key: Sequence[str]) -> dict[str, int]:
    """Count the newest rows of a log by outcome."""
    log = PartLog(folder, schema, key)
    log.refresh()
    return dict(Counter(row["outcome"] for row in log.rows))


def print_standing(console: Console, standing: dict[str, Any]) -> None:
    """Print what read_standing found."""
    if standing["stage"] is not None and standing["winner"] is None:
        console.print(f"{standing['stage']}: {standing['done']:,} of {standing['wanted']:,}", markup=False)
    for name in ("calls", "ratings"):
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(standing[name].items()))
        console.print(f"{name}: {counts or 'none yet'}")
    if standing["winner"] is not None:
        verb = "replaces the original guideline" if standing["is_replaced"] else "is returned"
        console.print(f"{standing['winner']} {verb}", markup=False)
