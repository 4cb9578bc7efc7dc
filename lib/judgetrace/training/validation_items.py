"""Choose the items of the validation split that a rater is held against while it learns. Pure but for reading."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.guideline import Guideline
from judgetrace.sampling import draw_seed
from judgetrace.schema import TARGET_AGGREGATE, unit_key
from judgetrace.storage import Folder

ITEM_COLUMNS = ["item_id", "dimension", "target_source", "target_label", "fields", "split"]
_KEY_COLUMNS = ["item_id", "dimension", "target_source", "split"]


def choose_items(
    corpus: Folder, shard_names: Iterable[str], guideline: Guideline, split: str, *, max_items: int, seed: int
) -> list[dict[str, Any]]:
    """Choose at most `max_items` units with an aggregated label of a split, by a hash of seed and unit.

    Those that the guideline has no section for can't be rated.

    Returns rows with ITEM_COLUMNS. The choice does not depend on shards.
    """
    names = list(shard_names)

    def keys() -> Iterable[tuple[int, str, int, int]]:
        for shard, name in enumerate(names):
            for row, unit in _list_rateable(corpus.read_table(f"items/{name}", _KEY_COLUMNS), guideline, split):
                key = unit_key(unit)
                yield draw_seed(seed, key, 0), "\x1f".join(key), shard, row

    chosen = heapq.nsmallest(max_items, keys())
    found: dict[tuple[int, int], dict[str, Any]] = {}
    # Texts are read of the shards that hold a chosen unit alone, and kept of the chosen units alone.
    for shard in sorted({shard for _, _, shard, _ in chosen}):
        rows = [row for _, _, own, row in chosen if own == shard]
        texts = corpus.read_table(f"items/{names[shard]}", ITEM_COLUMNS).take(rows).to_pylist()
        found |= {(shard, row): text for row, text in zip(rows, texts, strict=True)}
    return [found[shard, row] for _, _, shard, row in chosen]


def _list_rateable(items: pa.Table, guideline: Guideline, split: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """List the row numbers and keys (_KEY_COLUMNS) of a shard's units that can be held against people."""
    is_wanted = pc.and_(pc.equal(items["split"], split), pc.equal(items["target_source"], TARGET_AGGREGATE))
    wanted = pc.indices_nonzero(is_wanted)
    for row, unit in zip(wanted.to_pylist(), items.take(wanted).to_pylist(), strict=True):
        if guideline.guideline_for(unit["dimension"]) is not None:
            yield row, unit
