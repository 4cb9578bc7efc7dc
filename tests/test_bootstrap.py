import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from judgetrace.agreement.bootstrap import (
    Resampler,
    adjust_benjamini_yekutieli,
    adjust_holm,
    draw_weights,
    find_interval,
    find_p_value,
)
from judgetrace.agreement.counts import Counts
from judgetrace.agreement.in_memory import measure_ratings
from judgetrace.scale import Scale
from tests.panels import draw_panel


def test_weights_are_poisson_draws_of_mean_one() -> None:
    weights = draw_weights(np.arange(500, dtype=np.uint64), seed=3, replicates=1000)

    assert weights.shape == (1000, 500)
    shares = np.bincount(weights.astype(int).reshape(-1), minlength=6)[:6] / weights.size
    # 500,000 draws: standard errors below .0007.
    assert shares == pytest.approx(stats.poisson.pmf(np.arange(6), 1), abs=0.003)
    assert abs(np.corrcoef(weights[:, :50], rowvar=False)[np.triu_indices(50, 1)]).mean() < 0.04


def test_a_clusters_weights_depend_on_seed_and_cluster_alone() -> None:
    few = draw_weights(np.array([7, 2**63 + 5], dtype=np.uint64), seed=1, replicates=20)
    many = draw_weights(np.array([2**63 + 5, 1, 7], dtype=np.uint64), seed=1, replicates=20)

    assert few[:, 0].tolist() == many[:, 2].tolist()
    assert few[:, 1].tolist() == many[:, 0].tolist()
    assert few.tolist() != draw_weights(np.array([7, 2**63 + 5], dtype=np.uint64), 2, 20).tolist()
    # More replicates begin with the same ones. The first draws are fixed: they must not change between releases.
    assert draw_weights(np.array([7], dtype=np.uint64), 1, 30)[:20, 0].tolist() == few[:, 0].tolist()


def test_weights_follow_the_poisson_quantiles_to_the_last_bit_of_a_draw() -> None:
    draws = np.random.Philox(key=np.array([0, 11], dtype=np.uint64)).random_raw(50_000)

    expected = stats.poisson.ppf((draws / 2**64), 1)
    assert (draw_weights(np.array([11], dtype=np.uint64), 0, 50_000)[:, 0] == expected).mean() == 1.0


@pytest.mark.parametrize("dense", [True, False])
def test_replicates_are_the_weighted_sums_of_the_clusters_counts(dense: bool) -> None:
    clusters = np.arange(30, dtype=np.uint64)
    cells = np.array([1, 4, 9, 16], dtype=np.int64)
    table = np.random.default_rng(0).integers(0, 9, (30, 4)) * (dense or np.eye(30, 4, dtype=int))
    rows, columns = np.nonzero(table)
    counts = Counts(clusters[rows], cells[columns], table[rows, columns])
    resampler = Resampler(clusters, seed=5, replicates=40)

    for floats in (1, 10**7):
        replicates = np.concatenate(list(resampler.resample(counts, floats)))
        expected = draw_weights(clusters, 5, 40) @ table
        assert replicates.tolist() == expected[:, table.any(axis=0)].tolist()


def test_intervals_of_alpha_cover_as_often_as_they_say() -> None:
    # The truth is alpha of the population that the panels are drawn from, computed from a very large one.
    truth = measure_ratings(draw_panel(99, units=200_000), Scale(values=(0, 1, 2, 3)))["alpha_interval"].value
    hits = 0
    for seed in range(200):
        found = measure_ratings(draw_panel(seed, units=80), Scale(values=(0, 1, 2, 3)), 300, seed)["alpha_interval"]
        hits += found.low <= truth <= found.high

    # 95% of 200 with a standard error of 1.5%; the percentile interval is a little short on 80 units.
    assert 0.88 <= hits / 200 <= 0.99


def test_where_many_replicates_are_undefined_there_is_no_interval() -> None:
    replicates = np.append(np.linspace(0, 1, 90), np.full(10, np.nan))

    assert math.isnan(find_interval(replicates, 0.95)[0])
    low, high = find_interval(replicates[:94], 0.9)
    assert (low, high) == pytest.approx((0.05, 0.95))
    assert math.isnan(find_p_value(replicates))


def test_a_p_value_counts_replicates_on_the_other_side_of_nought() -> None:
    assert find_p_value(np.array([-1.0] + [1.0] * 98)) == pytest.approx(2 * 2 / 100)
    assert find_p_value(np.array([1.0] * 99)) == pytest.approx(2 / 100)
    assert find_p_value(np.zeros(99)) == 1.0


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    p_values = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.04])

    assert adjust_holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert adjust_benjamini_yekutieli(p_values) == pytest.approx(multipletests(p_values, method="fdr_by")[1])
    with_gap = adjust_holm(np.insert(p_values, 2, np.nan))
    assert math.isnan(with_gap[2])
    assert np.delete(with_gap, 2) == pytest.approx(adjust_holm(p_values))
    assert adjust_holm(np.empty(0)).tolist() == []
