import numpy as np
import pytest

from judgetrace.refining.scores import score_items

NUMBERS = (1.0, 2.0, 3.0, 4.0, 5.0)
RATINGS = np.array([[5.0, 3.0, np.nan], [5.0, 1.0, 2.5]])
TARGETS = np.array([5.0, 1.0, 2.0])


def test_squared_scores_by_hand() -> None:
    # Item 2: 1 - 4/16 and 1; item 3: missing, and 1 - .25/16.
    found = score_items(RATINGS, TARGETS, NUMBERS, "squared")

    assert found == pytest.approx([1.0, 0.875, (1 - 0.25 / 16) / 2])


def test_exact_scores_by_hand() -> None:
    assert score_items(RATINGS, TARGETS, NUMBERS, "exact") == pytest.approx([1.0, 0.5, 0.0])


def test_the_mean_of_squared_scores_is_the_mse_in_other_units() -> None:
    rng = np.random.default_rng(0)
    ratings, targets = rng.integers(1, 6, (1, 50)).astype(float), rng.integers(1, 6, 50).astype(float)
    mse = np.mean((ratings[0] - targets) ** 2)

    assert score_items(ratings, targets, NUMBERS, "squared").mean() == pytest.approx(1 - mse / 16)


def test_a_missing_rating_is_never_better_than_a_wrong_one() -> None:
    worst = score_items(np.array([[5.0]]), np.array([1.0]), NUMBERS, "squared")
    missing = score_items(np.array([[np.nan]]), np.array([1.0]), NUMBERS, "squared")

    assert worst == missing == 0.0
