"""Measure one table of counts: the statistics, their bootstrap replicates, and why one is undefined.

Replicates of tau-b and Spearman's rho of two raters whose ratings are no levels are computed on a coarser grid, of at
most MAX_RANK_CELLS cells, and moved by what the grid changes in the value itself: a table of all their numbers would be
a thousand times as large. Values and all other replicates are computed on all numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from judgetrace.agreement.bootstrap import Resampler
from judgetrace.agreement.counts import (
    Counts,
    decode_pairs,
    is_unit_cell,
    lay_out_complete,
    lay_out_panel,
    read_heads,
    sum_clusters,
)
from judgetrace.agreement.pair_statistics import PairTable, measure_pair
from judgetrace.agreement.panel_statistics import compute_iccs, measure_panel
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.agreement.tables import PANEL_TIMES

MAX_RANK_CELLS = 4096
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """The statistics of one table: values and replicates by name."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]
    num_compared: int
    reasons: dict[str, str]


class PairLayout:
    """Where the cells of two ratings go in the tables of `pair_statistics`; coarse for replicates."""

    def __init__(self, cells: np.ndarray, codes: RatingCodes, is_coarse: bool = False):
        first, second = decode_pairs(cells)
        self.numbers = np.array(codes.scale.numbers)
        self.first, self.second = codes.read_numbers(first), codes.read_numbers(second)
        self._by_level = codes.read_levels(first) * codes.num_levels + codes.read_levels(second)
        self.per_step = math.inf
        grid = [self.first, self.second]
        for per_step in (20, 10, 5, 2, 1):
            if not is_coarse or np.prod([len(np.unique(side)) for side in grid]) <= MAX_RANK_CELLS:
                break
            self.per_step = per_step
            grid = [np.rint(side / codes.step * per_step) for side in (self.first, self.second)]
        (rows, row_of), (columns, column_of) = (np.unique(side, return_inverse=True) for side in grid)
        self._by_rank = row_of * len(columns) + column_of
        self._shape = (len(rows), len(columns))

    @property
    def num_floats(self) -> int:
        """Floats that a replicate needs."""
        return 6 * self._shape[0] * self._shape[1] + 6 * len(self.numbers) ** 2

    def lay_out(self, amounts: np.ndarray) -> PairTable:
        """Lay out amounts [..., K]."""
        levels = len(self.numbers)
        by_level = _scatter(amounts, self._by_level, levels * levels)
        return PairTable(
            by_level.reshape(*amounts.shape[:-1], levels, levels),
            self.lay_out_ranks(amounts),
            amounts,
            self.first,
            self.second,
            self.numbers,
        )

    def lay_out_ranks(self, amounts: np.ndarray) -> np.ndarray:
        """Lay out amounts [..., K] by number [..., A, B]."""
        by_rank = _scatter(amounts, self._by_rank, self._shape[0] * self._shape[1])
        return by_rank.reshape(*amounts.shape[:-1], *self._shape)


def _scatter(amounts: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """Add amounts [..., K] into [..., size] at `index` [K]."""
    found = np.zeros((*amounts.shape[:-1], size))
    if not len(index):
        return found
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    found[..., ordered[starts]] = np.add.reduceat(amounts[..., order], starts, axis=-1)
    return found


def measure_counts(kind: str, counts: Counts, codes: RatingCodes, resampler: Resampler | None) -> Measured:
    """Measure a table of counts and its replicates."""
    cells, totals = sum_clusters(counts)
    amounts = totals.astype(np.float64)
    measure, _ = make_measure(kind, codes, cells, is_coarse=False)
    values = {name: float(value) for name, value in measure(amounts).items()}
    compared = count_compared(kind, cells, totals)
    reasons = {name: explain(kind, name, cells, compared) for name, v in values.items() if math.isnan(v)}
    replicates: dict[str, np.ndarray] = {}
    if resampler is not None and len(cells):
        measure, num_floats = make_measure(kind, codes, cells, is_coarse=True)
        chunks = [measure(chunk) for chunk in resampler.resample(counts, num_floats)]
        coarse = measure(amounts)
        for name, value in values.items():
            # 0 but for the rank correlations on a coarser grid.
            moved = value - float(coarse[name])
            replicates[name] = np.concatenate([chunk[name] for chunk in chunks]) + (0.0 if math.isnan(moved) else moved)
    return Measured(values, replicates, compared, reasons)


def make_measure(
    kind: str, codes: RatingCodes, cells: np.ndarray, is_coarse: bool
) -> tuple[Callable[[np.ndarray], Values], int]:
    """Make the function amounts [..., K] -> statistics [...] of a table of some kind, and what it needs of floats."""
    is_nominal = codes.scale.type == "nominal"
    numbers, levels = np.array(codes.scale.numbers), codes.num_levels
    if kind.endswith("_panel"):
        size = lay_out_panel(cells, np.zeros(len(cells)), levels).pairs.size
        return lambda amounts: measure_panel(lay_out_panel(cells, amounts, levels), numbers, is_nominal), 2 * size
    if kind.endswith("_complete"):
        raters = int(read_heads(cells).max(initial=0))
        return lambda amounts: compute_iccs(lay_out_complete(cells, amounts, raters, levels), numbers), levels**2
    layout = PairLayout(cells, codes, is_coarse)
    return lambda amounts: measure_pair(layout.lay_out(amounts), is_nominal), layout.num_floats


def count_compared(kind: str, cells: np.ndarray, amounts: np.ndarray) -> int:
    """Count pairs of ratings, of panels the units of at least two ratings."""
    if kind.endswith("_panel"):
        return int(amounts[is_unit_cell(cells) & (read_heads(cells) >= 2)].sum())
    if kind.endswith("_complete"):
        return int(amounts[read_heads(cells) == 1].sum())
    return int(amounts.sum())


def explain(kind: str, statistic: str, cells: np.ndarray, compared: int) -> str:
    """Say why a statistic is undefined."""
    is_panel, is_complete = kind.endswith("_panel"), kind.endswith("_complete")
    if not compared:
        if is_complete or kind.startswith(PANEL_TIMES):
            return "no unit was rated by all"
        return "no unit has two ratings" if is_panel else "no unit has a rating of both"
    if compared == 1 and statistic not in ("exact_agreement", "adjacent_agreement", "mse", "mae", "bias"):
        return "one unit only"
    if is_panel:
        return "all ratings are of one category"
    sides = ("first", "second") if not is_complete else ()
    constant = [side for side, codes_ in zip(sides, decode_pairs(cells), strict=False) if len(np.unique(codes_)) == 1]
    if not constant:
        return "the ratings do not vary"
    return "each of the two gives one rating only" if len(constant) == 2 else f"the {constant[0]} gives one rating only"
