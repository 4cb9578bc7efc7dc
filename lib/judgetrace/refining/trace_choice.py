"""Read the traces that guidelines are written from: shards are surveyed on Ray, then only chosen texts are read.

The same unit of several runs is taken once, from the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from judgetrace.config import UserError
from judgetrace.ledger import current_shard_files
from judgetrace.refining.critiques import ChosenTrace
from judgetrace.refining.selection import SELECTED, Selection, merge_selections, select_traces
from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key
from judgetrace.storage import Folder
from judgetrace.tasks import run_tasks


@dataclass(frozen=True)
class TraceFile:
    """A published shard of a run of infer_traces."""

    run: str
    name: str


@dataclass(frozen=True)
class SelectionRule:
    """What is selected from every shard, for every seed."""

    dimension: str
    scale: Scale
    per_level: int
    seeds: tuple[int, ...]
    split: str = "train"


@dataclass(frozen=True)
class ChosenTraces:
    """The selection of each seed, and the traces of all of them by (level, unit)."""

    selections: Mapping[int, Selection]
    traces: Mapping[tuple[str, UnitKey], ChosenTrace]

    def list_traces(self, seed: int, per_level: int) -> list[ChosenTrace]:
        """List a seed's first traces of every level, one of each level in turn."""
        selection = self.selections[seed]
        first = Selection(
            per_level, {level: keys[:per_level] for level, keys in selection.taken.items()}, selection.available
        )
        return [self.traces[pair] for pair in first.interleave()]


def list_trace_files(runs: Sequence[str]) -> list[TraceFile]:
    """List the published shards of runs, in the order of runs and shards. Raises UserError for a run without any."""
    found = []
    for run in runs:
        names = current_shard_files(Folder(run) / "traces")
        if not names:
            raise UserError(
                f"traces = {run}: no traces/shard-*.parquet there\n"
                "expected: a run folder of infer_traces, finished or ended early"
            )
        found += [TraceFile(run, name) for _, name in sorted(names.items())]
    return found


def survey_file(file: TraceFile, rule: SelectionRule) -> dict[int, Selection]:
    """Select from one shard, for each seed."""
    table = (Folder(file.run) / "traces").read_table(file.name, list(SELECTED))
    return {
        seed: select_traces(table, rule.dimension, rule.scale, rule.per_level, seed=seed, split=rule.split)
        for seed in rule.seeds
    }


def read_traces(file: TraceFile, wanted: frozenset[tuple[str, UnitKey]]) -> list[ChosenTrace]:
    """Read the traces of units with the levels that are wanted of them."""
    columns = [*UNIT_KEY, "outcome", "rating", "trace", "fields"]
    rows = (Folder(file.run) / "traces").read_table(file.name, columns).to_pylist()
    return [
        ChosenTrace(row["rating"], unit_key(row), row["trace"] or "", "\n".join(json.loads(row["fields"]).values()))
        for row in rows
        if row["outcome"] == "accepted" and (row["rating"], unit_key(row)) in wanted
    ]


class TraceSurvey:
    """Merges what was selected from one shard after another; knows which shard each chosen unit lies in."""

    def __init__(self, rule: SelectionRule):
        self._rule = rule
        self._selections: dict[int, Selection] = {}
        self._places: dict[tuple[str, UnitKey], int] = {}

    def add(self, number: int, found: Mapping[int, Selection]) -> None:
        """Add the selections of shard `number`."""
        for seed, selection in found.items():
            before = self._selections.get(seed)
            parts = [selection] if before is None else [before, selection]
            self._selections[seed] = merge_selections(parts, seed)
            for pair in selection.interleave():
                self._places[pair] = min(number, self._places.get(pair, number))
        chosen = {pair for selection in self._selections.values() for pair in selection.interleave()}
        self._places = {pair: place for pair, place in self._places.items() if pair in chosen}

    @property
    def selections(self) -> dict[int, Selection]:
        """The merged selections."""
        return self._selections

    def wanted(self) -> dict[int, frozenset[tuple[str, UnitKey]]]:
        """Return the chosen (level, unit) of each shard that has some."""
        by_shard: dict[int, set[tuple[str, UnitKey]]] = {}
        for pair, place in self._places.items():
            by_shard.setdefault(place, set()).add(pair)
        return {number: frozenset(pairs) for number, pairs in sorted(by_shard.items())}


def choose_traces(runs: Sequence[str], rule: SelectionRule) -> ChosenTraces:
    """Choose traces from runs, on Ray. Raises UserError where there is none."""
    files = list_trace_files(runs)
    survey = TraceSurvey(rule)
    for number, found in run_tasks("select traces", lambda n, f: (n, survey_file(f, rule)), files):
        survey.add(number, found)
    wanted = survey.wanted()
    if not wanted:
        raise UserError(
            f"traces = {list(runs)}: no accepted trace of dimension {rule.dimension!r} in the split {rule.split!r}\n"
            "infer traces of that split, or look at the report of infer_traces for why none was accepted"
        )
    tasks = [(files[number], pairs) for number, pairs in wanted.items()]
    read = run_tasks("read traces", lambda _, task: read_traces(*task), tasks)
    return ChosenTraces(survey.selections, {(t.level, t.unit): t for some in read for t in some})


def describe_missing(chosen: ChosenTraces) -> list[str]:
    """Say which levels have fewer traces than were asked for; empty where none has."""
    # Every seed selects from the same traces.
    selection = next(iter(chosen.selections.values()))
    return [
        f"level {level}: {selection.available[level]} accepted traces, {selection.per_level} wanted"
        for level in selection.missing
    ]
