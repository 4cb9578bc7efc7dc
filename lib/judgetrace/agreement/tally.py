"""Turn the units of a bucket into tables of counts (judgetrace.agreement.tables)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from judgetrace.agreement.alternative_test import compare_accuracy, compare_errors
from judgetrace.agreement.count_targets import NO_TARGET, decide_targets
from judgetrace.agreement.counts import (
    Counts,
    Features,
    combine_codes,
    encode_pairs,
    fold_clusters,
    make_complete_features,
    make_panel_features,
    sum_features,
)
from judgetrace.agreement.rating_codes import NO_RATING
from judgetrace.agreement.tables import (
    ALL_ANNOTATORS,
    ALL_RATERS,
    EACH_ANNOTATOR,
    PANEL_TIMES,
    REST,
    TARGET,
    BucketCounts,
    TableKey,
    name_panel,
)
from judgetrace.agreement.units import NOT_ASKED, UnitRules, Units


@dataclass(frozen=True)
class _Grouping:
    """Units by slice, kept or dropped, and cluster; G groups."""

    slice_by: str
    names: list[str]
    of_unit: np.ndarray  # [U] group; -1 for units outside every slice
    slices: np.ndarray  # [G]
    kept: np.ndarray  # [G]
    clusters: np.ndarray  # [G] uint64


def count_bucket(units: list[Units], rules: UnitRules) -> BucketCounts:
    """Count the units of a bucket."""
    found = BucketCounts()
    for own in units:
        found.clusters.add(np.unique(own.clusters))
    for own in units:
        if found.clusters.is_folded:
            own.clusters = fold_clusters(own.clusters)
        found.num_units += len(own)
        found.num_duplicates += own.num_duplicates
        _Tally(own, rules, found).count()
    return found


def _group_units(units: Units, cluster_of: np.ndarray, slice_by: str, index: np.ndarray, names: list[str]) -> _Grouping:
    """Group units by the value `index` [U] of a slice (-1: none); `cluster_of` [U] numbers their clusters."""
    inside = np.flatnonzero(index >= 0)
    first, numbers = combine_codes([index[inside], units.kept[inside].astype(np.int64), cluster_of[inside]])
    of_unit = np.full(len(units), -1, dtype=np.int64)
    of_unit[inside] = numbers
    leaders = inside[first]
    return _Grouping(slice_by, names, of_unit, index[leaders], units.kept[leaders], units.clusters[leaders])


class _Tally:
    """Counts one dimension of a bucket."""

    def __init__(self, units: Units, rules: UnitRules, found: BucketCounts):
        self.units, self.rules, self.found = units, rules, found
        cluster_of = pd.factorize(units.clusters)[0].astype(np.int64)
        everything = _group_units(units, cluster_of, "", np.zeros(len(units), dtype=np.int64), [""])
        self.overall = [everything]
        self.groupings = [everything]
        if rules.by_label:
            self.groupings.append(
                _group_units(units, cluster_of, "label", units.target, list(units.codes.scale.values))
            )
        for name, (index, values) in units.slices.items():
            self.groupings.append(_group_units(units, cluster_of, name, index, values))
        self.rest = _find_rest_targets(units, rules)

    def count(self) -> None:
        """Count everything."""
        self._count_units()
        self._count_people()
        self._count_raters()

    def _add(
        self,
        groupings: list[_Grouping],
        name: tuple[str, str, str],
        features: Features,
        units: np.ndarray,
        row_of: np.ndarray | None = None,
    ) -> None:
        """Add features whose rows stand for `units` (through `row_of`, where several units share a row)."""
        rows = np.arange(len(units)) if row_of is None else row_of
        num_rows = int(rows.max(initial=-1)) + 1
        for grouping in groupings:
            groups, cells, amounts = sum_features(features, num_rows, grouping.of_unit[units], rows, len(grouping.kept))
            strata = grouping.slices[groups] * 2 + grouping.kept[groups]
            order = np.lexsort((cells, grouping.clusters[groups], strata))
            groups, cells, amounts, strata = groups[order], cells[order], amounts[order], strata[order]
            starts = np.flatnonzero(np.diff(strata, prepend=-1))
            ends = np.append(starts[1:], len(strata)) if len(starts) else starts
            for start, end in zip(starts, ends, strict=True):
                value, kept = divmod(int(strata[start]), 2)
                key = TableKey(
                    self.units.dimension,
                    grouping.slice_by,
                    grouping.names[value],
                    name[0],
                    name[1],
                    name[2],
                    bool(kept),
                )
                span = slice(start, end)
                assert key not in self.found.tables, key
                small = amounts[span].astype(np.int32 if amounts[span].max() < 1 << 31 else np.int64)
                self.found.tables[key] = Counts(grouping.clusters[groups[span]], cells[span], small)

    def _add_pairs(
        self,
        groupings: list[_Grouping],
        name: tuple[str, str, str],
        first: np.ndarray,
        second: np.ndarray,
        units: np.ndarray,
    ) -> None:
        """Add one pair of ratings for each of `units` where both are there."""
        both = np.flatnonzero((first >= 0) & (second >= 0))
        cells, row_of = combine_codes([first[both], second[both]]) if len(both) else (both, both)
        pairs = encode_pairs(first[both][cells], second[both][cells])
        ones = np.ones(len(pairs), dtype=np.int64)
        self._add(groupings, name, Features(np.arange(len(pairs)), pairs, ones), units[both], row_of)

    def _count_units(self) -> None:
        """Cell 0: all units; 1: units with a target; 2: labels of people; 3: those beside which there is another."""
        patterns = self.units.patterns
        sizes = patterns.sum(axis=1)
        beside = np.where(sizes > 1, sizes, 0)
        amounts = np.concatenate([np.ones(len(patterns), dtype=np.int64), sizes > 0, sizes, beside])
        rows = np.tile(np.arange(len(patterns)), 4)
        cells = np.repeat(np.arange(4), len(patterns))
        everyone = np.arange(len(self.units))
        self._add(self.groupings, ("units", "", ""), Features(rows, cells, amounts), everyone, self.units.pattern_of)

    def _count_people(self) -> None:
        units, patterns = self.units, self.units.patterns
        everyone = np.arange(len(units))
        panel = make_panel_features(patterns)
        self._add(self.groupings, ("human_panel", ALL_ANNOTATORS, ""), panel, everyone, units.pattern_of)
        rows, levels = np.nonzero(self.rest >= 0)
        cells = encode_pairs(levels, self.rest[rows, levels])
        ceiling = Features(rows, cells, patterns[rows, levels])
        self._add(self.groupings, ("human_ceiling", EACH_ANNOTATOR, REST), ceiling, everyone, units.pattern_of)
        names = self.rules.annotators.get(units.dimension, ())
        own = {name: units.find_labels(name) for name in names}
        for number, name in enumerate(names):
            labels = own[name]
            rest = np.where(labels >= 0, self.rest[units.pattern_of, np.maximum(labels, 0)], NO_RATING)
            self._add_pairs(self.overall, ("human_ceiling", name, REST), labels, rest, everyone)
            for other in names[number + 1 :]:
                self._add_pairs(self.overall, ("human_pair", name, other), labels, own[other], everyone)
        self._count_complete_people()

    def _count_complete_people(self) -> None:
        units = self.units
        names = self.rules.complete.get(units.dimension, ())
        if len(names) < 2:
            return
        whole = np.flatnonzero(units.counts.sum(axis=1) == len(names))
        ratings = np.stack([units.find_labels(name)[whole] for name in names], axis=1)
        self._add_complete("human_complete", ALL_ANNOTATORS, units.counts[whole], ratings, whole)

    def _add_complete(self, kind: str, who: str, counts: np.ndarray, ratings: np.ndarray, units: np.ndarray) -> None:
        """Add the `units` that a whole panel rated, for its ICCs: the levels of a nominal scale are no numbers."""
        if self.units.codes.scale.type != "nominal":
            self._add(self.overall, (kind, who, ""), make_complete_features(counts, ratings), units)

    def _count_raters(self) -> None:
        units, asked = self.units, self.rules.list_raters(self.units.dimension)
        target = units.target[units.rated_unit]
        for number, name in asked:
            ratings = units.ratings[:, number]
            if not (ratings != NOT_ASKED).any():
                continue
            rated = units.rated_unit
            self._add_pairs(self.groupings, ("rater_target", name, TARGET), ratings, target, rated)
            self._count_rater_and_annotators(name, ratings)
            for other_number, other in asked:
                others = units.ratings[:, other_number]
                if other_number != number:
                    both = np.where(others >= 0, ratings, NO_RATING)
                    self._add_pairs(self.overall, ("paired", name, other), both, target, rated)
                if other_number > number:
                    self._add_pairs(self.groupings, ("rater_rater", name, other), ratings, others, rated)
        if len(asked) > 1:
            levels = units.codes.read_levels(units.ratings[:, [number for number, _ in asked]])
            self._add_panel(self.groupings, "rater", ALL_RATERS, levels, units.rated_unit)
            self._count_before_and_after({name: levels[:, place] for place, (_, name) in enumerate(asked)})

    def _count_rater_and_annotators(self, name: str, ratings: np.ndarray) -> None:
        units = self.units
        rows = np.flatnonzero(ratings >= 0)
        rated = units.rated_unit[rows]
        if len(rows):
            first, row_of = combine_codes([ratings[rows], units.pattern_of[rated]])
            codes, patterns = ratings[rows][first], units.pattern_of[rated][first]
            counts, rest = units.patterns[patterns], self.rest[patterns]
            combos, levels = np.nonzero(counts)
            with_rest, left_out = np.nonzero(rest >= 0)
            others = rest[with_rest, left_out]
            for kind, with_whom, at, cells in (
                ("rater_annotator", EACH_ANNOTATOR, (combos, levels), encode_pairs(codes[combos], levels)),
                ("rater_rest", REST, (with_rest, left_out), encode_pairs(codes[with_rest], others)),
                ("ceiling_beside", REST, (with_rest, left_out), encode_pairs(left_out, others)),
            ):
                self._add(self.groupings, (kind, name, with_whom), Features(at[0], cells, counts[at]), rated, row_of)
            self._compare_with_annotators(name, ratings, rows)
        for annotator in self.rules.annotators.get(units.dimension, ()):
            labels = units.find_labels(annotator)[units.rated_unit]
            self._add_pairs(self.overall, ("rater_annotator", name, annotator), ratings, labels, units.rated_unit)

    def _compare_with_annotators(self, name: str, ratings: np.ndarray, rows: np.ndarray) -> None:
        """Sum up the alternative-annotator test."""
        units = self.units
        of_unit = np.full(len(units), NO_RATING, dtype=np.int64)
        of_unit[units.rated_unit[rows]] = ratings[rows]
        sizes = units.counts.sum(axis=1)
        named = np.array([who != "" for who in units.names] or [False])[units.label_who]
        labels = np.flatnonzero((of_unit[units.label_unit] >= 0) & (sizes[units.label_unit] >= 2) & named)
        unit, codes, own = units.label_unit[labels], units.codes, units.label_level[labels]
        rating = of_unit[unit]
        if codes.scale.type == "nominal":
            closer = compare_accuracy(units.counts[unit], own, codes.read_levels(rating))
        else:
            numbers = codes.read_numbers(np.arange(codes.num_levels))
            totals = (units.counts @ numbers)[unit] - numbers[own]
            closer = compare_errors(sizes[unit] - 1, totals, numbers[own], codes.read_numbers(rating))
        kept = units.kept[unit]
        for flag in (True, False):
            who, size = units.label_who[labels], len(units.names)
            sums = [
                np.bincount(who[(kept == flag) & chosen], minlength=size)
                for chosen in (np.ones(len(who), dtype=bool), closer > 0, closer < 0)
            ]
            stacked = np.stack(sums, axis=1)
            found = {units.names[index]: stacked[index] for index in np.flatnonzero(stacked[:, 0]).tolist()}
            if found:
                self.found.tests[units.dimension, name, flag] = found

    def _count_before_and_after(self, levels: Mapping[str, np.ndarray]) -> None:
        """Count how raters agree with each other before and after, on the same units; `levels` [Q] of each rater."""
        pairs = self.rules.list_panel(self.units.dimension)
        if not pairs:
            return
        whole = np.flatnonzero(np.all([levels[name] >= 0 for pair in pairs for name in pair], axis=0))
        for kind, names in zip(PANEL_TIMES, zip(*pairs, strict=True), strict=True):
            own = np.stack([levels[name][whole] for name in names], axis=1)
            self._add_panel(self.overall, kind, name_panel(names), own, self.units.rated_unit[whole])

    def _add_panel(
        self, groupings: list[_Grouping], kind: str, who: str, ratings: np.ndarray, units: np.ndarray
    ) -> None:
        """Add the levels [Q, k] of raters (negative: none), and for ICCs those of the units that all of them rated."""
        if not len(units):
            return
        levels = range(self.units.codes.num_levels)
        counts = np.stack([(ratings == level).sum(axis=1) for level in levels], axis=1).astype(np.int64)
        first, row_of = combine_codes(list(counts.T))
        self._add(groupings, (f"{kind}_panel", who, ""), make_panel_features(counts[first]), units, row_of)
        whole = np.flatnonzero((ratings >= 0).all(axis=1))
        self._add_complete(f"{kind}_complete", who, counts[whole], ratings[whole], units[whole])


def _find_rest_targets(units: Units, rules: UnitRules) -> np.ndarray:
    """Find what the others agree on without one annotator of a level [P, V]; NO_TARGET where nobody is left out."""
    patterns = units.patterns
    rest = np.full(patterns.shape, NO_TARGET, dtype=np.int64)
    for level in range(patterns.shape[1]):
        own = np.flatnonzero((patterns[:, level] > 0) & (patterns.sum(axis=1) > 1))
        others = patterns[own].copy()
        others[:, level] -= 1
        rest[own, level] = decide_targets(others, rules.target, units.codes.scale).levels
    return rest
