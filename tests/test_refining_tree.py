from itertools import pairwise

import numpy as np
import pytest

from judgetrace.refining.tree import ReduceLimits, plan_reduce


def test_texts_that_fit_one_call_are_one_call() -> None:
    plan = plan_reduce([10, 20, 30], ReduceLimits(context=100, prompt=10, output=30))

    assert plan.levels == (((0, 1, 2),),)
    assert plan.num_calls == 1


def test_one_text_is_reduced_all_the_same() -> None:
    assert plan_reduce([60], ReduceLimits(100, 10, 30)).num_calls == 1


def test_a_result_that_finds_no_partner_is_carried_over_without_a_call() -> None:
    # Room for 60 tokens: two texts of 30 a call, and two results of 30.
    plan = plan_reduce([30] * 6, ReduceLimits(context=100, prompt=10, output=30))

    assert plan.levels == (((0, 1), (2, 3), (4, 5)), ((0, 1), (2,)), ((0, 1),))
    assert plan.num_calls == 3 + 1 + 1


def test_groups_are_about_equally_full() -> None:
    # Seven of 10 in room for 60: 6 + 1 would do, 4 + 3 is as few.
    plan = plan_reduce([10] * 7, ReduceLimits(context=100, prompt=10, output=30))

    assert plan.levels[0] == ((0, 1, 2, 3), (4, 5, 6))


def test_separators_take_room() -> None:
    assert len(plan_reduce([30, 30], ReduceLimits(100, 0, 40, separator=0)).levels) == 1
    with pytest.raises(ValueError, match="can't be joined: two of 41 tokens in room for 60"):
        plan_reduce([30, 30], ReduceLimits(100, 0, 40, separator=1))


def test_any_plan_takes_every_text_once_in_order_and_fits() -> None:
    rng = np.random.default_rng(5)
    limits = ReduceLimits(context=1000, prompt=100, output=200, separator=7)
    for size in (1, 2, 3, 50, 1000):
        counts = rng.integers(1, 694, size).tolist()
        plan = plan_reduce(counts, limits)

        results = len(counts)
        for number, level in enumerate(plan.levels):
            assert [position for group in level for position in group] == list(range(results))
            sizes = counts if number == 0 else [limits.output] * results
            assert all(sum(sizes[position] + 7 for position in group) <= 700 for group in level)
            results = len(level)
        assert results == 1
        assert all(len(later) < len(former) for former, later in pairwise(plan.levels))


@pytest.mark.parametrize(("counts", "message"), [([], "found none"), ([5, 61], r"positions \[1\] with \[61\] tokens")])
def test_what_can_not_be_reduced_is_told(counts: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_reduce(counts, ReduceLimits(100, 10, 30))
