"""Rows that a run has paid for, in numbered parts of a folder; a row is known by its key.

    calls/part-00007.parquet

Parts are numbered without gaps, and each is written only if its number is free. Who loses the race reads what the
other wrote and drops the rows that are known there: no key gets two final rows, whoever else writes. All rows are held
in memory: some ten thousand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from judgetrace.decisions import tabulate_rows
from judgetrace.storage import Folder, encode_parquet

PARTS_READ_AT_ONCE = 16
MAX_FAILED_RUNS = 3
"""What failed in so many runs has no row but that: another run would hardly get it."""
Key = tuple[str, ...]
Row = Mapping[str, Any]


class PartLog:
    """The rows of one kind. Not for use by two threads at once.

    A row whose `outcome` is "failed" is not final: a later row of its key replaces it.
    """

    def __init__(self, folder: Folder, schema: pa.Schema, key: Sequence[str], check: Callable[[], None] | None = None):
        """Start without rows; `check` is called before each write, and raises where this process may not write."""
        self._folder, self._schema, self._key, self._check = folder, schema, tuple(key), check
        self._num_parts = 0
        self._rows: dict[Key, Row] = {}
        self._num_failed: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Iterable[Row]:
        """The newest row of every key."""
        return self._rows.values()

    def refresh(self) -> None:
        """Read the parts that were written since the last look."""
        names = self._folder.list_files(".parquet")[self._num_parts :]
        with ThreadPoolExecutor(PARTS_READ_AT_ONCE) as pool:
            for table in pool.map(self._folder.read_table, names):
                self._take(table.to_pylist())

    def _take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = self._find_key(row)
            self._rows[key] = row
            if row["outcome"] == "failed":
                self._num_failed[key] = self._num_failed.get(key, 0) + 1
        self._num_parts += 1

    def _find_key(self, row: Row) -> Key:
        return tuple(row[name] for name in self._key)

    def find(self, *key: str) -> Row | None:
        """Find the newest row of a key; None where there is none."""
        return self._rows.get(key)

    def is_final(self, *key: str) -> bool:
        """Whether the row of a key is there and not failed."""
        row = self._rows.get(key)
        return row is not None and row["outcome"] != "failed"

    def lacks(self, *key: str) -> bool:
        """Whether a key has no final row, and another try may get one."""
        return not self.is_final(*key) and self.count_failures(*key) < MAX_FAILED_RUNS

    def count_failures(self, *key: str) -> int:
        """Count the failed rows that a key has had."""
        return self._num_failed.get(key, 0)

    def commit(self, rows: Sequence[Row]) -> int:
        """Write rows as one part, dropping those whose key has a final row; returns how many were written."""
        while new := [row for row in rows if not self.is_final(*self._find_key(row))]:
            if self._check is not None:
                self._check()
            table = tabulate_rows(new, self._schema)
            name = f"part-{self._num_parts:05d}.parquet"
            if self._folder.put_if_absent(name, encode_parquet(table)):
                # As whoever reads the part later has them.
                self._take(table.to_pylist())
                return len(new)
            known = self._num_parts
            self.refresh()
            if self._num_parts == known:
                raise RuntimeError(f"{self._folder.url}: {name} exists, but the parts before it are not all there")
        return 0


class PendingRows:
    """Rows on their way into a log: committed when `every_s` seconds have gone by since the last time."""

    def __init__(self, log: PartLog, every_s: float):
        self._log, self._every_s = log, every_s
        self._rows: list[Row] = []
        self._committed_at = time.monotonic()

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows that are to be committed."""
        self._rows += rows

    def commit_when_due(self) -> None:
        """Commit, if it is time."""
        if time.monotonic() - self._committed_at >= self._every_s:
            self.commit()

    def commit(self) -> None:
        """Commit all."""
        self._log.commit(self._rows)
        self._rows = []
        self._committed_at = time.monotonic()
