"""Agreement of ratings in memory: a matrix of raters and units, or two lists. The same statistics as the job's.

Knows no files. For what does not fit into memory there is `jobs.measure_agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judgetrace.agreement_counts import (
    MAX_CLUSTERS,
    encode_pairs,
    lay_out_panel,
    make_panel_features,
)
from judgetrace.agreement_results import PairLayout
from judgetrace.bootstrap import draw_weights, find_interval
from judgetrace.pair_statistics import measure_pair
from judgetrace.panel_statistics import compute_alpha, measure_panel, sum_panel
from judgetrace.rating_codes import RatingCodes
from judgetrace.scale import Scale

CHUNK_UNITS = 1 << 17


@dataclass(frozen=True)
class Estimate:
    """A statistic with its percentile interval; NaN where undefined or not asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PatternCounts:
    """Units by the number of raters that chose each level: P patterns of V levels, in G clusters."""

    patterns: np.ndarray  # [P, V]
    amounts: np.ndarray  # [G, P] units


def count_ratings(ratings: np.ndarray, num_levels: int, num_clusters: int = 1) -> PatternCounts:
    """Count ratings [raters, units] of levels 0, 1, ... (NaN or negative: none).

    Unit i is counted in cluster i % num_clusters. Works in chunks of units: what it needs besides is small.
    """
    raters, units = ratings.shape
    base = raters + 1
    if num_levels * np.log2(base) > 62:
        raise ValueError(f"{raters} raters and {num_levels} levels: too many for a matrix; use jobs.measure_agreement")
    # A pattern is a number with a digit for each level: its raters. The last entry is for missing ratings.
    digit = np.append(base ** np.arange(num_levels, dtype=np.int64), 0)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, units, CHUNK_UNITS):
        chunk = ratings[:, start : start + CHUNK_UNITS]
        codes = np.zeros(chunk.shape[1], dtype=np.int64)
        for row in chunk:
            levels = np.where(row >= 0, row, num_levels).astype(np.int8 if num_levels < 127 else np.int64)
            codes += digit[levels]
        found.append(_count_codes(codes, start, num_clusters, base**num_levels))
    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in found)])
    distinct, index = np.unique(keys // num_clusters, return_inverse=True)
    amounts = np.zeros((num_clusters, len(distinct)), dtype=np.int64)
    np.add.at(amounts, (keys % num_clusters, index), np.concatenate([np.empty(0, np.int64), *(n for _, n in found)]))
    patterns = distinct[:, None] // digit[:-1] % base
    return PatternCounts(patterns, amounts)


def _count_codes(codes: np.ndarray, start: int, clusters: int, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Count (pattern, cluster): returns the distinct keys pattern * clusters + cluster and how often each occurs."""
    keys = codes if clusters == 1 else codes * clusters + np.arange(start, start + len(codes)) % clusters
    if num_codes * clusters <= 1 << 16:
        totals = np.bincount(keys, minlength=1)
        present = np.flatnonzero(totals)
        return present, totals[present]
    return np.unique(keys, return_counts=True)


def compute_ratings_alpha(ratings: np.ndarray, metric: str, numbers: np.ndarray) -> float:
    """Compute Krippendorff's alpha of ratings [raters, units] of levels 0, 1, ... (NaN: none)."""
    cells, amounts = _find_cells(count_ratings(ratings, len(numbers)))
    sums = sum_panel(lay_out_panel(cells, amounts[0], len(numbers)))
    return float(compute_alpha(metric, sums.observed, sums.values, numbers))


def measure_ratings(
    ratings: np.ndarray, scale: Scale, replicates: int = 0, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Measure the panel statistics of ratings [raters, units] of levels 0, 1, ... (NaN: none), with intervals."""
    units, levels = ratings.shape[1], len(scale.values)
    counts = count_ratings(ratings, levels, max(1, min(units, MAX_CLUSTERS)) if replicates else 1)
    cells, amounts = _find_cells(counts)
    numbers, is_nominal = np.array(scale.numbers), scale.type == "nominal"

    def measure(found: np.ndarray) -> dict[str, np.ndarray]:
        return measure_panel(lay_out_panel(cells, found, levels), numbers, is_nominal)

    values = measure(amounts.sum(axis=0))
    weights = draw_weights(np.arange(len(amounts), dtype=np.uint64), seed, replicates)
    resampled = measure(weights @ amounts) if replicates else dict.fromkeys(values, np.empty(0))
    return {name: Estimate(float(values[name]), *find_interval(resampled[name], level)) for name in values}


def _find_cells(counts: PatternCounts) -> tuple[np.ndarray, np.ndarray]:
    """Find the panel's cells [K] and their amounts by cluster [G, K]."""
    features = make_panel_features(counts.patterns)
    cells, index = np.unique(features.cells, return_inverse=True)
    per_pattern = np.zeros((len(counts.patterns), len(cells)))
    per_pattern[features.rows, index] = features.amounts
    return cells, counts.amounts @ per_pattern


def compare_ratings(first: np.ndarray, second: np.ndarray, scale: Scale) -> dict[str, float]:
    """Compare two raters' numbers [N] (NaN: none) on a scale; NaN where a statistic is undefined."""
    codes = RatingCodes(scale)
    one, two = codes.encode_numbers(np.asarray(first, float)), codes.encode_numbers(np.asarray(second, float))
    both = (one >= 0) & (two >= 0)
    cells, amounts = np.unique(encode_pairs(one[both], two[both]), return_counts=True)
    table = PairLayout(cells, codes).lay_out(amounts.astype(float))
    return {name: float(value) for name, value in measure_pair(table, scale.type == "nominal").items()}
