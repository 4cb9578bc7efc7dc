"""The alternative-annotator test, which tells whether a rater may stand in for one of the annotators.

One annotator at a time is left out; rater and annotator are scored against the others. Accuracy on a nominal scale,
minus the root mean squared error otherwise. H0: the rater is closer less often than the annotator, by eps or more.

Source: Calderon, Reichart and Dror, "The Alternative Annotator Test for LLM-as-a-Judge" (2025): a one-sided t-test of
mean(W_annotator - W_rater) < eps for each annotator with at least 30 items, Benjamini-Yekutieli over annotators, the
winning rate is the share of rejections and the rater passes at 0.5; the advantage probability is the mean of W_rater.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from judgetrace.agreement.bootstrap import adjust_benjamini_yekutieli

MIN_ITEMS = 30
FALSE_DISCOVERY_RATE = 0.05


def compare_accuracy(counts: np.ndarray, own: np.ndarray, rating: np.ndarray) -> np.ndarray:
    """Compare rater and annotator by how many of the other annotators they agree with, of N items.

    `counts` [N, V] has all annotators of the item, `own` [N] the left-out one's level, `rating` [N] the rater's.
    Returns 1 where the annotator is closer, -1 where the rater is, 0 for a tie [N].
    """
    rows = np.arange(len(own))
    return np.asarray(np.sign((counts[rows, own] - 1) - (counts[rows, rating] - (rating == own))), dtype=np.int64)


def compare_errors(sizes: np.ndarray, totals: np.ndarray, own: np.ndarray, rating: np.ndarray) -> np.ndarray:
    """Compare rater and annotator by the squared distance to the other annotators, of N items.

    `sizes` and `totals` [N] count and sum the other annotators' numbers; `own` and `rating` [N] are numbers.
    Returns 1 where the annotator is closer, -1 where the rater is, 0 for a tie [N].
    """
    # sum_k (r - h_k)^2 = m r^2 - 2 r sum h + sum h^2, and the last is common to both.
    apart = rating - own
    excess = apart * (sizes * (rating + own) - 2 * totals)
    tolerance = 1e-9 * np.maximum(1.0, np.abs(apart) * (np.abs(totals) + np.abs(sizes * rating)))
    return np.where(np.abs(excess) <= tolerance, 0, np.sign(excess)).astype(np.int64)


@dataclass(frozen=True)
class AnnotatorTest:
    """What the test says of one annotator."""

    annotator: str
    num_items: int
    annotator_advantage: float  # share of items on which the annotator is as close or closer
    rater_advantage: float  # share of items on which the rater is as close or closer
    p_value: float  # NaN where there are fewer than MIN_ITEMS
    p_adjusted: float


@dataclass(frozen=True)
class AlternativeTest:
    """What the test says of a rater."""

    eps: float
    winning_rate: float  # NaN where no annotator has enough items
    advantage_probability: float
    num_tested: int
    annotators: list[AnnotatorTest] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """Whether the rater may stand in for an annotator."""
        return self.winning_rate >= 0.5


def run_test(sums: dict[str, tuple[int, int, int]], eps: float) -> AlternativeTest:
    """Run the test from (items, annotator closer, rater closer) of each annotator."""
    names = sorted(name for name, (items, _, _) in sums.items() if items >= MIN_ITEMS)
    p_values = np.array([compute_p_value(*sums[name], eps) for name in names])
    adjusted = adjust_benjamini_yekutieli(p_values)
    annotators = [
        AnnotatorTest(
            name,
            items := sums[name][0],
            1 - sums[name][2] / items,
            1 - sums[name][1] / items,
            float(p),
            float(q),
        )
        for name, p, q in zip(names, p_values, adjusted, strict=True)
    ]
    if not annotators:
        return AlternativeTest(eps, math.nan, math.nan, 0)
    won = sum(test.p_adjusted <= FALSE_DISCOVERY_RATE for test in annotators)
    advantage = sum(test.rater_advantage for test in annotators) / len(annotators)
    return AlternativeTest(eps, won / len(annotators), advantage, len(annotators), annotators)


def compute_p_value(items: int, annotator_closer: int, rater_closer: int, eps: float) -> float:
    """Compute the p-value of the one-sided t-test of mean(d) < eps; d is 1, 0 or -1."""
    mean = (annotator_closer - rater_closer) / items
    variance = (annotator_closer + rater_closer - items * mean**2) / (items - 1)
    if variance <= 0:
        return 0.0 if mean < eps else 1.0
    return float(stats.t.cdf((mean - eps) / math.sqrt(variance / items), items - 1))
