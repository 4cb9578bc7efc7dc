"""Counts that add: units become whole numbers in cells, by stratum and cluster, and the counts of any shards add up.

A cell is an int64 that a table of counts gives a meaning: (rating of a, rating of b), or (number of ratings m, level v,
level w). A cluster is what the bootstrap resamples whole: an item or a group, as a 64-bit hash of its name. Clusters
beyond MAX_CLUSTERS are folded into as many blocks, so that counts stay small however large the corpus is: a block of
independent clusters is itself an independent cluster. All sums are of integers: exact in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import sparse

from judgetrace.agreement.panel_statistics import CompletePanel, PanelCounts

MAX_CLUSTERS = 1024
MAX_DENSE = 1 << 18
_PART_BITS = 21
_PART_MASK = (1 << _PART_BITS) - 1


@dataclass(frozen=True)
class Features:
    """What rows add to a table: `amounts[e]` to `cells[e]` for row `rows[e]`; E entries."""

    rows: np.ndarray  # [E] int64
    cells: np.ndarray  # [E] int64
    amounts: np.ndarray  # [E] int64


@dataclass(frozen=True)
class Counts:
    """A table of counts by cluster, sorted by cluster and cell, without zeros; E entries."""

    clusters: np.ndarray  # [E] uint64; uint16 where folded
    cells: np.ndarray  # [E] int64
    amounts: np.ndarray  # [E] int64, int32 where they fit

    def __len__(self) -> int:
        return len(self.cells)


EMPTY_COUNTS = Counts(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def fold_clusters(clusters: np.ndarray) -> np.ndarray:
    """Fold cluster hashes into MAX_CLUSTERS blocks; folding again changes nothing."""
    return np.asarray((clusters % np.uint64(MAX_CLUSTERS)).astype(np.uint16))


@dataclass
class Clusters:
    """The distinct clusters of a run so far; folded for good once there are more than MAX_CLUSTERS."""

    names: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # ascending
    is_folded: bool = False

    def add(self, names: np.ndarray, is_folded: bool = False) -> None:
        """Add clusters, folded already or not."""
        self.is_folded |= is_folded
        self.names = np.unique(np.concatenate([self.names, names]))
        if self.is_folded or len(self.names) > MAX_CLUSTERS:
            self.is_folded = True
            self.names = np.unique(fold_clusters(self.names))


def add_counts(parts: Sequence[Counts], fold: bool = False) -> Counts:
    """Add tables of counts."""
    if not parts:
        return EMPTY_COUNTS
    clusters = np.concatenate([fold_clusters(part.clusters) if fold else part.clusters for part in parts])
    cells = np.concatenate([part.cells for part in parts])
    amounts = np.concatenate([part.amounts for part in parts]).astype(np.int64)
    return _sum_entries(clusters, cells, amounts)


def _sum_entries(clusters: np.ndarray, cells: np.ndarray, amounts: np.ndarray) -> Counts:
    names, cluster_of = np.unique(clusters, return_inverse=True)
    columns, column_of = np.unique(cells, return_inverse=True)
    table = sparse.csr_matrix((amounts, (cluster_of, column_of)), shape=(len(names), len(columns)))
    table.sum_duplicates()
    table.eliminate_zeros()
    rows = np.repeat(names, np.diff(table.indptr))
    return Counts(rows, columns[table.indices], table.data)


def sum_clusters(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Sum over clusters; returns the cells [K], ascending, and their amounts."""
    cells, column_of = np.unique(counts.cells, return_inverse=True)
    amounts = np.zeros(len(cells), dtype=np.int64)
    np.add.at(amounts, column_of, counts.amounts)
    return cells, amounts


def sum_features(
    features: Features, num_rows: int, groups: np.ndarray, row_of: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum features over groups of units.

    Unit i counts as row `row_of[i]` of the features and belongs to `groups[i]`; it is left out where that is negative.
    Returns group, cell and amount of every cell that is not empty.
    """
    cell_of, cells = pd.factorize(features.cells)
    kept = np.flatnonzero(groups >= 0)
    shape = (num_groups, max(num_rows, 1))
    if shape[0] * shape[1] <= 4 * len(kept) + MAX_DENSE:
        totals = np.bincount(groups[kept] * shape[1] + row_of[kept], minlength=shape[0] * shape[1])
        members = sparse.csr_matrix(totals.reshape(shape))
    else:
        ones = np.ones(len(kept), dtype=np.int64)
        members = sparse.csr_matrix((ones, (groups[kept], row_of[kept])), shape=shape)
    inside = features.rows < shape[1]
    entries = sparse.csr_matrix(
        (features.amounts[inside].astype(np.int64), (features.rows[inside], cell_of[inside])),
        shape=(shape[1], max(len(cells), 1)),
    )
    found = (members @ entries).tocoo()
    full = found.data != 0
    return found.row[full].astype(np.int64), np.asarray(cells)[found.col[full]].astype(np.int64), found.data[full]


def combine_codes(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Give numbers to the distinct rows of some columns [N] of whole numbers >= -2.

    Returns the first row of each distinct one and the number of each row [N].
    """
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    span = 1
    for column in columns:
        width = int(column.max(initial=0)) + 3
        if span > (1 << 62) // width:
            codes = pd.factorize(codes)[0].astype(np.int64)
            span = int(codes.max(initial=0)) + 1
        codes = codes * width + (column + 2)
        span *= width
    numbers, distinct = pd.factorize(codes)
    first = np.zeros(len(distinct), dtype=np.int64)
    first[numbers[::-1]] = np.arange(len(codes))[::-1]
    return first, numbers


# Cells of two ratings.


def encode_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Encode cells (rating code of a, rating code of b)."""
    return (first.astype(np.int64) << 32) | second.astype(np.int64)


def decode_pairs(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode cells of `encode_pairs`."""
    return cells >> 32, cells & 0xFFFFFFFF


# Cells of a panel: (m, 0, 0) units, (m, v + 1, 0) ratings of v, (m, v + 1, w + 1) pairs with v <= w.


def make_panel_features(counts: np.ndarray) -> Features:
    """Make the panel features of count vectors [P, V]; those without a rating have none."""
    sizes = counts.sum(axis=1)
    rows, cells, amounts = [], [], []

    def add(v: int, w: int, amount: np.ndarray) -> None:
        found = np.flatnonzero(amount)
        rows.append(found)
        cells.append(_encode_panel(sizes[found], v, w))
        amounts.append(amount[found])

    add(0, 0, (sizes > 0).astype(np.int64))
    for v in range(counts.shape[1]):
        column = counts[:, v]
        add(v + 1, 0, column)
        add(v + 1, v + 1, column * (column - 1))
        for w in range(v + 1, counts.shape[1]):
            add(v + 1, w + 1, column * counts[:, w])
    return Features(np.concatenate(rows), np.concatenate(cells), np.concatenate(amounts))


def _encode_panel(sizes: np.ndarray, v: int, w: int) -> np.ndarray:
    return np.asarray((sizes.astype(np.int64) << (2 * _PART_BITS)) | (v << _PART_BITS) | w)


def read_heads(cells: np.ndarray) -> np.ndarray:
    """Read the first part of panel cells [K]: the number m of ratings, or in a complete panel the rater + 1."""
    return np.asarray(cells >> (2 * _PART_BITS))


def is_unit_cell(cells: np.ndarray) -> np.ndarray:
    """Find the cells (m, 0, 0) of a panel [K], which count units."""
    return np.asarray((cells & ((1 << 2 * _PART_BITS) - 1)) == 0)


def lay_out_panel(cells: np.ndarray, amounts: np.ndarray, levels: int) -> PanelCounts:
    """Lay out panel cells [K] with amounts [..., K] as dense counts."""
    size_of = read_heads(cells)
    v, w = (cells >> _PART_BITS) & _PART_MASK, cells & _PART_MASK
    sizes, index = np.unique(size_of, return_inverse=True)
    shape = (*amounts.shape[:-1], len(sizes))
    units, values, pairs = np.zeros(shape), np.zeros((*shape, levels)), np.zeros((*shape, levels, levels))
    is_unit, is_value, is_pair = v == 0, (v > 0) & (w == 0), w > 0
    units[..., index[is_unit]] = amounts[..., is_unit]
    values[..., index[is_value], v[is_value] - 1] = amounts[..., is_value]
    at, first, second = index[is_pair], v[is_pair] - 1, w[is_pair] - 1
    pairs[..., at, first, second] = amounts[..., is_pair]
    pairs[..., at, second, first] = amounts[..., is_pair]
    return PanelCounts(sizes, units, values, pairs)


# Cells of a complete panel: (rater + 1, v + 1) ratings, and (0, v, w) products with v <= w, shifted like a panel's.


def make_complete_features(counts: np.ndarray, ratings: np.ndarray) -> Features:
    """Make the features of U units that all k raters rated: count vectors [U, V] and levels [U, k]."""
    units = np.arange(len(counts))
    rows, cells, amounts = [], [], []
    for rater in range(ratings.shape[1]):
        rows.append(units)
        cells.append(((rater + 1) << (2 * _PART_BITS)) | ((ratings[:, rater].astype(np.int64) + 1) << _PART_BITS))
        amounts.append(np.ones(len(units), dtype=np.int64))
    for v in range(counts.shape[1]):
        for w in range(v, counts.shape[1]):
            amount = counts[:, v] * counts[:, w]
            found = np.flatnonzero(amount)
            rows.append(found)
            cells.append(np.full(len(found), ((v + 1) << _PART_BITS) | (w + 1), dtype=np.int64))
            amounts.append(amount[found])
    return Features(np.concatenate(rows), np.concatenate(cells), np.concatenate(amounts))


def lay_out_complete(cells: np.ndarray, amounts: np.ndarray, raters: int, levels: int) -> CompletePanel:
    """Lay out the cells [K] of a complete panel with amounts [..., K] as dense counts."""
    rater = read_heads(cells)
    v, w = (cells >> _PART_BITS) & _PART_MASK, cells & _PART_MASK
    values = np.zeros((*amounts.shape[:-1], raters, levels))
    products = np.zeros((*amounts.shape[:-1], levels, levels))
    is_value = rater > 0
    values[..., rater[is_value] - 1, v[is_value] - 1] = amounts[..., is_value]
    products[..., v[~is_value] - 1, w[~is_value] - 1] = amounts[..., ~is_value]
    products[..., w[~is_value] - 1, v[~is_value] - 1] = amounts[..., ~is_value]
    return CompletePanel(values, products)
