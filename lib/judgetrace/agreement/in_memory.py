"""Agreement of ratings in memory: a matrix of raters and units, or two lists. The same statistics as the job's.

Knows no files. For what does not fit into memory there is `jobs.measure_agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judgetrace.agreement.bootstrap import draw_weights, find_interval
from judgetrace.agreement.counts import (
    MAX_CLUSTERS,
    encode_pairs,
    lay_out_panel,
    make_panel_features,
)
from judgetrace.agreement.measures import PairLayout
from judgetrace.agreement.pair_statistics import measure_pair
from judgetrace.agreement.panel_statistics import compute_alpha, measure_panel, sum_panel
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.scale import Scale

CHUNK_UNITS = 1 << 15
MAX_CODE_BITS = 14


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
    # Some raters at a time become one number, which a table turns into a pattern: a number with a digit for each level,
    # the raters who chose it.
    size = max(1, int(MAX_CODE_BITS / np.log2(num_levels + 1)))
    digits = np.append(0, base ** np.arange(num_levels, dtype=np.int64))
    parts = [slice(start, start + size) for start in range(0, raters, size)]
    tables = [_sum_digits(digits, len(range(raters)[part])) for part in parts]
    is_single = len(tables) == 1
    known, pattern_of = np.unique(tables[0], return_inverse=True)
    totals: dict[int, np.ndarray] = {}
    amounts = np.zeros((num_clusters, len(known)), dtype=np.int64) if is_single else np.zeros((0, 0), dtype=np.int64)
    for start in range(0, units, CHUNK_UNITS):
        chunk = ratings[:, start : start + CHUNK_UNITS]
        clusters = np.arange(start, start + chunk.shape[1]) % num_clusters
        codes = [_encode_raters(chunk[part], num_levels + 1) for part in parts]
        if is_single:
            keys = pattern_of[codes[0]] if num_clusters == 1 else clusters * len(known) + pattern_of[codes[0]]
            amounts += np.bincount(keys, minlength=amounts.size).reshape(amounts.shape)
            continue
        packed = sum(table[code] for table, code in zip(tables, codes, strict=True))
        distinct, index = np.unique(packed, return_inverse=True)
        counted = np.bincount(clusters * len(distinct) + index, minlength=num_clusters * len(distinct))
        for pattern, column in zip(distinct.tolist(), counted.reshape(num_clusters, -1).T, strict=True):
            totals[pattern] = totals[pattern] + column if pattern in totals else column
    if not is_single:
        known = np.array(sorted(totals), dtype=np.int64)
        amounts = np.stack([totals[pattern] for pattern in known.tolist()], axis=1)
    present = amounts.any(axis=0)
    return PatternCounts(known[present][:, None] // digits[1:] % base, amounts[:, present])


def _sum_digits(digits: np.ndarray, raters: int) -> np.ndarray:
    """Sum the digits of every combination of `raters` ratings, missing ones included, in the order of their codes."""
    sums = np.zeros(1, dtype=np.int64)
    for _ in range(raters):
        sums = (sums[:, None] + digits).reshape(-1)
    return sums


def _encode_raters(ratings: np.ndarray, radix: int) -> np.ndarray:
    """Encode the ratings [raters, units] of each unit as one number; a missing one is the digit 0."""
    codes = np.zeros(ratings.shape[1])
    for row in ratings:
        codes *= radix
        digit = np.fmax(row, -1.0)
        digit += 1.0
        codes += digit
    return codes.astype(np.int64)


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
