"""A study's plan and how its stages stand, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from judgetrace.live import format_seconds
from judgetrace.study.planning import Verdict
from judgetrace.study.stages import Stage

WORDS = {
    "done": "done",
    "to do": "to do",
    "goes on": "goes on",
    "stale": "again, in a fresh folder",
    "changed": "changed",
    "redo": "again, in a fresh folder",
}


def print_plan(
    console: Console, stages: Sequence[Stage], verdicts: Mapping[str, Verdict], chosen: frozenset[str]
) -> None:
    """Print what is to become of each stage."""
    table = Table(title="Stages", title_justify="left")
    for name in ("stage", "plan", "folder", "needs", "why"):
        table.add_column(name, overflow="fold")
    for stage in stages:
        verdict = verdicts[stage.name]
        plan = WORDS[verdict.what] if stage.name in chosen or verdict.is_done else "not chosen"
        lacking = [name for name in stage.needs if name not in chosen and not verdicts[name].is_done]
        if lacking and stage.name in chosen:
            plan = f"blocked: {', '.join(lacking)}"
        table.add_row(stage.name, plan, verdict.folder, ", ".join(stage.needs), verdict.why)
    console.print(table)


def print_stages(console: Console, document: Mapping[str, Any]) -> None:
    """Print the stages of study.json."""
    table = Table()
    for name in ("stage", "state", "time", "folder", "why"):
        table.add_column(name, overflow="fold")
    for row in document["stages"]:
        seconds = "" if row["seconds"] is None else format_seconds(row["seconds"])
        table.add_row(row["stage"], row["state"], seconds, row["folder"], row["why"] or "")
    console.print(table)
