"""Choose the items that candidates are raced on, those that confirm the winner, and those of the final test.

Groups stay whole. Which half of the validation split a group is in, and which groups come first where only some items
are asked, is a hash of the seed and the group alone: shards and the order of rows do not matter, and choices of parts
merge into the choice of the whole. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.schema import TARGET_AGGREGATE, unit_key
from judgetrace.splits import assign_buckets

Part = Literal["race", "confirm", "test"]
CHOSEN_BY = ("item_id", "dimension", "target_source", "target_label", "group", "split")
"""The columns of schema.ITEMS that `pick_items` reads besides those that it passes on."""


@dataclass(frozen=True)
class ItemRule:
    """Which units count, and how many of each part at most."""

    dimension: str
    seed: int
    validation: str = "validation"
    test: str | None = "test"
    """None where the test split is left alone."""
    max_items: int | None = None
    """Items of each half of the validation split; whole groups are taken until there are so many."""
    max_test_items: int | None = None

    def limit(self, part: Part) -> int | None:
        """Return how many items of a part are asked at most, but for the rest of a group."""
        return self.max_test_items if part == "test" else self.max_items


@dataclass(frozen=True)
class HeldItems:
    """Rows of schema.ITEMS by part, in the order of their groups' hashes."""

    rule: ItemRule
    rows: dict[Part, tuple[dict[str, Any], ...]]

    def count_groups(self, part: Part) -> int:
        """Count the groups of a part."""
        return len({row["group"] for row in self.rows[part]})


def pick_items(table: pa.Table, rule: ItemRule) -> HeldItems:
    """Pick from units (schema.ITEMS, or its columns CHOSEN_BY and others): those of one target label.

    What merging would leave out is left out already, so that no part holds much more than is asked.
    """
    is_ours = pc.and_(pc.equal(table["dimension"], rule.dimension), pc.equal(table["target_source"], TARGET_AGGREGATE))
    is_ours = pc.and_(is_ours, pc.is_in(table["split"], pa.array([rule.validation, *filter(None, [rule.test])])))
    rows = table.filter(pc.and_(is_ours, pc.is_valid(table["target_label"]))).to_pylist()
    halves = assign_buckets((row["group"] for row in rows), 2, f"refine\x1f{rule.seed}")
    parts: dict[Part, list[dict[str, Any]]] = {"race": [], "confirm": [], "test": []}
    for row, half in zip(rows, halves, strict=True):
        part: Part = "test" if row["split"] == rule.test else "confirm" if half else "race"
        parts[part].append(row)
    return HeldItems(rule, {part: _take_groups(found, rule, part) for part, found in parts.items()})


def merge_items(picked: Iterable[HeldItems], rule: ItemRule) -> HeldItems:
    """Merge what was picked from disjoint tables by the same rule."""
    parts: dict[Part, list[dict[str, Any]]] = {"race": [], "confirm": [], "test": []}
    for held in picked:
        for part, rows in held.rows.items():
            parts[part].extend(rows)
            # So that not much more than is asked is held whatever the number of tables, and little is sorted again.
            limit = rule.limit(part)
            if limit is not None and len(parts[part]) > 2 * limit + len(rows):
                parts[part] = list(_take_groups(parts[part], rule, part))
    return HeldItems(rule, {part: _take_groups(rows, rule, part) for part, rows in parts.items()})


def _take_groups(rows: list[dict[str, Any]], rule: ItemRule, part: Part) -> tuple[dict[str, Any], ...]:
    """Take whole groups in the order of their hashes until there are enough items."""
    ordered = sorted(rows, key=lambda row: (_hash_group(row["group"], rule.seed), row["group"], unit_key(row)))
    limit = rule.limit(part)
    if limit is None or len(ordered) <= limit:
        return tuple(ordered)
    last = ordered[limit - 1]["group"]
    end = next((at for at in range(limit, len(ordered)) if ordered[at]["group"] != last), len(ordered))
    return tuple(ordered[:end])


def _hash_group(group: str, seed: int) -> bytes:
    text = f"held\x1f{seed}\x1f{group}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
