"""Select accepted traces to write a guideline from: the same number for each level, drawn by a hash.

A unit's place in the draw is a hash of the seed and its key alone. The selection therefore does not depend on shards
or on the order of rows, and selections of parts merge into the selection of the whole.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key

SELECTED = (*UNIT_KEY, "outcome", "rating", "split")
"""The columns of schema.TRACES that `select_traces` reads."""


@dataclass(frozen=True)
class Selection:
    """Units taken for each level, those with the smallest hashes first."""

    per_level: int
    taken: Mapping[str, tuple[UnitKey, ...]]
    """For each level of the scale, lowest first; at most `per_level` units."""
    available: Mapping[str, int]
    """Accepted units of each level that there were to take from."""

    @property
    def missing(self) -> dict[str, int]:
        """Units that a level lacks of `per_level`; only levels that lack some."""
        lacks = {level: self.per_level - len(units) for level, units in self.taken.items()}
        return {level: number for level, number in lacks.items() if number}

    def interleave(self) -> list[tuple[str, UnitKey]]:
        """List (level, unit), one of each level in turn: any run of neighbours shows about all levels."""
        rounds = zip_longest(*([(level, unit) for unit in units] for level, units in self.taken.items()))
        return [pair for together in rounds for pair in together if pair is not None]


def select_traces(
    table: pa.Table, dimension: str, scale: Scale, per_level: int, *, seed: int, split: str = "train"
) -> Selection:
    """Select from a table with the columns SELECTED: accepted units of a dimension and split.

    A trace's level is the rating that it ends in, which is what it argues for. Only one split is read: a guideline
    that saw the items it is validated on would be no better than one that copies them.
    """
    is_chosen = pc.and_(pc.equal(table["outcome"], "accepted"), pc.equal(table["dimension"], dimension))
    is_chosen = pc.and_(is_chosen, pc.equal(table["split"], split))
    rows = table.select([*UNIT_KEY, "rating"]).filter(is_chosen).to_pylist()
    units: dict[str, list[UnitKey]] = {level: [] for level in scale.values}
    for row in rows:
        units[row["rating"]].append(unit_key(row))
    taken = {level: _take_first(keys, per_level, seed) for level, keys in units.items()}
    return Selection(per_level, taken, {level: len(keys) for level, keys in units.items()})


def merge_selections(selections: Iterable[Selection], seed: int) -> Selection:
    """Merge the selections of parts, of one scale, `per_level` and seed; at least one.

    A unit that several parts hold, as several runs may, is taken once, but counted as available by each.
    """
    parts = list(selections)
    per_level, levels = parts[0].per_level, list(parts[0].taken)
    taken = {
        level: _take_first((key for part in parts for key in part.taken[level]), per_level, seed) for level in levels
    }
    return Selection(per_level, taken, {level: sum(part.available[level] for part in parts) for level in levels})


def _take_first(keys: Iterable[UnitKey], number: int, seed: int) -> tuple[UnitKey, ...]:
    return tuple(heapq.nsmallest(number, dict.fromkeys(keys), key=lambda key: (_hash_unit(key, seed), key)))


def _hash_unit(key: UnitKey, seed: int) -> bytes:
    text = "\x1f".join(("refine", str(seed), *key))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
