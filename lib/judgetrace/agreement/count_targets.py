"""The target rule on counts: which level the annotators of an item agree on, given how often each level was chosen.

The same decisions as `judgetrace.labels` makes on tables of annotations; here for millions of small count vectors, and
for an item's annotators without one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judgetrace.labels import TargetConfig
from judgetrace.scale import Scale

NO_TARGET = -1


@dataclass(frozen=True)
class Targets:
    """The targets of P count vectors."""

    levels: np.ndarray  # [P] the target by the same rule without what it drops; NO_TARGET where nobody rated
    kept: np.ndarray  # [P] whether the rule keeps the item


def keep_everything(target: TargetConfig) -> TargetConfig:
    """Return the rule without what it drops.

    `single` (several annotators are dropped) and `per_annotator` (no common target) become majority, the lowest level
    winning a tie.
    """
    if target.rule == "median":
        return target.model_copy(update={"max_sd": None})
    if target.rule == "rounded_mean":
        return target
    tie = "floor" if target.tie == "drop" or target.rule != "majority" else target.tie
    return target.model_copy(update={"rule": "majority", "tie": tie})


def decide_targets(counts: np.ndarray, target: TargetConfig, scale: Scale) -> Targets:
    """Decide the targets of count vectors [P, V]: annotators who chose each level."""
    unfiltered = keep_everything(target)
    totals = counts.sum(axis=1)
    if unfiltered.rule == "median":
        levels = _take_medians(counts, unfiltered, scale)
    elif unfiltered.rule == "rounded_mean":
        levels = _round_means(counts, totals, unfiltered, scale)
    else:
        last = len(scale.values) - 1
        levels = last - counts[:, ::-1].argmax(axis=1) if unfiltered.tie == "ceil" else counts.argmax(axis=1)
    levels = np.where(totals > 0, levels, NO_TARGET)
    return Targets(levels, (totals > 0) & _find_kept(counts, totals, target, scale))


def _find_kept(counts: np.ndarray, totals: np.ndarray, target: TargetConfig, scale: Scale) -> np.ndarray:
    everything = np.ones(len(counts), dtype=bool)
    if target.rule == "median" and target.max_sd is not None:
        return np.asarray(~(_measure_sds(counts, totals, scale) > target.max_sd + 1e-9))
    if target.rule == "majority" and target.tie == "drop":
        return np.asarray((counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1)
    return np.asarray(totals == 1) if target.rule == "single" else everything


def _measure_sds(counts: np.ndarray, totals: np.ndarray, scale: Scale) -> np.ndarray:
    """Measure sample SDs [P] (ddof=1), NaN for one rating; exact for whole numbers, as `judgetrace.labels` does."""
    shifted = np.array(scale.numbers) - scale.numbers[0]
    sums, squares = counts @ shifted, counts @ shifted**2
    variance = np.full(len(counts), np.nan)
    np.divide(totals * squares - sums**2, totals * (totals - 1.0), out=variance, where=totals > 1)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def _take_medians(counts: np.ndarray, target: TargetConfig, scale: Scale) -> np.ndarray:
    reached = counts.cumsum(axis=1)
    totals = reached[:, -1:]
    # The first level at which more than (m - 1) // 2, or m // 2, ratings are passed holds that rating.
    lower = (reached > (totals - 1) // 2).argmax(axis=1)
    upper = (reached > totals // 2).argmax(axis=1)
    numbers = scale.numbers
    between = [[scale.snap((a + b) / 2, target.half_point)[0] for b in numbers] for a in numbers]
    return np.asarray(np.array(between, dtype=np.int64)[lower, upper])


def _round_means(counts: np.ndarray, totals: np.ndarray, target: TargetConfig, scale: Scale) -> np.ndarray:
    means = np.round(counts @ np.array(scale.numbers) / np.maximum(totals, 1), 9)
    distinct, inverse = np.unique(means, return_inverse=True)
    snapped = np.array([scale.snap(float(mean), target.half_point)[0] for mean in distinct], dtype=np.int64)
    return np.asarray(snapped[inverse])
