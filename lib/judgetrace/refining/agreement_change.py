"""Agreement before and after, with paired intervals: raters with the target labels, and raters with each other.

The statistics and the bootstrap are those of `judgetrace.agreement`. Before and after are measured on the same items,
those that every compared rating is there of, and resampled together: the interval of a change is that of a paired
difference. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from judgetrace.agreement.bootstrap import Resampler, find_interval
from judgetrace.agreement.counts import (
    Clusters,
    Counts,
    encode_pairs,
    fold_clusters,
    make_complete_features,
    make_panel_features,
)
from judgetrace.agreement.measures import Measured, measure_counts
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.scale import Scale

TARGET, RATERS, MEAN = "target", "raters", "mean of raters"
CHANGES = pa.schema(
    [
        ("comparison", pa.string()),  # target: a rater with the target labels; raters: raters with each other
        ("who", pa.string()),  # a rater; "mean of raters"; two raters, or "all raters"
        ("statistic", pa.string()),
        ("num_items", pa.int64()),
        ("before", pa.float64()),  # with the original guideline; null where undefined
        ("before_low", pa.float64()),
        ("before_high", pa.float64()),
        ("after", pa.float64()),  # with the refined guideline; null where there is none, too
        ("after_low", pa.float64()),
        ("after_high", pa.float64()),
        ("change", pa.float64()),  # after - before
        ("change_low", pa.float64()),
        ("change_high", pa.float64()),
    ]
)
"""One row a comparison and statistic."""
STATISTICS = {
    "nominal": ("alpha_nominal", "cohen_kappa", "exact_agreement"),
    "ordinal": ("kendall_tau_b", "icc_3_1", "kappa_quadratic", "alpha_ordinal", "mse", "exact_agreement"),
    "interval": ("kendall_tau_b", "icc_3_1", "kappa_quadratic", "alpha_interval", "mse", "exact_agreement"),
}


@dataclass(frozen=True)
class Ratings:
    """Numbers of R raters for N items in the scale's numbers; NaN where one gave none."""

    raters: Sequence[str]
    before: np.ndarray  # [R, N]
    after: np.ndarray | None  # [R, N]
    targets: np.ndarray  # [N]
    groups: Sequence[str]  # N


@dataclass(frozen=True)
class _Table:
    """A statistic's values and replicates by name, for one comparison at one time."""

    values: Mapping[str, float]
    replicates: Mapping[str, np.ndarray]
    num_items: int


def measure_change(ratings: Ratings, scale: Scale, *, replicates: int, seed: int, level: float) -> pa.Table:
    """Measure agreement before and after; returns CHANGES. Without items there is no row."""
    if not ratings.groups:
        return CHANGES.empty_table()
    measure = _Measurer(ratings, scale, replicates, seed)
    rows: list[dict[str, object]] = []
    for comparison, who, before, after in measure.list_comparisons():
        for statistic in STATISTICS[scale.type]:
            if statistic in before.values:
                ends = _compare(before, after, statistic, level)
                names = {"comparison": comparison, "who": who, "statistic": statistic, "num_items": before.num_items}
                rows.append(names | ends)
    return pa.Table.from_pylist(rows, CHANGES)


def _compare(before: _Table, after: _Table | None, statistic: str, level: float) -> dict[str, float | None]:
    found = _describe("before", before.values[statistic], before.replicates.get(statistic), level)
    if after is None:
        return found
    found |= _describe("after", after.values[statistic], after.replicates.get(statistic), level)
    both = before.replicates.get(statistic), after.replicates.get(statistic)
    apart = None if both[0] is None or both[1] is None else both[1] - both[0]
    return found | _describe("change", after.values[statistic] - before.values[statistic], apart, level)


def _describe(name: str, value: float, replicates: np.ndarray | None, level: float) -> dict[str, float | None]:
    low, high = (math.nan, math.nan) if replicates is None else find_interval(replicates, level)
    found = {name: value, f"{name}_low": low, f"{name}_high": high}
    return {key: None if math.isnan(number) else number for key, number in found.items()}


class _Measurer:
    """Measures tables of the same items and clusters."""

    def __init__(self, ratings: Ratings, scale: Scale, replicates: int, seed: int):
        self._ratings, self._codes = ratings, RatingCodes(scale)
        hashes, distinct = hash_strings(pa.array(ratings.groups, pa.string())), Clusters()
        distinct.add(hashes)
        # A weight for each replicate and group of 1M items would take gigabytes.
        self._clusters = fold_clusters(hashes) if distinct.is_folded else hashes
        self._resampler = Resampler(distinct.names, seed, replicates)
        self._targets = self._codes.encode_numbers(np.asarray(ratings.targets, float))
        self._before = [self._codes.encode_numbers(row) for row in ratings.before]
        self._after = None if ratings.after is None else [self._codes.encode_numbers(row) for row in ratings.after]

    def list_comparisons(self) -> Iterator[tuple[str, str, _Table, _Table | None]]:
        """List (comparison, who, before, after)."""
        names = self._ratings.raters
        places = range(len(names))
        with_target = [self._measure_both([place], with_target=True) for place in places]
        for name, tables in zip(names, with_target, strict=True):
            yield (TARGET, name, *tables)
        if len(names) > 1:
            before, after = (
                _average([table for table in tables if table]) for tables in zip(*with_target, strict=True)
            )
            yield TARGET, MEAN, before, None if self._after is None else after
        for one, two in combinations(places, 2):
            yield (RATERS, f"{names[one]}, {names[two]}", *self._measure_both([one, two]))
        if len(names) > 2:
            yield (RATERS, "all raters", *self._measure_both(places))

    def _measure_both(self, places: Sequence[int], with_target: bool = False) -> tuple[_Table, _Table | None]:
        """Measure raters with each other, or one with the targets, before and after.

        On the items that have all compared ratings, so that both times are about the same ones.
        """
        more = [self._targets] if with_target else []
        times = [
            [*(codes[place] for place in places), *more] for codes in (self._before, self._after) if codes is not None
        ]
        whole = np.flatnonzero(np.all([codes >= 0 for chosen in times for codes in chosen], axis=0))
        tables = [self._measure([codes[whole] for codes in chosen], self._clusters[whole]) for chosen in times]
        return tables[0], tables[1] if len(tables) > 1 else None

    def _measure(self, chosen: list[np.ndarray], clusters: np.ndarray) -> _Table:
        if len(chosen) == 2:
            ones = np.ones(len(clusters), dtype=np.int64)
            found = self._measure_counts("pair", clusters, encode_pairs(*chosen), ones)
            return _Table(found.values, found.replicates, len(clusters))
        levels = np.stack([self._codes.read_levels(codes) for codes in chosen], axis=1)
        places = range(self._codes.num_levels)
        counts = np.stack([(levels == level).sum(axis=1) for level in places], axis=1).astype(np.int64)
        tables = []
        for kind, some in (
            ("rater_panel", make_panel_features(counts)),
            ("rater_complete", make_complete_features(counts, levels)),
        ):
            tables.append(self._measure_counts(kind, clusters[some.rows], some.cells, some.amounts))
        values, replicates = (tables[0].values | tables[1].values), (tables[0].replicates | tables[1].replicates)
        return _Table(values, replicates, len(clusters))

    def _measure_counts(self, kind: str, clusters: np.ndarray, cells: np.ndarray, amounts: np.ndarray) -> Measured:
        return measure_counts(kind, Counts(clusters, cells, amounts), self._codes, self._resampler)


def _average(tables: Sequence[_Table]) -> _Table:
    """Average statistics over raters, replicate by replicate; no tables have none."""
    names = tables[0].values if tables else ()
    values = {name: float(np.mean([table.values[name] for table in tables])) for name in names}
    replicates = {
        name: np.mean([table.replicates[name] for table in tables], axis=0)
        for name in names
        if all(name in table.replicates for table in tables)
    }
    return _Table(values, replicates, min((table.num_items for table in tables), default=0))
