"""Stage admitted annotations by bucket, so that one task can later gather all of an item's labels.

A map task writes one staging file whose row groups each hold one bucket, and the rows it quarantined. A bucket is a
hash of the item id; the caller keeps the list of row groups a bucket has, a few numbers a task.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from judgetrace.batches import Fault, RawBatch
from judgetrace.intake import ADMITTED, IntakeRules, admit_batch
from judgetrace.readers import read_part
from judgetrace.schema import QUARANTINE
from judgetrace.sources import SourcePart
from judgetrace.splits import assign_buckets
from judgetrace.storage import PARQUET_COMPRESSION, Folder, encode_parquet, naming

STAGED = pa.schema([*ADMITTED, ("file_index", pa.int32())])
"""One row an admitted annotation; `file_index` counts the generation's source files from 0."""

FLUSH_BYTES = 64 << 20
MAX_EXAMPLES = 5
MAX_LOGGED_FAULTS = 50_000
MIN_ROWS_TO_STOP = 100_000


@dataclass(frozen=True)
class Piece:
    """Row groups of a staging file that hold one bucket."""

    name: str
    row_groups: list[int]


@dataclass
class RowCounts:
    """Counts that add over tasks."""

    rows_in: int = 0
    source_rows: int = 0
    """Rows of the files: in the wide layout `rows_in` counts label cells."""
    empty_cells: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add_fault(self, url: str, fault: Fault) -> None:
        """Count a fault, and keep it as an example while there are few."""
        self.quarantined[fault.reason] += fault.num_rows
        where = url if fault.row is None else f"{url} row {fault.row}"
        if fault.reason == "unreadable":
            self.unreadable.append(f"{url}: {fault.detail}")
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{where}: {fault.reason} {fault.detail}".rstrip())

    def add(self, other: RowCounts) -> None:
        """Add the counts of another task."""
        self.rows_in += other.rows_in
        self.source_rows += other.source_rows
        self.empty_cells += other.empty_cells
        self.quarantined.update(other.quarantined)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]
        self.unreadable += other.unreadable

    @property
    def num_quarantined(self) -> int:
        """Rows that were quarantined, for any reason."""
        return sum(self.quarantined.values())


class QuarantineLog:
    """Collects faults and writes them to files of MAX_LOGGED_FAULTS each; no fault, no file."""

    def __init__(self, folder: Folder, stem: str) -> None:
        self._folder, self._stem = folder, stem
        self._rows: list[tuple[str, int | None, int, str, str]] = []
        self._names: list[str] = []

    def add(self, url: str, fault: Fault) -> None:
        """Add one entry."""
        self._rows.append((url, fault.row, fault.num_rows, fault.reason, fault.detail))
        if len(self._rows) >= MAX_LOGGED_FAULTS:
            self._flush()

    def close(self) -> list[str]:
        """Write what is left; returns the names of all files."""
        if self._rows:
            self._flush()
        return self._names

    def _flush(self) -> None:
        columns = [pa.array(list(c), t) for c, t in zip(zip(*self._rows, strict=True), QUARANTINE.types, strict=True)]
        name = f"{self._stem}-{len(self._names):05d}.parquet" if self._names else f"{self._stem}.parquet"
        self._folder.write_atomic(name, encode_parquet(pa.table(columns, schema=QUARANTINE)))
        self._names.append(name)
        self._rows = []


def is_hopeless(tally: RowCounts, limit: float, share: float) -> bool:
    """Tell whether the rows so far leave no hope that the whole keeps to the limit.

    `share` is the part of the whole corpus that these rows are of, by bytes; sizes tell rows roughly alone.
    """
    if tally.rows_in < MIN_ROWS_TO_STOP:
        return False
    return tally.num_quarantined / tally.rows_in * share > min(2 * limit, (1 + limit) / 2)


@dataclass(frozen=True)
class StageResult:
    """What a map task hands back: counts, and where each bucket's rows lie."""

    tally: RowCounts
    pieces: dict[int, Piece]
    quarantine: list[str]
    size_bytes: int  # of the parts it read


def write_by_bucket(writer: pq.ParquetWriter, table: pa.Table, bucket_of: np.ndarray) -> list[int]:
    """Write a table in row groups of one bucket each, by the bucket [N] of its rows; returns each group's bucket."""
    if not len(table):
        return []
    order = np.argsort(bucket_of, kind="stable")
    ordered, table = bucket_of[order], table.take(pa.array(order))
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered.dtype.type(-1)))
    for start, end in zip(starts, np.append(starts[1:], len(ordered)), strict=True):
        writer.write_table(table.slice(start, end - start), row_group_size=int(end - start))
    return [int(bucket) for bucket in ordered[starts]]


class StagingWriter:
    """Writes admitted rows to one file, in row groups of one bucket each; a context."""

    def __init__(self, folder: Folder, name: str, num_buckets: int) -> None:
        self._num_buckets, self._name = num_buckets, name
        self._file: IO[bytes] = folder.open_for_write(name)
        self._writer = pq.ParquetWriter(self._file, STAGED, compression=PARQUET_COMPRESSION, write_page_checksum=True)
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._groups: dict[int, list[int]] = {}
        self._num_groups = 0

    def __enter__(self) -> StagingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def add(self, annotations: pa.Table, file_index: int) -> None:
        """Add rows (schema ADMITTED)."""
        index = pa.array(np.full(len(annotations), file_index), pa.int32())
        self._pending.append(annotations.append_column(STAGED.field("file_index"), index))
        self._pending_bytes += annotations.nbytes
        if self._pending_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending, self._pending_bytes = [], 0
        items = table["item_id"].combine_chunks().dictionary_encode()
        buckets = np.array(assign_buckets(items.dictionary.to_pylist(), self._num_buckets), dtype=np.int64)
        bucket_of = buckets[items.indices.to_numpy()] if len(table) else np.empty(0, dtype=np.int64)
        for bucket in write_by_bucket(self._writer, table, bucket_of):
            self._groups.setdefault(bucket, []).append(self._num_groups)
            self._num_groups += 1

    def list_pieces(self) -> dict[int, Piece]:
        """List the row groups of each bucket."""
        return {bucket: Piece(self._name, groups) for bucket, groups in self._groups.items()}


def limit_batches(batches: Iterable[RawBatch], limit: int | None) -> Iterator[RawBatch]:
    """Stop after `limit` rows; faults of the last batch that lie behind the last row are left out."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        numbered = sorted([*batch.rows.tolist(), *(fault.row for fault in batch.faults if fault.row is not None)])
        if len(numbered) > left:
            last = numbered[left - 1]
            faults = [fault for fault in batch.faults if fault.row is not None and fault.row <= last]
            kept = int(np.searchsorted(batch.rows, last, side="right"))
            objects = None if batch.objects is None else batch.objects[:kept]
            yield RawBatch(batch.rows[:kept], batch.table.slice(0, kept), faults, objects)
            return
        left -= len(numbered)
        yield batch
        if left == 0:
            return


@dataclass(frozen=True)
class StagePlan:
    """What all map tasks of a generation share; `limit` is for a run of one task only."""

    rules: IntakeRules
    num_buckets: int
    generation: int
    limit: int | None = None


def stage_parts(folder: Folder, parts: Sequence[SourcePart], plan: StagePlan, task: int) -> StageResult:
    """Read source parts, admit their rows and stage them; the rest goes to the task's quarantine file.

    A replay writes a staging file under another name: a late twin of a task can't spoil what was handed back.
    """
    tally, log = RowCounts(), QuarantineLog(folder, f"quarantine/part-{plan.generation:05d}-map-{task:05d}")
    size_bytes = sum(part.size_bytes for part in parts)
    columns, with_others = list(plan.rules.columns.name_columns()), plan.rules.columns.extra is None
    name = f"_staging/{plan.generation:05d}/map-{task:05d}-{uuid.uuid4().hex[:8]}.parquet"
    with naming(f"{folder.url}/{name}", "written"), StagingWriter(folder, name, plan.num_buckets) as writer:
        for part in parts:
            left = None if plan.limit is None else plan.limit - tally.source_rows
            if left is not None and left <= 0:
                break
            for batch in limit_batches(read_part(part, columns, with_others), left):
                admitted = admit_batch(batch, plan.rules)
                writer.add(admitted.annotations, part.file_index)
                tally.empty_cells += admitted.num_empty_cells
                tally.rows_in += admitted.num_rows
                tally.source_rows += admitted.num_source_rows
                for fault in admitted.faults:
                    tally.add_fault(part.file.url, fault)
                    log.add(part.file.url, fault)
        writer.flush()
    return StageResult(tally, writer.list_pieces(), log.close(), size_bytes)


def gather_pieces(folder: Folder, pieces: Sequence[Piece], schema: pa.Schema) -> pa.Table:
    """Read a bucket, in the order of its pieces. Raises CorruptFileError, StoreError."""
    tables = [schema.empty_table()]
    for piece in pieces:
        name = piece.name
        with naming(f"{folder.url}/{name}", "read"), folder.parsing(name), folder.open_parquet(name) as file:
            tables.append(file.read_row_groups(piece.row_groups, use_threads=False))
    return pa.concat_tables(tables)


def read_pieces(folder: Folder, pieces: Sequence[Piece]) -> pa.Table:
    """Read a bucket (schema STAGED), in the order of source files, rows and cells."""
    table = gather_pieces(folder, pieces, STAGED)
    order = pc.sort_indices(table, [("file_index", "ascending"), ("row", "ascending"), ("cell", "ascending")])
    return table.take(order).combine_chunks()
