"""The sampling policy of one unit."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgetrace.sampling import Draw, SamplingConfig, UnitSampling, draw_seed

REASONS = {"a": "accepted", "d": "disagrees", "u": "unparsed", "t": "truncated", "f": "failed"}


def sampled(config: SamplingConfig, script: str) -> tuple[UnitSampling, int]:
    """Draw one at a time by a script of reasons; returns the unit and how many draws it took."""
    unit = UnitSampling(config)
    for count in itertools.count():
        index = unit.next_index()
        if index is None:
            return unit, count
        unit.start(index)
        unit.finish(Draw(index, 0, REASONS[script[index]]))


@pytest.mark.parametrize(
    ("script", "keep", "num_draws", "accepted"),
    [
        ("addd", 1, 1, [0]),
        ("ddad", 1, 3, [2]),
        ("dddd", 1, 4, []),
        ("utda", 1, 4, [3]),
        ("daad", 2, 3, [1, 2]),
        ("adda", 2, 4, [0, 3]),
        ("dadd", 2, 4, [1]),
    ],
)
def test_one_draw_at_a_time_stops_at_the_accepted_one(script, keep, num_draws, accepted):
    unit, count = sampled(SamplingConfig(max_draws=4, keep=keep), script)
    assert count == num_draws
    assert [draw.index for draw in unit.accepted] == accepted
    assert unit.is_decided
    assert unit.num_needed == num_draws


def test_a_refused_unit_starts_no_further_draw_and_needs_none_in_flight():
    unit = UnitSampling(SamplingConfig(max_draws=8))
    for index in range(3):
        unit.start(index)
    unit.refuse()
    assert unit.next_index() is None
    assert unit.finish(Draw(1, 0, "failed")) == {0, 2}
    assert unit.is_decided


@pytest.mark.parametrize("script", ["addd", "dada", "dddd"])
def test_the_fixed_mode_makes_all_draws_and_accepts_the_same_one(script):
    fixed, count = sampled(SamplingConfig(mode="fixed", max_draws=4), script)
    sequential, _ = sampled(SamplingConfig(max_draws=4), script)
    assert count == 4
    assert [d.index for d in fixed.accepted] == [d.index for d in sequential.accepted]


@given(st.text("adu", min_size=6, max_size=6), st.integers(1, 3), st.randoms())
def test_the_accepted_draws_do_not_depend_on_the_order_in_which_draws_finish(script, keep, rng):
    config = SamplingConfig(max_draws=6, keep=keep)
    expected = [d.index for d in sampled(config, script)[0].accepted]
    unit = UnitSampling(config)
    while not unit.is_decided or unit.in_flight:
        index = unit.next_index()
        if index is not None and (not unit.in_flight or rng.random() < 0.6):
            unit.start(index)
            continue
        finishing = rng.choice(sorted(unit.in_flight))
        for unneeded in unit.finish(Draw(finishing, 0, REASONS[script[finishing]])):
            unit.finish(Draw(unneeded, 0, "cancelled"))
    assert [d.index for d in unit.accepted] == expected


def test_an_accepted_draw_cancels_only_higher_indices():
    unit = UnitSampling(SamplingConfig(max_draws=8))
    for _ in range(4):
        unit.start(unit.next_index())
    assert unit.finish(Draw(2, 0, "accepted")) == {3}
    assert not unit.is_decided
    assert unit.in_flight == {0, 1, 3}
    assert unit.finish(Draw(3, 0, "cancelled", output_tokens=7)) == set()
    assert unit.finish(Draw(1, 0, "accepted")) == set()
    unit.finish(Draw(0, 0, "disagrees"))
    assert unit.is_decided
    assert [d.index for d in unit.accepted] == [1]
    assert [(d.index, d.reason) for d in unit.draws] == [
        (0, "disagrees"),
        (1, "accepted"),
        (2, "accepted"),
        (3, "cancelled"),
    ]


def test_recorded_draws_are_not_sampled_again():
    earlier = [Draw(0, 0, "disagrees"), Draw(1, 0, "failed"), Draw(2, 0, "unparsed"), Draw(3, 0, "cancelled")]
    unit = UnitSampling(SamplingConfig(max_draws=5), earlier)
    asked = []
    while (index := unit.next_index()) is not None:
        asked.append(index)
        unit.start(index)
        unit.finish(Draw(index, 0, "disagrees"))
    assert asked == [1, 3, 4]


def test_a_unit_whose_draws_keep_failing_is_given_up():
    unit, count = sampled(SamplingConfig(max_draws=16), "dfdffaaaaaaaaaaa")
    assert count == 5
    assert unit.is_decided
    assert unit.accepted == []


def test_seeds_differ_by_run_unit_and_draw_and_never_change():
    key = ("item", "dim", "aggregate")
    seeds = {draw_seed(run, k, i) for run in (0, 1) for k in (key, ("item", "di", "maggregate")) for i in range(16)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Pinned: a changed seed rule would silently resample every run that is resumed.
    assert draw_seed(0, key, 0) == 5999763165112905960
    assert random.Random(draw_seed(0, key, 0)).random() != random.Random(draw_seed(0, key, 1)).random()
