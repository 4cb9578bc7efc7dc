"""A study's plan and how its stages stand, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from judgetrace.live import format_seconds
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state
from judgetrace.study.headline import LEAD, LEAD_TOGETHER, TITLE_TOGETHER, Part, list_parts
from judgetrace.study.planning import Verdict
from judgetrace.study.records import FILE
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
        table.add_row(*map(Text, (stage.name, plan, verdict.folder, ", ".join(stage.needs), verdict.why)))
    console.print(table)


def print_headline(console: Console, table: pa.Table, notes: Sequence[str]) -> None:
    """Print the paper's table (headline.TABLE)."""
    console.print(LEAD, markup=False)
    for part in list_parts(table):
        shown = Table(title=escape(part.dimension) or None, title_justify="left", box=SIMPLE_HEAD)
        for column in part.columns[2:]:
            shown.add_column("" if column == "guideline" else column, overflow="fold")
        for kind, who, guideline, *figures in part.lines:
            head = who if kind in ("rater", "ceiling") else f"{kind}: {who}"
            shown.add_row(Text(f"{head}\n{guideline}"), *_narrow(figures))
        console.print(shown)
        if part.together is not None:
            _print_together(console, part.together)
    for note in notes:
        console.print(note, markup=False)


def _print_together(console: Console, part: Part) -> None:
    name = f"{TITLE_TOGETHER} ({part.dimension})" if part.dimension else TITLE_TOGETHER
    shown = Table(title=escape(name), title_justify="left", caption=LEAD_TOGETHER, box=SIMPLE_HEAD)
    for column in part.columns:
        shown.add_column(column, overflow="fold")
    for line in part.lines:
        shown.add_row(*_narrow(line))
    console.print(shown)


def _narrow(cells: Iterable[str]) -> Iterator[Text]:
    """Break figures before their intervals and within them, so that a table fits 80 columns."""
    return (Text(cell.replace(" [", "\n[").replace(", ", ",\n ")) for cell in cells)


def read_study_standing(run: RunFolder, now: float) -> dict[str, Any]:
    """Read how a study stands from its files alone; a stage that runs is told by its own run's latest word."""
    state, _ = describe_state(run, now)
    stages = run.folder.read_json(FILE)["stages"] if run.folder.exists(FILE) else []
    running = [row for row in stages if row["state"] == "running"]
    if running:
        # The study says nothing while a stage runs: what counts is whether the stage is alive.
        inner = RunFolder(run.folder / running[0]["folder"])
        at_work = describe_state(inner, now)[0] if inner.newest_driver() >= 0 else "running, or dead"
        state = f"{running[0]['stage']}: {at_work}"
    return {"state": state, "stages": stages}


def print_stages(console: Console, stages: Sequence[Mapping[str, Any]]) -> None:
    """Print the stages of study.json."""
    table = Table()
    for name in ("stage", "state", "time", "folder", "why"):
        table.add_column(name, overflow="fold")
    for row in stages:
        seconds = "" if row["seconds"] is None else format_seconds(row["seconds"])
        table.add_row(*map(Text, (row["stage"], row["state"], seconds, row["folder"], row["why"] or "")))
    console.print(table)
