"""Score each item by how well a candidate's raters meet its target: what candidates are raced and confirmed on.

The score of an item lies in [0, 1] and the candidate's quality is the mean over items, so that two candidates can be
compared item by item and the comparison can stop early. Kendall's tau and alpha are no such means: tau is made of pairs
of items, alpha divides by a disagreement expected from all items' marginals. Neither has a part that belongs to one
item and adds up, so neither has the paired t statistic that the race rests on; both are reported at the end, with
intervals, of those items that all compared candidates have rated.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

ScoreKind = Literal["exact", "squared"]
"""exact: 1 where rating and target are equal, else 0. squared: 1 - (rating - target)^2 / (range of the scale)^2."""


def score_items(ratings: np.ndarray, targets: np.ndarray, numbers: tuple[float, ...], kind: ScoreKind) -> np.ndarray:
    """Score items [N] as the mean over raters; the mean of "squared" is 1 - MSE / range^2.

    `ratings` [R, N] and `targets` [N] are in the scale's `numbers`. A missing rating (NaN) scores 0: leaving hard items
    out must not pay. Take "exact" for nominal scales.
    """
    apart = np.abs(ratings - targets)
    reach = max(numbers) - min(numbers)
    scores = (apart < 1e-9).astype(float) if kind == "exact" else 1.0 - np.minimum(1.0, (apart / reach) ** 2)
    return np.asarray(np.where(np.isnan(apart), 0.0, scores).mean(axis=0))
