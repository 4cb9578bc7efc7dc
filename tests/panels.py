"""Published panels of ratings, and how they become counts; what the tests of agreement share."""

from __future__ import annotations

import numpy as np

from judgetrace.agreement.counts import lay_out_panel, make_panel_features
from judgetrace.agreement.panel_statistics import PanelCounts

NAN = np.nan

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), data C: 4 observers, 12 units, 5 levels.
KRIPPENDORFF_C = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)

# Fleiss, "Measuring nominal scale agreement among many raters" (1971), table 1: 30 subjects, 6 raters, 5 diagnoses.
FLEISS_1971 = np.array(
    [
        *([0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0]),
        *([0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0]),
        *([0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0]),
        *([0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0]),
        *([1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6]),
    ]
)

# Shrout and Fleiss, "Intraclass correlations" (1979), table 2: 6 targets, 4 judges.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])


def count_levels(ratings: np.ndarray, levels: int) -> np.ndarray:
    """Count ratings [raters, units] of 0, 1, ... (NaN: none) as count vectors [units, levels]."""
    return np.stack([(ratings == level).sum(axis=0) for level in range(levels)], axis=1)


def count_panel(counts: np.ndarray) -> PanelCounts:
    """Sum count vectors [units, levels] up."""
    features = make_panel_features(counts)
    cells, index = np.unique(features.cells, return_inverse=True)
    amounts = np.bincount(index, weights=features.amounts)
    return lay_out_panel(cells, amounts, counts.shape[1])


def draw_panel(seed: int, raters: int = 5, units: int = 60, levels: int = 4, missing: float = 0.3) -> np.ndarray:
    """Draw ratings [raters, units] of 0 ... levels - 1 around a value of the unit; NaN is missing."""
    random = np.random.default_rng(seed)
    centre = random.integers(0, levels, units)
    ratings = np.clip(centre + random.integers(-1, 2, (raters, units)), 0, levels - 1).astype(float)
    ratings[random.random(ratings.shape) < missing] = np.nan
    return ratings
