"""Read the traces that guidelines are written from: shards are surveyed on Ray, then only chosen texts are read.

The same unit of several runs is taken once, from the first of them; a trace that was not told the label goes first.
Which traces may teach at all is `judgetrace.teachable`'s to say, as it is for training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.refining.critiques import ChosenTrace, join_fields
from judgetrace.refining.selection import SELECTED, Selection, merge_selections, pick_accepted, select_traces
from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key
from judgetrace.storage import Folder
from judgetrace.teachable import NO_THINKING, OVER_SHARE, find_faults, read_verdicts
from judgetrace.trace_shards import TraceShard, list_trace_shards
from judgetrace.traces import read_traces as read_columns

RunEach = Callable[[str, Callable[[int, Any], Any], Sequence[Any]], Iterator[Any]]
"""Runs `run(number, task)` for each task of a stage, as tasks.run_tasks."""


@dataclass(frozen=True)
class SelectionRule:
    """What is selected from every shard, for every seed."""

    dimension: str
    scale: Scale
    per_level: int
    seeds: tuple[int, ...]
    split: str = "train"
    verification: tuple[str, ...] = ()
    """Runs of verify_traces."""
    verified: bool = False
    """Whether only traces whose rating was recovered teach."""
    max_hinted_share: float = 1.0
    """Of all that are read for a seed."""


@dataclass(frozen=True)
class ShardSelection:
    """What was selected from a shard for each seed, and how many accepted traces may not teach, by reason."""

    selections: Mapping[int, Selection]
    left_out: Counter[str]


@dataclass(frozen=True)
class TraceSupply:
    """How many accepted traces there were to write from."""

    wanted: int
    """Of each level."""
    available: Mapping[str, int]
    """That may teach, by level."""
    left_out: Mapping[str, int]
    """By reason; hinted_over_share counts those that some seed left out for their share alone."""

    def describe(self) -> list[str]:
        """Say what was left out, and which levels have fewer than were asked for; empty where nothing is to be said."""
        found = ", ".join(f"{number:,} {reason}" for reason, number in sorted(self.left_out.items()))
        return [f"left out: {found}"] * bool(found) + [
            f"level {level}: {number} accepted traces that may teach, {self.wanted} wanted"
            for level, number in self.available.items()
            if number < self.wanted
        ]


@dataclass(frozen=True)
class ChosenTraces:
    """The selection of each seed, and the traces of all of them by (level, unit)."""

    selections: Mapping[int, Selection]
    traces: Mapping[tuple[str, UnitKey], ChosenTrace]
    max_hinted_share: float = 1.0
    left_out: Counter[str] = field(default_factory=Counter)
    """Accepted traces that may not teach, by reason."""

    def list_traces(self, seed: int, per_level: int) -> list[ChosenTrace]:
        """List a seed's first traces of every level, one of each level in turn."""
        first = self.selections[seed].cut(per_level, self.max_hinted_share, seed)
        return [self.traces[pair] for pair in first.interleave()]

    def count_supply(self) -> TraceSupply:
        """Count what there was to choose from, and what was left out."""
        over = {
            pair
            for seed, selection in self.selections.items()
            for pair in selection.hinted - selection.cut(selection.per_level, self.max_hinted_share, seed).hinted
        }
        # Every seed selects from the same traces.
        selection = next(iter(self.selections.values()))
        left_out = dict(self.left_out) | ({OVER_SHARE: len(over)} if over else {})
        return TraceSupply(selection.per_level, selection.available, left_out)


def list_some_shards(runs: Sequence[str]) -> list[TraceShard]:
    """List the published shards of runs, in the order of runs and shards. Raises UserError for a run without any."""
    shards = list_trace_shards(runs)
    empty = [run for run in runs if run not in {shard.run for shard in shards}]
    if empty:
        raise UserError(
            f"traces = {empty[0]}: no traces/shard-*.parquet there\n"
            "expected: a run folder of infer_traces, finished or ended early"
        )
    return shards


def survey_file(file: TraceShard, rule: SelectionRule) -> ShardSelection:
    """Select from one shard, for each seed, of the traces that may teach."""
    table = _read_accepted(file, rule, (*SELECTED, "trace"))
    found = find_faults(table, read_verdicts(rule.verification, file.number), wants_verified=rule.verified)
    # A run without thinking may teach a rater its ratings; here nothing could be learned of it.
    faults = [
        NO_THINKING if trace is None else fault for fault, trace in zip(found, table["trace"].to_pylist(), strict=True)
    ]
    usable = table.filter(pa.array([fault is None for fault in faults], pa.bool_()))
    return ShardSelection(
        {
            seed: select_traces(usable, rule.dimension, rule.scale, rule.per_level, seed=seed, split=rule.split)
            for seed in rule.seeds
        },
        Counter(fault for fault in faults if fault is not None),
    )


def _read_accepted(file: TraceShard, rule: SelectionRule, columns: Sequence[str]) -> pa.Table:
    return pick_accepted(read_columns(Folder(file.run), file.name, columns), rule.dimension, rule.split)


def read_traces(file: TraceShard, wanted: frozenset[tuple[str, UnitKey]]) -> list[ChosenTrace]:
    """Read the traces of units with the levels that are wanted of them."""
    columns = [*UNIT_KEY, "outcome", "rating", "trace", "fields"]
    rows = read_columns(Folder(file.run), file.name, columns).to_pylist()
    return [
        ChosenTrace(row["rating"], unit_key(row), row["trace"] or "", join_fields(row["fields"]))
        for row in rows
        if row["outcome"] == "accepted" and (row["rating"], unit_key(row)) in wanted
    ]


class TraceSurvey:
    """Merges what was selected from one shard after another; knows which shard each chosen unit lies in."""

    def __init__(self, rule: SelectionRule):
        self._rule = rule
        self._selections: dict[int, Selection] = {}
        self._places: dict[tuple[str, UnitKey], tuple[bool, int]] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, number: int, found: ShardSelection) -> None:
        """Add what was selected from shard `number`."""
        self._left_out.update(found.left_out)
        for seed, selection in found.selections.items():
            before = self._selections.get(seed)
            parts = [selection] if before is None else [before, selection]
            self._selections[seed] = merge_selections(parts, seed)
            for pair in selection.interleave():
                place = (pair in selection.hinted, number)
                self._places[pair] = min(place, self._places.get(pair, place))
        chosen = {pair for selection in self._selections.values() for pair in selection.interleave()}
        self._places = {pair: place for pair, place in self._places.items() if pair in chosen}

    def wanted(self) -> dict[int, frozenset[tuple[str, UnitKey]]]:
        """Return the chosen (level, unit) of each shard that has some."""
        by_shard: dict[int, set[tuple[str, UnitKey]]] = {}
        for pair, (_, number) in self._places.items():
            by_shard.setdefault(number, set()).add(pair)
        return {number: frozenset(pairs) for number, pairs in sorted(by_shard.items())}

    def finish(self, read: Iterable[Sequence[ChosenTrace]]) -> ChosenTraces:
        """Put the selections and the traces that were read of them together."""
        traces = {(trace.level, trace.unit): trace for some in read for trace in some}
        return ChosenTraces(self._selections, traces, self._rule.max_hinted_share, self._left_out)


def choose_traces(runs: Sequence[str], rule: SelectionRule, run_each: RunEach) -> ChosenTraces:
    """Choose traces from runs. Raises UserError where there is none."""
    files = list_some_shards(runs)
    survey = TraceSurvey(rule)
    for number, found in run_each("select traces", lambda n, f: (n, survey_file(f, rule)), files):
        survey.add(number, found)
    wanted = survey.wanted()
    chosen = survey.finish(
        run_each("read traces", lambda _, task: read_traces(*task), [(files[n], pairs) for n, pairs in wanted.items()])
        if wanted
        else ()
    )
    supply = chosen.count_supply()
    if not any(chosen.list_traces(seed, rule.per_level) for seed in rule.seeds):
        left_out = f"{supply.describe()[0]}\n" if supply.left_out else ""
        raise UserError(
            f"traces = {list(runs)}: no accepted trace of dimension {rule.dimension!r} in the split {rule.split!r} may "
            f"teach\n{left_out}infer traces of that split, look at the report of infer_traces for why none was "
            "accepted, or at `selection` for what is left out"
        )
    return chosen
