import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from judgetrace.agreement.bootstrap import draw_weights
from judgetrace.agreement.in_memory import compare_ratings, measure_ratings
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.refining.agreement_change import CHANGES, MEAN, RATERS, TARGET, Ratings, measure_change
from judgetrace.scale import Scale

SCALE = Scale(values=("1", "2", "3", "4", "5"))
OPTIONS = {"replicates": 500, "seed": 0, "level": 0.95}


def make_ratings(num: int = 200, raters: int = 2, seed: int = 0) -> Ratings:
    """Raters that follow the target in .4 of the items before and .8 after; else they answer anything."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, 6, num).astype(float)

    def rate(share: float) -> np.ndarray:
        follows = rng.random((raters, num)) < share
        return np.where(follows, targets, rng.integers(1, 6, (raters, num))).astype(float)

    names = [f"rater {number}" for number in range(raters)]
    return Ratings(names, rate(0.4), rate(0.8), targets, [f"item {item}" for item in range(num)])


def find_rows(table, comparison: str, who: str) -> dict[str, dict]:
    return {row["statistic"]: row for row in table.to_pylist() if (row["comparison"], row["who"]) == (comparison, who)}


def test_figures_are_those_of_the_measures_and_the_change_is_their_difference() -> None:
    ratings = make_ratings()
    found = find_rows(measure_change(ratings, SCALE, **OPTIONS), TARGET, "rater 1")
    before = compare_ratings(ratings.before[1], ratings.targets, SCALE)
    after = compare_ratings(ratings.after[1], ratings.targets, SCALE)

    assert found["kendall_tau_b"]["before"] == pytest.approx(stats.kendalltau(ratings.before[1], ratings.targets)[0])
    assert found["mse"]["after"] == pytest.approx(((ratings.after[1] - ratings.targets) ** 2).mean())
    for name, row in found.items():
        assert (row["before"], row["after"]) == pytest.approx((before[name], after[name]))
        assert row["change"] == pytest.approx(after[name] - before[name])
        assert row["change_low"] < row["change"] < row["change_high"]
    assert found["kendall_tau_b"]["change_low"] > 0
    assert found["mse"]["change_high"] < 0


def test_the_interval_of_a_change_is_paired() -> None:
    ratings = make_ratings()
    same = Ratings(ratings.raters, ratings.before, ratings.before, ratings.targets, ratings.groups)
    row = find_rows(measure_change(same, SCALE, **OPTIONS), TARGET, "rater 0")["icc_3_1"]

    assert (row["change"], row["change_low"], row["change_high"]) == (0.0, 0.0, 0.0)
    assert row["before_high"] - row["before_low"] > 0.05


def bootstrap_mse(numbers: np.ndarray, ratings: Ratings, blocks: np.ndarray) -> tuple[float, float]:
    """Resample blocks of items whole: the .025 and .975 quantiles of the mean squared error."""
    names = np.unique(blocks)
    weights = draw_weights(names, OPTIONS["seed"], OPTIONS["replicates"])[:, np.searchsorted(names, blocks)]
    low, high = np.quantile((weights @ (numbers - ratings.targets) ** 2) / weights.sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("num", "num_blocks"), [(1024, None), (3000, 1024)])
def test_more_groups_than_measure_agreement_resamples_are_folded_as_there(num: int, num_blocks: int | None) -> None:
    """A weight was drawn for each replicate and group, 8 GB of them for a million test items."""
    ratings = make_ratings(num)
    blocks = hash_strings(pa.array(ratings.groups))
    row = find_rows(measure_change(ratings, SCALE, **OPTIONS), TARGET, "rater 0")["mse"]

    expected = blocks if num_blocks is None else blocks % np.uint64(num_blocks)
    for time, numbers in (("before", ratings.before[0]), ("after", ratings.after[0])):
        assert (row[f"{time}_low"], row[f"{time}_high"]) == pytest.approx(bootstrap_mse(numbers, ratings, expected))


def test_the_mean_of_raters_is_the_mean_of_their_figures() -> None:
    table = measure_change(make_ratings(), SCALE, **OPTIONS)
    mean = find_rows(table, TARGET, MEAN)["kendall_tau_b"]
    single = [find_rows(table, TARGET, f"rater {n}")["kendall_tau_b"] for n in (0, 1)]

    assert mean["before"] == pytest.approx((single[0]["before"] + single[1]["before"]) / 2)
    # The mean of two raters varies less than either.
    assert mean["before_high"] - mean["before_low"] < max(row["before_high"] - row["before_low"] for row in single)


def test_raters_are_compared_with_each_other_in_pairs_and_three_of_them_as_a_panel() -> None:
    ratings = make_ratings(raters=3)
    table = measure_change(ratings, SCALE, **OPTIONS)
    everyone = find_rows(table, RATERS, "all raters")
    panel = measure_ratings(ratings.before - 1, SCALE)

    assert set(find_rows(table, RATERS, "rater 0, rater 2")) > {"icc_3_1", "alpha_ordinal"}
    assert everyone["alpha_ordinal"]["before"] == pytest.approx(panel["alpha_ordinal"].value)
    assert everyone["icc_3_1"]["before"] == pytest.approx(icc_3_1(ratings.before))
    assert everyone["icc_3_1"]["change_low"] > 0


def icc_3_1(x: np.ndarray) -> float:
    """Shrout and Fleiss (1979): (MS_items - MS_error) / (MS_items + (k - 1) MS_error)."""
    k, n = x.shape
    items, raters = x.mean(axis=0), x.mean(axis=1)
    ms_items = k * ((items - x.mean()) ** 2).sum() / (n - 1)
    ms_error = ((x - items - raters[:, None] + x.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return float((ms_items - ms_error) / (ms_items + (k - 1) * ms_error))


def test_items_that_a_compared_rating_is_missing_of_are_left_out_of_both_times() -> None:
    ratings = make_ratings(50)
    ratings.before[0, :10] = math.nan
    ratings.after[0, 45:] = math.nan
    table = measure_change(ratings, SCALE, **OPTIONS)
    row = find_rows(table, TARGET, "rater 0")["mse"]
    kept = slice(10, 45)

    assert row["num_items"] == 35
    assert row["before"] == pytest.approx(((ratings.before[0] - ratings.targets)[kept] ** 2).mean())
    assert row["after"] == pytest.approx(((ratings.after[0] - ratings.targets)[kept] ** 2).mean())
    assert find_rows(table, TARGET, "rater 1")["mse"]["num_items"] == 50


def test_without_a_refined_guideline_there_are_figures_before_alone() -> None:
    ratings = make_ratings()
    table = measure_change(
        Ratings(ratings.raters, ratings.before, None, ratings.targets, ratings.groups), SCALE, **OPTIONS
    )
    row = find_rows(table, TARGET, MEAN)["kendall_tau_b"]

    assert row["before_low"] < row["before"] < row["before_high"]
    assert (row["after"], row["change"], row["change_low"]) == (None, None, None)


def test_what_is_undefined_is_null_and_nothing_to_measure_has_no_rows() -> None:
    constant = np.full((2, 4), 3.0)
    ratings = Ratings(["a", "b"], constant, constant, np.array([1.0, 2.0, 3.0, 4.0]), list("wxyz"))
    row = find_rows(measure_change(ratings, SCALE, **OPTIONS), TARGET, "a")["kendall_tau_b"]

    assert (row["before"], row["change"]) == (None, None)
    nothing = Ratings(["a"], np.empty((1, 0)), None, np.empty(0), [])
    assert measure_change(nothing, SCALE, **OPTIONS).schema == CHANGES
    unrated = np.full((2, 4), math.nan)
    table = measure_change(Ratings(["a", "b"], unrated, unrated, ratings.targets, list("wxyz")), SCALE, **OPTIONS)
    assert {row["before"] for row in table.to_pylist()} <= {None}


def test_a_nominal_scale_has_the_figures_that_need_no_order() -> None:
    scale = Scale(values=("a1", "equal", "a2"), type="nominal")
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 3, (2, 2, 100)).astype(float)
    ratings = Ratings(["a", "b"], before, after, rng.integers(0, 3, 100).astype(float), [str(n) for n in range(100)])
    table = measure_change(ratings, scale, **OPTIONS)

    assert set(table["statistic"].to_pylist()) == {"alpha_nominal", "cohen_kappa", "exact_agreement"}
