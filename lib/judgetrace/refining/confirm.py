"""Decide whether the race's winner replaces the original, on items that took no part in choosing it.

The winner of a race looks better than it is, as the best of many always does. On other items it is one comparison,
planned beforehand. Where a run is repeated by other rules, and another winner, the same one with more items or by
another score comes to these items, each look has its own share of the error (look_log.py tells them apart): the first
3/4, look k after it 1 / (4 k (k - 1)), whatever came of the others. The shares of any number of looks add up to less
than 1, since 1/2 + 1/6 + 1/12 + ... = 1, and so, by Bonferroni, do the chances of replacing the original by one that is
no better, to less than the error as a whole. The interval of the first look is 6% wider than that of a look which
nothing is saved of, of the second 39%. All this holds as long as who comes to the items
does not depend on their scores: who picks the next challenger by the figures of this half has no half left.

The interval is the percentile interval of a Poisson bootstrap in which groups are resampled whole
(`judgetrace.agreement.bootstrap`), of the mean over items of winner minus original.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from judgetrace.agreement.bootstrap import draw_weights, find_interval
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.config import STRICT

CHUNK_WEIGHTS = 2**23
TAIL_REPLICATES = 10
"""Replicates beyond each end of an interval at least: with fewer the end is where the farthest happens to lie."""
Reason = Literal["better", "not_shown_better", "worse", "too_few_groups", "no_challenger"]


class ConfirmConfig(BaseModel):
    """What it takes to replace the original guideline."""

    model_config = STRICT

    level: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="(1 - level) / 2 is at most the chance that a guideline which is no better replaces the original, "
        "of all looks together at the confirming items, be it with other challengers, more items or another score: the "
        "interval of the first takes 3/4 of 1 - level, that of the k-th 1 / (4 k (k - 1)).",
    )
    replicates: int = Field(
        default=2000, ge=200, description="Bootstrap replicates; more where the level of a late challenger needs them."
    )
    min_groups: int = Field(
        default=30, ge=2, description="With fewer groups the interval is too narrow to trust: the original stays."
    )


@dataclass(frozen=True)
class Confirmation:
    """Which guideline is returned, and why."""

    is_replaced: bool
    reason: Reason
    num_items: int
    num_groups: int
    difference: float | None = None
    """Mean score of the challenger minus that of the original; None where there was no challenger."""
    low: float | None = None
    """Ends of its interval; None where there is none."""
    high: float | None = None
    look: int = 1
    """Which look at these items it was, counted from 1."""

    def describe(self) -> str:
        """Say in a sentence which guideline is returned, and why."""
        if self.reason == "no_challenger":
            return "The original guideline is returned: no candidate came out of the race clearly ahead of it."
        items = f"{self.num_items} items in {self.num_groups} groups that took no part in the choice"
        if self.low is None:
            return f"The original guideline is returned: {items} are too few for an interval."
        looks = f"; at the level of look {self.look} at these items" if self.look > 1 else ""
        verb = {"better": "beats", "worse": "is worse than"}.get(self.reason, "is not shown to beat")
        return (
            f"The {'refined' if self.is_replaced else 'original'} guideline is returned: on {items} the refined one "
            f"{verb} the original, by {self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f}{looks})."
        )


def keep_original() -> Confirmation:
    """Return the original without another call: the race itself ended at it."""
    return Confirmation(False, "no_challenger", 0, 0)


def find_level(level: float, look: int) -> float:
    """Find the level of a look's interval, counted from 1, for which all looks together err by 1 - level at most."""
    return 1 - (1 - level) * (3 / 4 if look == 1 else 1 / (4 * look * (look - 1)))


def confirm_challenger(
    challenger: np.ndarray,
    original: np.ndarray,
    groups: Sequence[str],
    config: ConfirmConfig,
    seed: int,
    *,
    look: int = 1,
) -> Confirmation:
    """Compare the scores [N] of challenger and original on the same held-out items, given the group of each.

    The challenger wins where the whole interval is above 0. Up to rounding, the order of items does not matter.
    This is the `look`-th look at the run's confirming items.
    """
    names = sorted(set(groups))
    place = {group: number for number, group in enumerate(names)}
    numbers = np.array([place[group] for group in groups], dtype=int)
    sums = np.bincount(numbers, weights=challenger - original, minlength=len(names))
    sizes = np.bincount(numbers, minlength=len(names)).astype(float)
    difference = float(sums.sum() / sizes.sum()) if names else None
    if len(names) < config.min_groups:
        return Confirmation(False, "too_few_groups", len(groups), len(names), difference, look=look)
    level = find_level(config.level, look)
    replicates = max(config.replicates, math.ceil(2 * TAIL_REPLICATES / (1 - level)))
    low, high = find_interval(_resample_mean(names, sums, sizes, replicates, seed), level)
    reason: Reason = "better" if low > 0 else "worse" if high < 0 else "not_shown_better"
    return Confirmation(low > 0, reason, len(groups), len(names), difference, low, high, look)


def _resample_mean(names: list[str], sums: np.ndarray, sizes: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Resample groups [G]; returns the mean over items [R]. Memory is bounded whatever the number of groups."""
    hashes = hash_strings(pa.array(names, pa.string()))
    amounts = np.stack([sums, sizes], axis=1)
    totals = np.zeros((replicates, 2))
    chunk = max(1, CHUNK_WEIGHTS // replicates)
    for start in range(0, len(names), chunk):
        part = slice(start, start + chunk)
        totals += draw_weights(hashes[part], seed, replicates) @ amounts[part]
    return np.asarray(totals[:, 0] / totals[:, 1])
