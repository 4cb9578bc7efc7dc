"""Select accepted traces to write a guideline from: the same number for each level, drawn by a hash.

A unit's place in the draw is a hash of the seed and its key alone. The selection therefore does not depend on shards
or on the order of rows, and selections of parts merge into the selection of the whole.
Hinted traces, which argue for a label that they were told, take only the places that a level's other traces leave.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key
from judgetrace.training.hinted import choose_dropped

SELECTED = (*UNIT_KEY, "outcome", "rating", "split", "hinted")
"""The columns of schema.TRACES that `select_traces` reads."""


@dataclass(frozen=True)
class Selection:
    """Units taken for each level: hinted ones last, else those with the smallest hashes first."""

    per_level: int
    taken: Mapping[str, tuple[UnitKey, ...]]
    """For each level of the scale, lowest first; at most `per_level` units."""
    available: Mapping[str, int]
    """Accepted units of each level that there were to take from."""
    hinted: frozenset[tuple[str, UnitKey]] = field(default_factory=frozenset)
    """(level, unit) of those taken whose trace is a hinted one."""

    @property
    def missing(self) -> dict[str, int]:
        """Units that a level lacks of `per_level`; only levels that lack some."""
        lacks = {level: self.per_level - len(units) for level, units in self.taken.items()}
        return {level: number for level, number in lacks.items() if number}

    def cut(self, number: int, max_hinted_share: float, seed: int) -> Selection:
        """Take the first `number` units of each level, of all of them at most `max_hinted_share` hinted."""
        first = [(level, unit) for level, units in self.taken.items() for unit in units[:number]]
        hinted = [pair for pair in first if pair in self.hinted]
        dropped = choose_dropped([unit for _, unit in hinted], len(first) - len(hinted), max_hinted_share, seed)
        left_out = {hinted[n] for n in dropped}
        taken = {
            level: tuple(unit for unit in units[:number] if (level, unit) not in left_out)
            for level, units in self.taken.items()
        }
        return Selection(number, taken, self.available, frozenset(hinted) - left_out)

    def interleave(self) -> list[tuple[str, UnitKey]]:
        """List (level, unit), one of each level in turn: any run of neighbours shows about all levels."""
        rounds = zip_longest(*([(level, unit) for unit in units] for level, units in self.taken.items()))
        return [pair for together in rounds for pair in together if pair is not None]


def pick_accepted(table: pa.Table, dimension: str, split: str = "train") -> pa.Table:
    """Pick the accepted units of a dimension and split from a table with the columns SELECTED, or more."""
    is_chosen = pc.and_(pc.equal(table["outcome"], "accepted"), pc.equal(table["dimension"], dimension))
    return table.filter(pc.and_(is_chosen, pc.equal(table["split"], split)))


def select_traces(
    table: pa.Table, dimension: str, scale: Scale, per_level: int, *, seed: int, split: str = "train"
) -> Selection:
    """Select from a table with the columns SELECTED: accepted units of a dimension and split.

    A trace's level is the rating that it ends in, which is what it argues for. Only one split is read: a guideline
    that saw the items it is validated on would be no better than one that copies them.
    """
    units: dict[str, dict[bool, list[UnitKey]]] = {level: {False: [], True: []} for level in scale.values}
    for row in pick_accepted(table, dimension, split).select([*UNIT_KEY, "rating", "hinted"]).to_pylist():
        units[row["rating"]][bool(row["hinted"])].append(unit_key(row))
    available = {level: len(found[False]) + len(found[True]) for level, found in units.items()}
    return _take({level: (found[False], found[True]) for level, found in units.items()}, available, per_level, seed)


def merge_selections(selections: Iterable[Selection], seed: int) -> Selection:
    """Merge the selections of parts, of one scale, `per_level` and seed; at least one.

    A unit that several parts hold, as several runs may, is taken once, but counted as available by each.
    """
    parts = list(selections)
    levels = list(parts[0].taken)
    units: dict[str, tuple[list[UnitKey], list[UnitKey]]] = {level: ([], []) for level in levels}
    for part in parts:
        for level in levels:
            for unit in part.taken[level]:
                units[level][(level, unit) in part.hinted].append(unit)
    available = {level: sum(part.available[level] for part in parts) for level in levels}
    return _take(units, available, parts[0].per_level, seed)


def _take(
    units: Mapping[str, tuple[Sequence[UnitKey], Sequence[UnitKey]]],
    available: Mapping[str, int],
    per_level: int,
    seed: int,
) -> Selection:
    """Take units of each level, given those with a trace of its own and those with a hinted one."""
    taken: dict[str, tuple[UnitKey, ...]] = {}
    hinted: set[tuple[str, UnitKey]] = set()
    for level, (own, told) in units.items():
        first = _take_first(own, per_level, seed)
        rest = _take_first((unit for unit in told if unit not in first), per_level - len(first), seed)
        taken[level] = first + rest
        hinted.update((level, unit) for unit in rest)
    return Selection(per_level, taken, available, frozenset(hinted))


def _take_first(keys: Iterable[UnitKey], number: int, seed: int) -> tuple[UnitKey, ...]:
    return tuple(heapq.nsmallest(number, dict.fromkeys(keys), key=lambda key: (_hash_unit(key, seed), key)))


def _hash_unit(key: UnitKey, seed: int) -> bytes:
    text = "\x1f".join(("refine", str(seed), *key))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
