"""Intervals and p-values from resampled counts: a Poisson bootstrap over clusters.

Each cluster (an item or a group) gets a weight Poisson(1) for each replicate, drawn by a counter-based generator from
the seed and the cluster alone. Weights and counts are whole numbers, so the replicates of a table do not depend on
shards or order, and all tables of a run share their weights: differences between them are paired.

Sources: Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies" (2006); Chamandy
et al., "Estimating uncertainty for massive data streams" (2012); Salmon et al., "Parallel random numbers" (2011) for
Philox; Holm, "A simple sequentially rejective multiple test procedure" (1979); Benjamini and Yekutieli (2001).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import sparse, stats

from judgetrace.agreement.counts import Counts

CHUNK_FLOATS = 8 << 20
MAX_UNDEFINED_RATE = 0.05
"""Where a larger share of the replicates is undefined there is no interval."""


def _poisson_thresholds() -> np.ndarray:
    """Return 2^64 P(X <= k) for X of Poisson(1), k = 0, 1, ... up to where it reaches 1."""
    total, term, found = 0.0, math.exp(-1), []
    for k in range(1, 21):
        total += term
        found.append(min(int(total * 2**64), 2**64 - 1))
        term /= k
    return np.array(found, dtype=np.uint64)


_THRESHOLDS = _poisson_thresholds()
_TOP_BITS = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
_WEIGHT_OF_TOP = np.searchsorted(_THRESHOLDS, _TOP_BITS, side="right").astype(np.uint8)
_IS_SPLIT = np.searchsorted(_THRESHOLDS, _TOP_BITS | np.uint64(2**48 - 1), side="right") != _WEIGHT_OF_TOP
"""Draws with equal upper 16 bits have equal weights, but for the few between which a threshold lies."""


def draw_weights(clusters: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """Draw Poisson(1) weights [replicates, G] for clusters [G] (uint64)."""
    weights = np.empty((len(clusters), replicates), dtype=np.uint8)
    for row, cluster in zip(weights, clusters, strict=True):
        # The raw words of Philox are fixed for good; numpy's own Poisson draws may change between releases.
        draws = np.random.Philox(key=np.array([seed, cluster], dtype=np.uint64)).random_raw(replicates)
        top = (draws >> np.uint64(48)).astype(np.uint16)
        row[:] = _WEIGHT_OF_TOP[top]
        if (split := _IS_SPLIT[top]).any():
            row[split] = np.searchsorted(_THRESHOLDS, draws[split], side="right")
    return np.ascontiguousarray(weights.T, dtype=np.float64)


class Resampler:
    """Weights of a run's clusters, to resample any table of counts with."""

    def __init__(self, clusters: np.ndarray, seed: int, replicates: int):
        self.clusters = np.sort(clusters)
        self.replicates = replicates
        self.weights = draw_weights(self.clusters, seed, replicates)  # [R, G]

    def resample(self, counts: Counts, floats_per_replicate: int = 1) -> Iterator[np.ndarray]:
        """Yield the resampled amounts [R', K] of the table's cells (sorted), in chunks of replicates.

        `floats_per_replicate` is what the caller will need for a replicate: chunks are cut so that memory is bounded.
        """
        cells, table = lay_out_counts(counts, self.clusters)
        size = max(1, CHUNK_FLOATS // max(floats_per_replicate, len(cells), 1))
        transposed = sparse.csr_matrix(table.T) if table.nnz < 0.2 * np.prod(table.shape) else None
        dense = table.toarray().astype(np.float64) if transposed is None else None
        for start in range(0, self.replicates, size):
            weights = self.weights[start : start + size]
            yield weights @ dense if dense is not None else np.ascontiguousarray((transposed @ weights.T).T)


def lay_out_counts(counts: Counts, clusters: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Lay out counts as cells [K], ascending, and a matrix [G, K]; `clusters` [G] ascend and hold all of the table."""
    cells, columns = np.unique(counts.cells, return_inverse=True)
    rows = np.searchsorted(clusters, counts.clusters)
    shape = (len(clusters), len(cells))
    return cells, sparse.csr_matrix((counts.amounts.astype(np.float64), (rows, columns)), shape=shape)


def find_interval(replicates: np.ndarray, level: float) -> tuple[float, float]:
    """Find the percentile interval of replicates [R]; NaN where too many are undefined (NaN)."""
    defined = replicates[~np.isnan(replicates)]
    if not len(replicates) or len(defined) < (1 - MAX_UNDEFINED_RATE) * len(replicates):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def find_p_value(replicates: np.ndarray) -> float:
    """Find the two-sided p-value of "the difference is 0" from replicated differences [R]; at least 2 / (R + 1)."""
    defined = replicates[~np.isnan(replicates)]
    if not len(replicates) or len(defined) < (1 - MAX_UNDEFINED_RATE) * len(replicates):
        return math.nan
    smaller = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (smaller + 1) / (len(defined) + 1)))


def adjust_holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values [N] by Holm's step-down rule; NaN stays NaN and is not counted."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int((~np.isnan(p_values)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def adjust_benjamini_yekutieli(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values [N] for the false discovery rate under any dependence; NaN stays NaN and is not counted."""
    adjusted = np.full(len(p_values), np.nan)
    tested = ~np.isnan(p_values)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p_values[tested], method="by")
    return adjusted
