"""The rows of one bucket as units: who chose which level of an item, what the raters say, the target, the cluster.

A bucket holds all rows of its items, so that what a unit adds to any count can be told here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.agreement.count_targets import Targets, decide_targets
from judgetrace.agreement.counts import combine_codes
from judgetrace.agreement.intake import Kind, encode_column, encode_items
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.agreement.rating_codes import NO_RATING, RatingCodes
from judgetrace.labels import TargetConfig
from judgetrace.scale import ScaleConfig
from judgetrace.splits import SplitConfig, assign_splits

NOT_ASKED = -2
"""In place of a rating: the rater has no row about this unit."""


@dataclass(frozen=True)
class UnitRules:
    """What all reduce tasks share."""

    scales: ScaleConfig
    target: TargetConfig
    kinds: tuple[str, ...]  # of the sources, by index
    asked: tuple[tuple[str, ...], ...]  # of the sources: the dimensions that their raters were asked about; none: all
    raters: tuple[tuple[int, str], ...]  # (source, name), in the order of all outputs
    rater_names: tuple[str, ...]  # what to call them
    panel: tuple[tuple[str, str], ...]  # names before and after, of those whose agreement with each other may change
    annotators: dict[str, tuple[str, ...]]  # dimension -> those with figures of their own
    complete: dict[str, tuple[str, ...]]  # dimension -> all annotators, where they are few
    slices: tuple[str, ...] = ()
    by_label: bool = True
    by_group: bool = False
    split: str | None = None
    split_config: SplitConfig = field(default_factory=SplitConfig)

    @property
    def needs_splits(self) -> bool:
        """Whether the items' splits matter."""
        return self.split is not None or "split" in self.slices

    def list_raters(self, dimension: str) -> list[tuple[int, str]]:
        """List the raters that were asked about a dimension: place among all raters, name."""
        named = zip(self.raters, self.rater_names, strict=True)
        return [
            (place, name)
            for place, ((source, _), name) in enumerate(named)
            if dimension in (self.asked[source] or (dimension,))
        ]

    def list_panel(self, dimension: str) -> list[tuple[str, str]]:
        """List the pairs of raters before and after that were asked about a dimension; one pair is no panel."""
        asked = {name for _, name in self.list_raters(dimension)}
        pairs = [pair for pair in self.panel if asked.issuperset(pair)]
        return pairs if len(pairs) > 1 else []

    def has_kind(self, kind: Kind) -> np.ndarray:
        """Whether each source is of a kind."""
        return np.array([own == kind for own in self.kinds])


@dataclass
class Units:
    """The units of a dimension in a bucket: U units, N labels of people, R raters, Q rated rows, V levels."""

    dimension: str
    codes: RatingCodes
    clusters: np.ndarray  # [U] uint64
    counts: np.ndarray  # [U, V] people who chose each level
    pattern_of: np.ndarray  # [U] index of the unit's count vector
    patterns: np.ndarray  # [P, V] the distinct count vectors
    targets: Targets  # [P] of the patterns
    label_unit: np.ndarray  # [N]
    label_who: np.ndarray  # [N] index into names
    label_level: np.ndarray  # [N]
    names: list[str]
    rated_unit: np.ndarray  # [Q]
    ratings: np.ndarray  # [Q, R] rating codes; NO_RATING, NOT_ASKED
    slices: dict[str, tuple[np.ndarray, list[str]]] = field(default_factory=dict)  # name -> value index [U], values
    num_duplicates: int = 0

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def target(self) -> np.ndarray:
        """The target levels [U] without what the rule drops; NO_TARGET where no person gave a label."""
        return np.asarray(self.targets.levels[self.pattern_of])

    @property
    def kept(self) -> np.ndarray:
        """Whether the target rule keeps the unit [U]."""
        return np.asarray(self.targets.kept[self.pattern_of])

    def find_labels(self, who: str) -> np.ndarray:
        """Find an annotator's levels [U]; NO_RATING where they gave none."""
        levels = np.full(len(self), NO_RATING, dtype=np.int64)
        if who in self.names:
            own = np.flatnonzero(self.label_who == self.names.index(who))
            levels[self.label_unit[own]] = self.label_level[own]
        return levels


def make_units(rows: pa.Table, rules: UnitRules) -> list[Units]:
    """Make the units of a bucket (schema of the intake's rules, in the order of sources), by dimension."""
    if not len(rows):
        return []
    rows = rows.combine_chunks()
    item_codes, items = encode_items(rows["item_id"])
    dimension_codes, dimensions = encode_column(rows["dimension"])
    is_told = pc.is_valid(rows["group"]).to_numpy(zero_copy_only=False)
    groups = _find_groups(rows, is_told, item_codes, items) if rules.by_group else items
    # A corpus was split by its own groups, or by item: a table's groups say nothing of that.
    of_corpus = is_told & rules.has_kind("items")[rows["source"].to_numpy()]
    split_groups = _find_groups(rows, of_corpus, item_codes, items) if rules.needs_splits else items
    items_of = _Items(hash_strings(groups), split_groups)
    found = []
    for code in sorted(range(len(dimensions)), key=lambda code: dimensions[code]):
        own = np.flatnonzero(dimension_codes == code)
        part = rows if len(own) == len(rows) else rows.take(pa.array(own))
        units = _make_dimension(part, item_codes[own], items_of, dimensions[code], rules)
        if len(units):
            found.append(units)
    return found


def _find_groups(rows: pa.Table, is_told: np.ndarray, item_codes: np.ndarray, items: pa.Array) -> pa.Array:
    """Find the group of each item: the first that one of the rows `is_told` tells, else the item itself."""
    told = np.flatnonzero(is_told)
    distinct, first = np.unique(item_codes[told], return_index=True)
    groups = items.to_numpy(zero_copy_only=False).copy()
    groups[distinct] = rows["group"].take(pa.array(told[first])).to_numpy(zero_copy_only=False)
    return pa.array(groups, pa.string())


@dataclass(frozen=True)
class _Items:
    """What a bucket knows of its items, by their codes."""

    clusters: np.ndarray  # uint64
    split_groups: pa.Array


def _make_dimension(rows: pa.Table, item_codes: np.ndarray, items: _Items, dimension: str, rules: UnitRules) -> Units:
    clusters, split_groups = items.clusters, items.split_groups
    scale = rules.scales.of(dimension)
    assert scale is not None, f"the intake lets no row of dimension {dimension!r} through"
    codes = RatingCodes(scale)
    is_rating = ~rules.has_kind("items")[rows["source"].to_numpy()]
    member = np.zeros(len(clusters), dtype=bool)
    member[item_codes[is_rating]] = True
    if rules.split is not None:
        member &= pc.equal(assign_splits(split_groups, rules.split_config), rules.split).to_numpy(zero_copy_only=False)
    slices = _find_slices(rows, item_codes, split_groups, rules)
    unit_of_item = np.cumsum(member) - 1
    unit_of_item[~member] = -1
    unit_of = unit_of_item[item_codes]
    who_codes, names = encode_column(rows["who"])
    people = rules.has_kind("human")[rows["source"].to_numpy()]
    ratings = rows["code"].to_numpy().astype(np.int64)
    label_rows, repeats = _drop_repeats(np.flatnonzero(people & (unit_of >= 0)), (unit_of, who_codes), names)
    num_units, levels = int(member.sum()), codes.num_levels
    cells = unit_of[label_rows] * levels + ratings[label_rows]
    counts = np.bincount(cells, minlength=num_units * levels).reshape(num_units, levels).astype(np.int64)
    first, pattern_of = combine_codes(list(counts.T)) if num_units else (np.empty(0, np.int64), np.empty(0, np.int64))
    patterns = counts[first]
    rated = _lay_out_ratings(rows, unit_of, (who_codes, names), ratings, rules)
    return Units(
        dimension=dimension,
        codes=codes,
        clusters=clusters[member],
        counts=counts,
        pattern_of=pattern_of,
        patterns=patterns,
        targets=decide_targets(patterns, rules.target, scale),
        label_unit=unit_of[label_rows],
        label_who=who_codes[label_rows],
        label_level=ratings[label_rows],
        names=names,
        rated_unit=rated[0],
        ratings=rated[1],
        slices={name: (index[member], values) for name, (index, values) in slices.items()},
        num_duplicates=repeats + rated[2],
    )


def _drop_repeats(rows: np.ndarray, keys: tuple[np.ndarray, np.ndarray], names: list[str]) -> tuple[np.ndarray, int]:
    """Keep the first of an annotator's labels of a unit; nobody's labels ("") are all kept."""
    unit_of, who = keys
    codes = unit_of[rows] * max(len(names), 1) + who[rows]
    repeated = find_repeats(codes)
    if "" in names:
        repeated = repeated & (who[rows] != names.index(""))
    return rows[~repeated], int(repeated.sum())


def find_repeats(codes: np.ndarray) -> np.ndarray:
    """Find which codes [N] occurred before."""
    return np.asarray(pd.Series(codes).duplicated().to_numpy())


def _lay_out_ratings(
    rows: pa.Table, unit_of: np.ndarray, whos: tuple[np.ndarray, list[str]], ratings: np.ndarray, rules: UnitRules
) -> tuple[np.ndarray, np.ndarray, int]:
    """Lay out the raters' rows as unit [Q], ratings [Q, R], and the number of duplicates."""
    who_codes, names = whos
    sources = rows["source"].to_numpy()
    rater_of = np.full((len(rules.kinds), max(len(names), 1)), -1, dtype=np.int64)
    for number, (source, name) in enumerate(rules.raters):
        if name in names:
            rater_of[source, names.index(name)] = number
    own = np.flatnonzero(rules.has_kind("rater")[sources] & (unit_of >= 0))
    if not len(own):
        return np.empty(0, dtype=np.int64), np.empty((0, len(rules.raters)), dtype=np.int64), 0
    raters = rater_of[sources[own], who_codes[own]]
    repeated = find_repeats(unit_of[own] * len(rules.raters) + raters)
    keep = own[~repeated]
    rated, row_of = np.unique(unit_of[keep], return_inverse=True)
    table = np.full((len(rated), len(rules.raters)), NOT_ASKED, dtype=np.int64)
    table[row_of, raters[~repeated]] = ratings[keep]
    return rated, table, int(repeated.sum())


def _find_slices(
    rows: pa.Table, item_codes: np.ndarray, split_groups: pa.Array, rules: UnitRules
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Find each item's value of the slice columns: the first that a row of the dimension tells, else -1."""
    found = {}
    for name in rules.slices:
        if name == "split":
            found[name] = encode_column(assign_splits(split_groups, rules.split_config))
            continue
        codes, values = encode_column(rows[f"slice:{name}"])
        told = np.flatnonzero(codes >= 0)
        distinct, first = np.unique(item_codes[told], return_index=True)
        index = np.full(len(split_groups), -1, dtype=np.int64)
        index[distinct] = codes[told[first]]
        found[name] = (index, values)
    return found
