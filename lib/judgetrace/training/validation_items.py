"""Choose the items of the validation split that a rater is held against while it learns. Pure but for reading."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from judgetrace.guideline import Guideline
from judgetrace.sampling import draw_seed
from judgetrace.schema import TARGET_AGGREGATE, unit_key
from judgetrace.storage import Folder

ITEM_COLUMNS = ["item_id", "dimension", "target_source", "target_label", "fields", "split"]


def choose_items(
    corpus: Folder, shard_names: Iterable[str], guideline: Guideline, split: str, *, max_items: int, seed: int
) -> list[dict[str, Any]]:
    """Choose at most `max_items` units with an aggregated label of a split, by a hash of seed and unit.

    Those that the guideline has no section for can't be rated.

    Returns rows with ITEM_COLUMNS. The choice does not depend on shards.
    """

    def rows() -> Iterable[tuple[int, str, dict[str, Any]]]:
        for name in shard_names:
            for row in corpus.read_table(f"items/{name}", ITEM_COLUMNS).to_pylist():
                is_covered = guideline.guideline_for(row["dimension"]) is not None
                if is_covered and row["split"] == split and row["target_source"] == TARGET_AGGREGATE:
                    key = unit_key(row)
                    yield draw_seed(seed, key, 0), "\x1f".join(key), row

    return [row for _, _, row in heapq.nsmallest(max_items, rows(), key=lambda entry: entry[:2])]
