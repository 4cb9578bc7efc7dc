"""The stages of measure_agreement: sources --map--> rows by bucket --reduce--> counts. Runs them as Ray Data tasks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from judgetrace.agreement.config import MeasureAgreementConfig
from judgetrace.agreement.counts import Clusters, Counts, add_counts
from judgetrace.agreement.intake import IntakeRules, Origin, Source, admit_rows, read_source
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.agreement.sources import Inputs, make_unit_rules
from judgetrace.agreement.survey import Survey, check_slice, check_slice_names
from judgetrace.agreement.tables import BucketCounts, TableKey, TestSums, list_expected
from judgetrace.agreement.tally import count_bucket
from judgetrace.agreement.units import UnitRules, make_units
from judgetrace.config import UserError
from judgetrace.sources import SourcePart
from judgetrace.staging import Piece, gather_pieces, write_by_bucket
from judgetrace.storage import Folder, naming

ROWS_PER_TASK = 1_000_000
ROWS_PER_BUCKET = 1_000_000
COMPACT_AFTER = 16


@dataclass(frozen=True)
class MapTask:
    """Parts of sources that one task reads."""

    parts: tuple[tuple[int, SourcePart], ...]  # (index of the source, part)


@dataclass(frozen=True)
class MapResult:
    """What a map task hands back."""

    survey: Survey
    pieces: dict[int, Piece]


def plan_tasks(parts: Sequence[tuple[int, SourcePart]]) -> list[MapTask]:
    """Join parts, in their order, into tasks of about ROWS_PER_TASK rows."""
    tasks: list[MapTask] = []
    own: list[tuple[int, SourcePart]] = []
    rows = 0
    for index, part in parts:
        own.append((index, part))
        rows += part.num_rows or 0
        if rows >= ROWS_PER_TASK:
            tasks.append(MapTask(tuple(own)))
            own, rows = [], 0
    return [*tasks, MapTask(tuple(own))] if own else tasks


def choose_buckets(parts: Sequence[tuple[int, SourcePart]]) -> int:
    """Choose the number of buckets so that one fits a task's memory."""
    return 1 + sum(part.num_rows or 0 for _, part in parts) // ROWS_PER_BUCKET


@dataclass(frozen=True)
class StagePlan:
    """What all map tasks share."""

    sources: tuple[Source, ...]
    rules: IntakeRules
    num_buckets: int


def stage_rows(folder: Folder, plan: StagePlan, number: int, task: MapTask) -> MapResult:
    """Read a task's parts and write their rows by bucket, in row groups of one bucket each.

    Raises UserError for what can't be used, CorruptFileError, StoreError.
    """
    survey = Survey()
    tables = [
        admit_rows(
            read_source(part, plan.sources[index]),
            Origin(plan.sources[index], index, part.file.url),
            plan.rules,
            survey,
        )
        for index, part in task.parts
    ]
    rows = pa.concat_tables(tables).combine_chunks()
    if not len(rows):
        return MapResult(survey, {})
    hashes = hash_strings(rows["item_id"].combine_chunks())
    bucket_of = (hashes >> np.uint64(32)).astype(np.int64) % plan.num_buckets
    bucket_of = bucket_of.astype(np.int16 if plan.num_buckets < 1 << 15 else np.int64)
    name = f"_staging/map-{number:05d}-{uuid.uuid4().hex[:8]}.parquet"
    with (
        naming(f"{folder.url}/{name}", "written"),
        folder.open_for_write(name) as file,
        pq.ParquetWriter(file, rows.schema, compression="lz4", write_page_checksum=True) as writer,
    ):
        groups = write_by_bucket(writer, rows, bucket_of)
    return MapResult(survey, {bucket: Piece(name, [group]) for group, bucket in enumerate(groups)})


def count_pieces(folder: Folder, schema: pa.Schema, rules: UnitRules, pieces: Sequence[Piece]) -> BucketCounts:
    """Gather one bucket's rows and count them."""
    return count_bucket(make_units(gather_pieces(folder, pieces, schema), rules), rules)


class Total:
    """The counts of all buckets, added as they come; bounded by the number of cells and clusters."""

    def __init__(self) -> None:
        self._parts: dict[TableKey, list[Counts]] = {}
        self.clusters = Clusters()
        self.tests: TestSums = {}
        self.num_units = self.num_duplicates = 0

    def add(self, part: BucketCounts) -> None:
        """Add a bucket."""
        self.num_units += part.num_units
        self.num_duplicates += part.num_duplicates
        self.clusters.add(part.clusters.names, part.clusters.is_folded)
        for key, counts in part.tables.items():
            own = self._parts.setdefault(key, [])
            own.append(counts)
            if len(own) >= COMPACT_AFTER:
                own[:] = [add_counts(own, self.clusters.is_folded)]
        for test, sums in part.tests.items():
            known = self.tests.setdefault(test, {})
            for annotator, numbers in sums.items():
                known[annotator] = known[annotator] + numbers if annotator in known else numbers

    def expect(self, rules: UnitRules) -> None:
        """Make the tables that each dimension has figures of, even where nothing was counted."""
        for dimension in sorted({key.dimension for key in self._parts}):
            raters = [name for _, name in rules.list_raters(dimension)]
            for name in list_expected(raters, rules.list_panel(dimension)):
                self._parts.setdefault(TableKey(dimension, "", "", *name, kept=True), [])

    def finish(self) -> dict[TableKey, Counts]:
        """Return the tables, in a fixed order."""
        return {key: add_counts(self._parts[key], self.clusters.is_folded) for key in sorted(self._parts)}


class RunTasks(Protocol):
    """Runs `run(number, task)` for each task and yields the results in any order."""

    def __call__(self, stage: str, run: Callable[[int, Any], Any], tasks: Sequence[Any]) -> Iterable[Any]:
        """Run a stage."""


@dataclass(frozen=True)
class Collected:
    """What the stages leave: counts, who said how much, and the rules they were counted by."""

    survey: Survey
    rules: UnitRules
    total: Total


def collect_counts(config: MeasureAgreementConfig, inputs: Inputs, folder: Folder, run_tasks: RunTasks) -> Collected:
    """Run both stages; `folder` holds the staged rows meanwhile. Raises UserError for input that can't be used."""
    try:
        survey, pieces = _stage_sources(config, inputs, folder, run_tasks)
        rules = make_unit_rules(config, inputs, survey)
        schema, total = inputs.rules.schema, Total()
        tasks = [own for own in pieces if own]
        for counts in run_tasks("count", lambda _, own: count_pieces(folder, schema, rules, own), tasks):
            total.add(counts)
        total.expect(rules)
        return Collected(survey, rules, total)
    finally:
        folder.delete_all_below("_staging")


def _stage_sources(
    config: MeasureAgreementConfig, inputs: Inputs, folder: Folder, run_tasks: RunTasks
) -> tuple[Survey, list[list[Piece]]]:
    """Run the map stage; returns who said how much and the pieces of each bucket, in the order of sources."""
    plan = StagePlan(tuple(inputs.sources), inputs.rules, config.buckets or choose_buckets(inputs.parts))

    def stage(number: int, task: MapTask) -> tuple[int, MapResult]:
        return number, stage_rows(folder, plan, number, task)

    survey = Survey()
    results = dict(run_tasks("map", stage, plan_tasks(inputs.parts)))
    pieces: list[list[Piece]] = [[] for _ in range(plan.num_buckets)]
    for _, result in sorted(results.items()):
        survey.add(result.survey)
        for bucket, piece in result.pieces.items():
            pieces[bucket].append(piece)
    check_usable(config, inputs, survey)
    return survey, pieces


def check_usable(config: MeasureAgreementConfig, inputs: Inputs, survey: Survey) -> None:
    """Raise UserError where there is nothing to measure, or more rows are unusable than the config bears."""
    unusable = sum(survey.unusable.values())
    if not survey.rows:
        raise UserError("the sources hold no annotations")
    for name, values in survey.slice_values.items():
        check_slice(name, values, config.slices.max_values)
    check_slice_names(survey)
    if unusable > config.max_unusable_rate * survey.rows:
        raise UserError(
            f"{unusable} of {survey.rows} rows are unusable, over max_unusable_rate = {config.max_unusable_rate}\n"
            f"reasons: {dict(survey.unusable.most_common())}\nfor example:\n  "
            + "\n  ".join(survey.examples)
            + f"\nexpected: labels of the scale {inputs.scales.model_dump(exclude_none=True)}\n"
            "mend the input or the scale, or raise the limit: such rows are left out, of raters they count as missing"
        )
