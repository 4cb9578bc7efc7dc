"""Acceptance by target label held against a floor."""

from collections import Counter

import pytest

from judgetrace.accounting import name_level
from judgetrace.gate import GateConfig, LevelShare, describe_breach, find_breaches, share_levels, summarise_gate


def units(**counts: int) -> Counter[str]:
    """Counts of one dimension; names as accepted_5."""
    pairs = ((*name.rpartition("_")[::2], n) for name, n in counts.items())
    return Counter({name_level(name_level("", label), outcome): n for outcome, label, n in pairs})


def test_a_share_is_of_units_that_were_accepted_or_had_all_their_draws():
    seen = units(accepted_5=1, exhausted_5=3, over_quota_5=90, failed_5=7, quarantined_5=2, accepted_1=4)
    assert share_levels(seen) == [LevelShare("", "1", 4, 4), LevelShare("", "5", 1, 4)]
    assert share_levels(seen)[1].share == 0.25


@pytest.mark.parametrize(
    ("floor", "min_units", "below"),
    [(0.25, 4, []), (0.26, 4, ["5"]), (0.26, 5, []), (None, 1, [])],
)
def test_a_level_is_below_the_gate_once_enough_of_its_units_are_decided(floor, min_units, below):
    config = GateConfig(min_level_acceptance=floor, min_units=min_units)
    found = find_breaches(units(accepted_5=1, exhausted_5=3, accepted_1=9), config)
    assert [level.label for level in found] == below


def test_a_breach_names_the_level_its_counts_and_what_helps():
    config = GateConfig(min_level_acceptance=0.5, min_units=4)
    told = describe_breach(find_breaches(units(accepted_5=1, exhausted_5=3), config), config)
    assert "label 5: 1 of 4 decided units accepted (25.0%)" in told
    assert "a further proposal `after` this run" in told


def test_the_summary_tells_breaches_apart_from_levels_with_too_few_units():
    summary = summarise_gate(units(exhausted_5=4, exhausted_1=3), GateConfig(min_level_acceptance=0.5, min_units=4))
    assert summary is not None
    assert [level["label"] for level in summary["breaches"]] == ["5"]
    assert [level["label"] for level in summary["too_few_units"]] == ["1"]
    assert summarise_gate(units(exhausted_5=4), GateConfig()) is None
