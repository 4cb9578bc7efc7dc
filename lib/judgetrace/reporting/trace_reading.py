"""Read traces of runs for the trace browser: all of them, or a seeded sample of whole items."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from judgetrace.ledger import current_shard_files
from judgetrace.reporting.embedding import CHUNK_RECORDS, pack_records
from judgetrace.reporting.trace_records import READ_COLUMNS, Rationales, Records, make_records
from judgetrace.storage import Folder, decode_parquet

SPARE = 8
"""Texts are kept up to so many times the bytes that a page may hold of them packed."""
_READERS = 4
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TraceFile:
    """A published file of traces."""

    run: str
    """What the page calls its run."""
    folder: Folder
    name: str


@dataclass(frozen=True)
class Selection:
    """Which items are read: those whose hash is at most `limit`."""

    seed: int
    limit: int
    num_units: int
    """Units of all files."""

    def covers(self, item_ids: Any) -> np.ndarray:
        """Tell for each item id whether it is selected."""
        return np.asarray(hash_items(item_ids, self.seed) <= self.limit)

    def take(self, table: pa.Table, item_id: str = "item_id") -> pa.Table:
        """Take the selected rows; `item_id` is the column of item ids."""
        return table.filter(pa.array(self.covers(pc.cast(table.column(item_id), pa.string()).to_pylist())))

    def up_to(self, item_id: str) -> Selection:
        """Return the selection of no item behind this one."""
        return replace(self, limit=int(hash_items([item_id], self.seed)[0]))


def list_trace_files(runs: Sequence[tuple[str, str]]) -> list[TraceFile]:
    """List the files of runs (name, URL) that count."""
    files = []
    for name, url in runs:
        folder = Folder(url) / "traces"
        files += [TraceFile(name, folder, file) for file in current_shard_files(folder).values()]
    return files


def hash_items(item_ids: Any, seed: int) -> np.ndarray:
    """Hash item ids [n] to uint64, the same on every machine; another seed gives another order."""
    values = np.asarray(item_ids, dtype=object)
    return pd.util.hash_array(values, hash_key=f"judgetrace{seed % 10**6:06d}", categorize=False)


def select_items(files: Sequence[TraceFile], max_units: int, seed: int) -> Selection:
    """Select items by the lowest hashes until they make `max_units` units; all of an item's units go together."""
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = list(pool.map(lambda file: hash_items(_read_ids(file), seed), files))
    everything = np.sort(np.concatenate([np.empty(0, np.uint64), *hashes]))
    num_units = len(everything)
    if num_units <= max_units:
        return Selection(seed, 2**64 - 1, num_units)
    # Down to the last item that is whole within the limit.
    below = everything[everything < everything[max_units]]
    return Selection(seed, int(below[-1]) if len(below) else int(everything[0]), num_units)


def _read_ids(file: TraceFile) -> list[str]:
    ids: list[str] = file.folder.read_table(file.name, ["item_id"]).column("item_id").to_pylist()
    return ids


def read_records(
    files: Sequence[TraceFile],
    selection: Selection,
    rationales: Rationales,
    max_chars: int,
    max_megabytes: float = math.inf,
) -> Records:
    """Read the selected units as records, mixed by the hash of their item: a prefix of them is a sample, too.

    Where a page of `max_megabytes` holds only a prefix, much of what is behind it is left out.
    """
    shelf = _Shelf(selection, max_megabytes)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = map_ahead(pool, lambda file: _read_selected(file, selection), files)
        for file, table in zip(files, tables, strict=True):
            shelf.add(table, file.run, rationales, max_chars)
    return _sort(shelf.found, selection.seed)


class _Shelf:
    """Gathers records; as soon as they are many, drops those that a page can't hold, whatever is read after them."""

    def __init__(self, selection: Selection, max_megabytes: float):
        self.found = Records()
        self._selection, self._max_megabytes = selection, max_megabytes
        self._bytes, self._look_at = 0.0, SPARE * max_megabytes * 1e6

    def add(self, table: pa.Table, run: str, rationales: Rationales, max_chars: int) -> None:
        """Add rows of traces."""
        table = self._selection.take(table)
        self.found.extend(make_records(table, run, rationales, max_chars))
        self._bytes += table.nbytes
        if self._bytes > self._look_at:
            self._drop_behind()
            self._look_at = max(self._look_at, 2 * self._bytes)

    def _drop_behind(self) -> None:
        """Drop what is behind a page's worth of records: more records only push it further back."""
        found, size = _sort(self.found, self._selection.seed), len(self.found)
        fits = pack_records(found, set(), self._max_megabytes).num_records
        # Some stay: among others, records pack a little better; and they tell that the page does not hold all.
        self.found = found.first(fits + fits // 10 + CHUNK_RECORDS)
        self._bytes *= len(self.found) / size
        if len(self.found) < size:
            self._selection = self._selection.up_to(self.found.keys[-1][0])


def map_ahead(pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map items in a pool in their order, and no more than _READERS of them before they are wanted."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > _READERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_selected(file: TraceFile, selection: Selection) -> pa.Table:
    data = file.folder.read_bytes(file.name)
    names = pq.read_schema(pa.BufferReader(data)).names
    return selection.take(decode_parquet(data, [name for name in READ_COLUMNS if name in names]))


def _sort(found: Records, seed: int) -> Records:
    hashes = hash_items([key[0] for key in found.keys], seed) if len(found) else np.empty(0, np.uint64)
    order = sorted(range(len(found)), key=lambda n: (hashes[n], found.keys[n], found.facets["run"][n]))
    return Records(
        [found.records[n] for n in order],
        {name: [values[n] for n in order] for name, values in found.facets.items()},
        [found.keys[n] for n in order],
        found.reaches,
    )


def read_rationales(parts: Iterator[pa.Table], columns: Mapping[str, str | None], selection: Selection) -> Rationales:
    """Gather people's reasons of the selected items, by item and dimension, from tables.

    `columns` are item_id, dimension, annotator_id, label, text -> the column's name, None where there is none.
    """
    found: dict[tuple[str, str | None], list[tuple[str, str, str]]] = {}
    for part in parts:
        table = selection.take(part, str(columns["item_id"]))
        values = {
            key: [None] * table.num_rows if name is None else pc.cast(table.column(name), pa.string()).to_pylist()
            for key, name in columns.items()
        }
        for item, dimension, who, label, text in zip(
            *(values[key] for key in ("item_id", "dimension", "annotator_id", "label", "text")), strict=True
        ):
            if text:
                found.setdefault((item, dimension), []).append((who or "", label or "", text))
    return found
