"""Recalibrate a rater by isotonic regression: a monotone map from its ratings to target labels, fitted on one split.

Pure. A non-decreasing map never reverses two items, it can only tie them: what changes by it is calibration (MSE,
weighted kappa), what stays is ranking (tau-b but for ties).

Source: Barlow, Bartholomew, Bremner & Brunk (1972), Statistical Inference under Order Restrictions; as a calibration of
scores Zadrozny & Elkan (KDD 2002). The regression itself is scipy's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import isotonic_regression

from judgetrace.config import UserError
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import RATER_ANNOTATIONS, RATINGS

COUNTED = ("dimension", "split", "outcome", "rating", "target_label")
"""The columns of schema.RATER_ANNOTATIONS that `count_pairs` reads."""


@dataclass
class FitCounts:
    """Counts of a rater's annotations. Every field is a sum, so they add in any order."""

    pairs: Counter[tuple[str, float, float]] = field(default_factory=Counter)
    """Rated rows of the fit split that have a target label, by dimension, rating and the target label's number."""
    rated: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rated rows by dimension and split."""
    rows: Counter[str] = field(default_factory=Counter)
    """All rows by split."""

    def add(self, other: FitCounts) -> None:
        """Add the counts of another table."""
        self.pairs.update(other.pairs)
        self.rated.update(other.rated)
        self.rows.update(other.rows)


def count_pairs(table: pa.Table, fit_split: str, scales: ScaleConfig) -> FitCounts:
    """Count a table with the columns COUNTED."""
    rated = table.filter(_find_rated(table))
    chosen = pc.and_(pc.equal(rated["split"], fit_split), pc.is_valid(rated["target_label"]))
    counts = FitCounts()
    for row in _count(rated.filter(chosen), "dimension", "rating", "target_label"):
        number = _number(row["target_label"], _scale_of(row["dimension"], scales))
        counts.pairs[row["dimension"], row["rating"], number] += row["count_all"]
    for row in _count(rated, "dimension", "split"):
        counts.rated[row["dimension"], row["split"]] += row["count_all"]
    for row in _count(table, "split"):
        counts.rows[row["split"]] += row["count_all"]
    return counts


@dataclass(frozen=True)
class MonotoneMap:
    """A non-decreasing map: linear between its knots, constant outside them."""

    ratings: tuple[float, ...]  # [K] strictly ascending
    targets: tuple[float, ...]  # [K] ascending; what each of `ratings` becomes
    num_items: int  # that it was fitted on

    def apply(self, ratings: np.ndarray) -> np.ndarray:
        """Map ratings [N], none of them NaN."""
        knots, targets = np.array(self.ratings), np.array(self.targets)
        above = np.minimum(np.searchsorted(knots, ratings), len(knots) - 1)
        # Rounding may carry an interpolated number past the knot above it, which would reverse two items.
        return np.asarray(np.minimum(np.interp(ratings, knots, targets), targets[above]))

    def to_json(self) -> dict[str, Any]:
        """Describe the map for a manifest."""
        return {"items": self.num_items, "ratings": list(self.ratings), "targets": list(self.targets)}


def fit_map(pairs: Mapping[tuple[float, float], int]) -> MonotoneMap:
    """Fit the non-decreasing map of least squared error; `pairs` counts (rating, target number), at least one.

    Equal ratings are pooled to their mean first, weighted by their counts. The knots are the ends of the pools.
    """
    # In a fixed order: sums of floats depend on it.
    rating, target = np.array(sorted(pairs)).T
    count = np.array([pairs[pair] for pair in sorted(pairs)], dtype=float)
    ratings, position = np.unique(rating, return_inverse=True)
    weights = np.bincount(position, count)
    means = np.bincount(position, count * target) / weights
    fitted = isotonic_regression(means, weights=weights, increasing=True)
    starts = fitted.blocks[:-1]
    knots = np.union1d(starts, fitted.blocks[1:] - 1)
    # A mean of equal numbers may lie beside them by rounding, and so off the scale.
    levels = np.clip(fitted.x[knots], target.min(), target.max())
    return MonotoneMap(tuple(ratings[knots].tolist()), tuple(levels.tolist()), int(count.sum()))


def fit_maps(counts: FitCounts, fit_split: str, splits: Sequence[str], min_items: int) -> dict[str, MonotoneMap]:
    """Fit a map for each dimension that has rated rows in `splits`.

    Raises UserError where there is nothing in `splits`, or a dimension has too few items to fit on.
    """
    if not any(counts.rows[split] for split in splits):
        raise UserError(
            f"splits = {list(splits)}: the rater has no annotations there; it has {dict(sorted(counts.rows.items()))}"
        )
    by_dimension: dict[str, dict[tuple[float, float], int]] = {
        dimension: {} for dimension, split in sorted(counts.rated) if split in splits
    }
    for (dimension, rating, target), count in counts.pairs.items():
        if dimension in by_dimension:
            by_dimension[dimension][rating, target] = count
    found = {dimension: sum(pairs.values()) for dimension, pairs in by_dimension.items()}
    scarce = {dimension: num for dimension, num in found.items() if num < min_items}
    if scarce:
        examples = ", ".join(f"{dimension!r} {num}" for dimension, num in list(scarce.items())[:5])
        raise UserError(
            f"{len(scarce)} dimension(s) have too few items to fit on: {examples}\n"
            f"expected: min_items = {min_items} items of the split {fit_split} that have a rating and a target label "
            "that is no single annotator's\n"
            "prepare the corpus with a larger share of that split, give another fit_split, or lower min_items"
        )
    return {dimension: fit_map(pairs) for dimension, pairs in by_dimension.items()}


def recalibrate(
    table: pa.Table, maps: Mapping[str, MonotoneMap], scales: ScaleConfig, rater_id: str, splits: Sequence[str]
) -> pa.Table:
    """Recalibrate the rows of `splits` of a rater's annotations (schema.RATER_ANNOTATIONS); other rows are left out.

    A rated row has a new rating, the level nearest to it as label (the lower of two equally near), no spread and no
    draws. A row without a rating stays as it is, but for the rater's id.
    """
    rows = table.select(RATER_ANNOTATIONS.names).cast(RATER_ANNOTATIONS)
    rows = rows.filter(pc.is_in(rows["split"], pa.array(splits, pa.string()))).combine_chunks()
    is_rated = _find_rated(rows)
    ratings = np.array(rows["rating"].to_pylist(), dtype=float)
    labels = np.array(rows["label"].to_pylist(), dtype=object)
    rated, dimensions = is_rated.to_numpy(), np.array(rows["dimension"].to_pylist(), dtype=object)
    for dimension in sorted(set(dimensions[rated])):
        own = np.flatnonzero(rated & (dimensions == dimension))
        ratings[own] = maps[dimension].apply(ratings[own])
        labels[own] = _name_nearest(ratings[own], _scale_of(dimension, scales))
    no_draws = pa.scalar([], RATINGS.field("draws").type)
    new = {
        "rater_id": pa.array([rater_id] * len(rows), pa.string()),
        "label": pa.array(labels, pa.string()),
        "rating": pa.array(ratings, pa.float64(), from_pandas=True),
        "spread": pc.if_else(is_rated, pa.scalar(None, pa.float64()), rows["spread"]),
        "draws": pc.if_else(is_rated, no_draws, rows["draws"]),
    }
    return pa.table([new.get(name, rows[name]) for name in RATER_ANNOTATIONS.names], schema=RATER_ANNOTATIONS)


def _find_rated(table: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.equal(table["outcome"], "rated"), pc.is_valid(table["rating"]))


def _count(table: pa.Table, *columns: str) -> list[dict[str, Any]]:
    """Count the rows of each combination of columns, as `count_all`."""
    counts: list[dict[str, Any]] = pa.TableGroupBy(table, list(columns)).aggregate([([], "count_all")]).to_pylist()
    return counts


def _scale_of(dimension: str, scales: ScaleConfig) -> Scale:
    scale = scales.of(dimension)
    assert scale is not None, f"prepare_corpus lets no unit of dimension {dimension!r} through"
    return scale


def _number(label: str, scale: Scale) -> float:
    return scale.numbers[scale.values.index(label)]


def _name_nearest(numbers: np.ndarray, scale: Scale) -> np.ndarray:
    """Name the level nearest to each number [N]; each distinct number is looked up once."""
    distinct, position = np.unique(numbers, return_inverse=True)
    names = [scale.values[scale.snap(float(number), "floor")[0]] for number in distinct]
    return np.asarray(np.array(names, dtype=object)[position])
