import numpy as np
import pytest
from scipy import stats

from judgetrace.refining.looks import find_nominal_level, plan_looks


def test_looks_grow_and_end_with_all_groups() -> None:
    assert plan_looks(400, 50, 2) == (50, 100, 200, 400)
    assert plan_looks(40, 50, 2) == (40,)


def test_no_look_comes_close_before_the_last() -> None:
    assert plan_looks(410, 50, 2) == (50, 100, 200, 410)
    assert plan_looks(600, 50, 2) == (50, 100, 200, 400, 600)


def test_slow_growth_skips_looks_at_no_more_groups() -> None:
    sizes = plan_looks(40, 10, 1.05)
    assert sizes[:4] == (10, 11, 12, 13)
    assert list(sizes) == sorted(set(sizes))
    assert 0.025 / len(sizes) < find_nominal_level(sizes, 0.025) < 0.025


@pytest.mark.parametrize(("looks", "bound"), [(2, 2.178), (3, 2.289), (5, 2.413), (10, 2.555)])
def test_equal_looks_have_pococks_bounds(looks: int, bound: float) -> None:
    # Jennison and Turnbull, table 2.1, two-sided .05; that a path crosses on both sides hardly ever happens.
    level = find_nominal_level(tuple(range(10, 10 * looks + 1, 10)), 0.025)

    assert stats.norm.isf(level) == pytest.approx(bound, abs=0.002)


def test_one_look_spends_all() -> None:
    assert find_nominal_level((70,), 0.01) == 0.01


def test_growing_looks_err_as_often_as_stated_in_simulated_walks() -> None:
    sizes = plan_looks(1000, 50, 1.25)
    level = find_nominal_level(sizes, 0.05)
    steps = np.sqrt(np.diff([0, *sizes]))
    walks = np.cumsum(np.random.default_rng(0).normal(size=(40_000, len(sizes))) * steps, axis=1)
    crossed = (walks / np.sqrt(sizes) > stats.norm.isf(level)).any(axis=1).mean()

    # Four binomial standard errors.
    assert crossed == pytest.approx(0.05, abs=0.0044)


def test_small_errors_are_found_between_the_bounds_that_hold_anyway() -> None:
    sizes = plan_looks(1000, 50, 1.25)
    coarse, level = find_nominal_level(sizes, 0.05 / 22 / 100), find_nominal_level(sizes, 0.05 / 22)

    assert 0.05 / 22 / len(sizes) < level < 0.05 / 22
    assert 0.05 / 2200 / len(sizes) < coarse < 0.05 / 2200
