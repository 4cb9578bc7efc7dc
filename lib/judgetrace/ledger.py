"""The committed decisions of a run, shard by shard, and the rows published from them: traces, or annotations.

    ledger/shard-00012/part-00007.parquet       decisions, in the order of commits
    traces/shard-00012.parquet                  the finished shard, a row a unit; never changes
    traces/shard-00012.partial-00008.parquet    what 8 parts say of an unfinished shard

A shard's parts are numbered without gaps, and each is written only if its number is free. Who loses the race reads
what the other wrote and drops the units that are decided there. So every writer has seen all parts before its own,
whoever else writes: a second driver, a replayed call, an engine that outlived its driver. No unit is decided twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.accounting import Tally
from judgetrace.decisions import FINAL_OUTCOMES
from judgetrace.products import Product
from judgetrace.schema import UNIT_KEY, UnitKey, fit_table
from judgetrace.storage import Folder, encode_parquet

TALLY_KEY = "judgetrace.tally"
_SHARD_FILE = re.compile(r"^shard-(\d+)(?:\.partial-(\d+))?\.parquet$")


def table_keys(table: pa.Table) -> list[UnitKey]:
    """Return the unit keys of a table, in its order."""
    return list(zip(*(table.column(name).to_pylist() for name in UNIT_KEY), strict=True))


class ShardFinishedError(RuntimeError):
    """Another writer has published the whole shard: there is nothing left to decide in it."""


class ShardLedger:
    """The parts of one shard. Not for use by two threads at once."""

    def __init__(self, run: Folder, shard: int, product: Product):
        self._shard = shard
        self._product = product
        self._folder = run / f"ledger/shard-{shard:05d}"
        self._published = run / product.folder
        self.tables: list[pa.Table] = []
        self.outcomes: dict[UnitKey, str] = {}

    def refresh(self) -> None:
        """Read the parts that were committed since the last look. Raises ShardFinishedError."""
        try:
            for name in self._folder.list_files(".parquet")[len(self.tables) :]:
                table = self._folder.read_table(name)
                with self._folder.parsing(name):
                    self._append(fit_table(table, self._product.decisions))
        except FileNotFoundError:
            # Listed, then deleted by who finished the shard: the finished file is there then.
            pass
        # After the listing: parts are deleted only once the finished file is written.
        if self._published.exists(f"shard-{self._shard:05d}.parquet"):
            raise ShardFinishedError(f"shard {self._shard} is finished")

    def _append(self, table: pa.Table) -> None:
        self.tables.append(table)
        self.outcomes.update(zip(table_keys(table), table.column("outcome").to_pylist(), strict=True))

    def commit(self, table: pa.Table) -> int:
        """Commit decisions, dropping units that are decided already; returns how many were new.

        Raises ShardFinishedError where another writer has finished the shard.
        """
        while True:
            table = self.drop_decided(table)
            if not table.num_rows:
                return 0
            name = f"part-{len(self.tables):05d}.parquet"
            if self._folder.put_if_absent(name, encode_parquet(table)):
                self._append(table)
                return int(table.num_rows)
            known = len(self.tables)
            self.refresh()
            if len(self.tables) == known:
                raise RuntimeError(f"{self._folder.url}: {name} exists, but the parts before it are not all there")

    def drop_decided(self, table: pa.Table) -> pa.Table:
        """Drop the rows of units that the ledger holds a final outcome of."""
        new = [not self.is_decided(key) for key in table_keys(table)]
        return table if all(new) else table.filter(pa.array(new, pa.bool_()))

    def is_decided(self, key: UnitKey) -> bool:
        """Whether the ledger holds a final outcome of a unit."""
        return self.outcomes.get(key) in FINAL_OUTCOMES

    def read_draws(self) -> dict[UnitKey, list[dict[str, Any]]]:
        """Read the draws so far of the units without a final outcome."""
        latest = self.latest()
        open_ones = latest.filter(pa.array([not self.is_decided(key) for key in table_keys(latest)], pa.bool_()))
        return dict(zip(table_keys(open_ones), open_ones.column("draws").to_pylist(), strict=True))

    def latest(self, *more: pa.Table) -> pa.Table:
        """Merge all parts, and `more` after them, into one row a unit: the last one committed."""
        table = pa.concat_tables([self._product.decisions.empty_table(), *self.tables, *more])
        last = {key: position for position, key in enumerate(table_keys(table))}
        return table if len(last) == table.num_rows else table.take(pa.array(sorted(last.values()), pa.int64()))

    def publish(self, items: pa.Table, *more: pa.Table) -> Tally:
        """Publish the shard's rows from the ledger and `more`, and return their tally.

        `items` holds all units of the shard that the run covers (schema.ITEMS). If every one has a final outcome, the
        shard is finished: its parts are deleted. Otherwise what is decided is published as partial, and replaces an
        older partial file.
        """
        try:
            self.refresh()
        except ShardFinishedError:
            return read_tally(self._published, f"shard-{self._shard:05d}.parquet")
        new = [self.drop_decided(table) for table in more]
        rows = self._join(items, *new)
        is_final = rows.num_rows == items.num_rows and set(rows.column("outcome").to_pylist()) <= FINAL_OUTCOMES
        if is_final:
            name = f"shard-{self._shard:05d}.parquet"
            tally = self._product.tally(rows)
            if not self._published.put_if_absent(name, encode_shard(rows, tally)):
                tally = read_tally(self._published, name)
            # The last part first: what a crash leaves is numbered without gaps.
            self._folder.delete(f"part-{number:05d}.parquet" for number in reversed(range(len(self.tables))))
        else:
            for table in new:
                self.commit(table)
            rows = self._join(items)
            name = f"shard-{self._shard:05d}.partial-{len(self.tables):05d}.parquet"
            tally = self._product.tally(rows)
            self._published.put_if_absent(name, encode_shard(rows, tally))
        older = [file for file in list_shard_files(self._published, self._shard) if _shard_of(file) < _shard_of(name)]
        self._published.delete(older)
        return tally

    def _join(self, items: pa.Table, *more: pa.Table) -> pa.Table:
        return join_decisions(items, self.latest(*more), self._product.published)


def encode_shard(rows: pa.Table, tally: Tally) -> bytes:
    """Encode a published shard, its tally in the footer."""
    return encode_parquet(rows, {TALLY_KEY: tally.to_json()})


def join_decisions(items: pa.Table, decisions: pa.Table, published: pa.Schema) -> pa.Table:
    """Join units (schema.ITEMS) with their terminal decisions, in the order of `items`; returns `published`.

    Units without a terminal decision are left out.
    """
    position = {key: i for i, key in enumerate(table_keys(decisions))}
    outcomes = decisions.column("outcome").to_pylist()
    pairs = [
        (row, position[key])
        for row, key in enumerate(table_keys(items))
        if key in position and outcomes[position[key]] != "undecided"
    ]
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    left, right = items.take(pa.array(rows[:, 0])), decisions.take(pa.array(rows[:, 1]))
    columns = [left.column(n) if n in items.column_names else right.column(n) for n in published.names]
    return pa.table(columns, schema=published)


def list_shard_files(published: Folder, shard: int | None = None) -> list[str]:
    """List the files in a folder of published shards, or those of one shard."""
    # A run may have a hundred thousand shards, and each asks for its own as it ends.
    prefix = "" if shard is None else f"shard-{shard:05d}."
    return [name for name in published.list_files(".parquet", prefix=prefix) if _SHARD_FILE.match(name)]


def current_shard_files(published: Folder) -> dict[int, str]:
    """Find the file that counts for each shard of a folder."""
    return select_current(list_shard_files(published))


def select_current(names: Iterable[str]) -> dict[int, str]:
    """Select the file that counts for each shard: the finished one, else the partial one of most parts."""
    return {_shard_of(name)[0]: name for name in sorted(filter(_SHARD_FILE.match, names), key=_shard_of)}


def is_finished(name: str) -> bool:
    """Whether a published file holds a finished shard."""
    return ".partial-" not in name


def _shard_of(name: str) -> tuple[int, float]:
    match = _SHARD_FILE.match(name)
    assert match is not None, name
    return int(match.group(1)), float("inf") if match.group(2) is None else int(match.group(2))


def read_tally(published: Folder, name: str) -> Tally:
    """Read the tally of a published file from its footer."""
    with published.open_parquet(name) as file, published.parsing(name):
        metadata: dict[bytes, Any] = file.schema_arrow.metadata or {}
        return Tally.from_json(metadata[TALLY_KEY.encode()].decode())
