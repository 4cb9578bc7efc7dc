"""Read traces of runs for the trace browser: all of them, or a seeded sample of whole items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from judgetrace.ledger import current_shard_files
from judgetrace.reporting.trace_records import READ_COLUMNS, Rationales, Records, make_records
from judgetrace.storage import Folder, decode_parquet

_READERS = 4


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


def read_records(files: Sequence[TraceFile], selection: Selection, rationales: Rationales, max_chars: int) -> Records:
    """Read the selected units as records, mixed by the hash of their item: a prefix of them is a sample, too."""
    found = Records()
    with ThreadPoolExecutor(_READERS) as pool:
        for file, table in zip(files, pool.map(lambda file: _read_selected(file, selection), files), strict=True):
            found.extend(make_records(table, file.run, rationales, max_chars))
    return _sort(found, selection.seed)


def _read_selected(file: TraceFile, selection: Selection) -> pa.Table:
    data = file.folder.read_bytes(file.name)
    names = pq.read_schema(pa.BufferReader(data)).names
    table = decode_parquet(data, [name for name in READ_COLUMNS if name in names])
    return table.filter(pa.array(selection.covers(table.column("item_id").to_pylist())))


def _sort(found: Records, seed: int) -> Records:
    hashes = hash_items([key[0] for key in found.keys], seed) if len(found) else np.empty(0, np.uint64)
    order = sorted(range(len(found)), key=lambda n: (hashes[n], found.keys[n], found.facets["run"][n]))
    return Records(
        [found.records[n] for n in order],
        {name: [values[n] for n in order] for name, values in found.facets.items()},
        [found.keys[n] for n in order],
        found.reaches,
    )


def read_rationales(parts: Iterator[pa.Table], columns: dict[str, str | None], item_ids: set[str] | None) -> Rationales:
    """Gather people's reasons by item and dimension from tables.

    columns   item_id, dimension, annotator_id, label, text -> the column's name, None where there is none
    item_ids  the items to keep; None: all
    """
    found: dict[tuple[str, str | None], list[tuple[str, str, str]]] = {}
    for table in parts:
        values = {
            key: [None] * table.num_rows if name is None else pc.cast(table.column(name), pa.string()).to_pylist()
            for key, name in columns.items()
        }
        for item, dimension, who, label, text in zip(
            *(values[key] for key in ("item_id", "dimension", "annotator_id", "label", "text")), strict=True
        ):
            if text and (item_ids is None or item in item_ids):
                found.setdefault((item, dimension), []).append((who or "", label or "", text))
    return found
