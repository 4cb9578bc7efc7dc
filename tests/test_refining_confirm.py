import math

import numpy as np
import pytest
from scipy import stats

from judgetrace.refining.confirm import ConfirmConfig, confirm_challenger, find_level, keep_original

CONFIG = ConfirmConfig()


def name_items(number: int) -> list[str]:
    return [f"item {item}" for item in range(number)]


def test_a_challenger_that_is_better_by_more_than_the_interval_replaces_the_original() -> None:
    rng = np.random.default_rng(0)
    original, challenger = (rng.random((2, 500)) < [[0.5], [0.7]]).astype(float)
    found = confirm_challenger(challenger, original, name_items(500), CONFIG, seed=0)
    apart = challenger - original

    assert (found.is_replaced, found.reason, found.num_items, found.num_groups) == (True, "better", 500, 500)
    assert found.difference == pytest.approx(apart.mean())
    # The normal interval of a mean at 96.25%; the bootstrap's own error is about 4% of its width.
    width = stats.norm.isf(0.75 * 0.025) * apart.std() / math.sqrt(500)
    assert (found.low, found.high) == pytest.approx((apart.mean() - width, apart.mean() + width), abs=0.1 * width)
    assert found.describe().startswith("The refined guideline is returned: on 500 items in 500 groups that took no")


def test_a_challenger_that_is_only_luckier_does_not() -> None:
    rng = np.random.default_rng(1)
    original, challenger = rng.integers(0, 2, (2, 200)).astype(float)
    found = confirm_challenger(challenger, original, name_items(200), CONFIG, seed=0)

    assert (found.is_replaced, found.reason) == (False, "not_shown_better")
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_a_worse_challenger_is_called_worse() -> None:
    rng = np.random.default_rng(2)
    original, challenger = (rng.random((2, 500)) < [[0.8], [0.5]]).astype(float)

    assert confirm_challenger(challenger, original, name_items(500), CONFIG, seed=0).reason == "worse"


def test_groups_are_resampled_whole_so_copies_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    original, challenger = rng.integers(0, 2, (2, 100)).astype(float)
    names = name_items(100)
    single = confirm_challenger(challenger, original, names, CONFIG, seed=0)
    copied = confirm_challenger(
        np.repeat(challenger, 8), np.repeat(original, 8), [name for name in names for _ in range(8)], CONFIG, seed=0
    )

    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    assert (copied.num_items, copied.num_groups) == (800, 100)


def test_each_further_challenger_on_the_same_items_widens_the_interval() -> None:
    rng = np.random.default_rng(4)
    original = rng.random(400)
    challenger = original + rng.normal(0.1, 1.0, 400)
    config = CONFIG.model_copy(update={"replicates": 20_000})
    alone, third = (confirm_challenger(challenger, original, name_items(400), config, 0, look=n) for n in (1, 3))

    # The mean's interval is about normal: at 96.25% for the first, at 1 - .05 / 24 for the third.
    ratio = stats.norm.isf(0.025 / 24) / stats.norm.isf(0.025 * 3 / 4)
    assert (third.high - third.low) / (alone.high - alone.low) == pytest.approx(ratio, rel=0.05)
    assert "at the level of look 3 at these items" in third.describe()


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_errors_of_any_number_of_challengers_add_up_to_no_more_than_is_stated(level: float) -> None:
    for number in (1, 2, 5, 50):
        spent = math.fsum(1 - find_level(level, look) for look in range(1, number + 1))
        assert spent <= (1 - level) * (1 + 1e-9)
    # The first look loses little: a wider interval by 6% at .95.
    assert stats.norm.isf((1 - find_level(0.95, 1)) / 2) / stats.norm.isf(0.025) < 1.07


def test_a_late_challengers_interval_has_replicates_beyond_its_ends() -> None:
    # At look 8 each end leaves out .00011: of 2,000 replicates it would be the farthest, at .0005.
    rng = np.random.default_rng(6)
    apart = rng.normal(0.0, 1.0, 400)
    found = confirm_challenger(apart, np.zeros(400), name_items(400), CONFIG, seed=0, look=8)
    assert found.low is not None
    width = stats.norm.isf(0.025 / (4 * 8 * 7)) * apart.std() / math.sqrt(400)
    assert apart.mean() - found.low == pytest.approx(width, rel=0.06)


def test_the_order_of_items_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    original, challenger = rng.integers(0, 2, (2, 6000)).astype(float)
    names, order = name_items(6000), rng.permutation(6000)
    shuffled = confirm_challenger(challenger[order], original[order], [names[n] for n in order], CONFIG, seed=0)

    assert shuffled == confirm_challenger(challenger, original, names, CONFIG, seed=0)


def test_with_few_groups_the_original_stays_however_large_the_difference() -> None:
    found = confirm_challenger(np.ones(90), np.zeros(90), [f"group {n % 9}" for n in range(90)], CONFIG, seed=0)

    assert (found.is_replaced, found.reason, found.difference, found.low) == (False, "too_few_groups", 1.0, None)
    assert "90 items in 9 groups" in found.describe()


def test_no_items_are_too_few() -> None:
    found = confirm_challenger(np.empty(0), np.empty(0), [], CONFIG, seed=0)

    assert (found.reason, found.difference) == ("too_few_groups", None)


def test_equal_guidelines_are_not_shown_better() -> None:
    found = confirm_challenger(np.ones(100), np.ones(100), name_items(100), CONFIG, seed=0)

    assert (found.reason, found.low, found.high) == ("not_shown_better", 0.0, 0.0)


def test_an_original_that_won_the_race_needs_no_confirmation() -> None:
    assert not keep_original().is_replaced
    assert "no candidate came out of the race clearly ahead" in keep_original().describe()


def test_an_equal_challenger_replaces_the_original_about_as_seldom_as_the_level_says() -> None:
    # One end of a 95% interval: 2.5% of 400, within four binomial standard errors (12.5).
    rng = np.random.default_rng(5)
    config = ConfirmConfig(replicates=400)
    wins = 0
    for seed in range(400):
        original, challenger = rng.integers(0, 2, (2, 100)).astype(float)
        wins += confirm_challenger(challenger, original, name_items(100), config, seed).is_replaced

    assert wins <= 10 + 12.5
