"""Deciding a unit again from its recorded draws."""

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.asking import AskedUnit
from judgetrace.decisions import TraceDecider, decide_again
from judgetrace.engine import Prompt
from judgetrace.sampling import SamplingConfig
from judgetrace.scale import Scale
from judgetrace.schema import unit_key
from tests.trace_tables import make_decision, make_draw, make_items

FIVE = Scale(values=(1, 2, 3, 4, 5))
ITEMS = make_items(5)
SAMPLING = SamplingConfig(max_draws=4)


def recorded(draws, outcome="exhausted", **more):
    """A row of traces of the item labelled 3, whose annotators said 3 and 4."""
    return ITEMS.slice(2, 1).to_pylist()[0] | make_decision(ITEMS, 2, outcome, draws, **more)


def again(row, **rule):
    result = decide_again(row, FIVE, AcceptanceConfig(**rule), SAMPLING)
    return result["outcome"], result["draw_index"], result["accepted_by"]


DRAWS = [make_draw(i, "disagrees", rating, text="t", trace=f"because {i}") for i, rating in enumerate("5412")]


def test_the_first_draw_that_another_rule_accepts_wins():
    assert again(recorded(DRAWS)) == ("exhausted", None, None)
    assert again(recorded(DRAWS), rule="tolerance", tolerance=1) == ("accepted", 1, "tolerance")
    assert again(recorded(DRAWS), rule="any_annotator") == ("accepted", 1, "any_annotator")
    assert again(recorded(DRAWS) | {"accepted_labels": ["1"], "target_label": "1"}) == ("accepted", 2, "exact")


def test_a_decision_that_needs_a_draw_nobody_made_is_undecided():
    stopped_early = [make_draw(0, "disagrees", "5"), make_draw(1, "accepted", "3")]
    row = recorded(stopped_early, "accepted") | {"accepted_labels": ["2"], "target_label": "2"}
    assert again(row) == ("undecided", None, None)


def test_a_unit_accepted_after_a_failed_draw_stays_accepted():
    row = recorded([make_draw(0, "failed", error="hiccup"), make_draw(1, "accepted", "3", trace="so")], "accepted")
    assert again(row) == ("accepted", 1, "exact")


def test_what_could_not_be_asked_stays_as_it_is():
    row = recorded([], "quarantined", error="too long")
    assert again(row) == ("quarantined", None, None)


def test_a_matching_draw_whose_text_was_not_kept_gives_way_to_one_with_a_trace():
    without, of_four = make_draw(0, "disagrees", "4"), {"rule": "any_annotator"}
    kept = make_draw(1, "accepted", "3", text="So 3.", trace="so")
    row = recorded([without, kept], "accepted")
    assert again(row, **of_four) == ("accepted", 1, "exact")
    result = decide_again(row, FIVE, AcceptanceConfig(**of_four), SAMPLING)
    assert (result["trace"], result["rating"], result["num_needed"], result["error"]) == ("so", "3", 2, None)


def test_a_unit_whose_matching_draws_have_no_text_is_undecided_and_says_why():
    row = recorded([make_draw(0, "disagrees", "4")])
    result = decide_again(row, FIVE, AcceptanceConfig(rule="any_annotator"), SAMPLING)
    assert (result["outcome"], result["trace"], result["rating"], result["draw_index"]) == (
        "undecided",
        None,
        None,
        None,
    )
    assert "keep_rejected_text" in result["error"]


def test_a_hinted_draw_is_told_the_target_label_and_accepted_by_it_alone():
    row = ITEMS.slice(2, 1).to_pylist()[0] | {"accepted_labels": ["3", "4"]}
    asked = AskedUnit(unit_key(row), ("3", "4"), (), FIVE, Prompt(1))
    plain, hinted = (TraceDecider(SAMPLING, AcceptanceConfig(), hinted=hinted) for hinted in (False, True))
    assert plain.tell(row, FIVE).variables == {}
    assert hinted.tell(row, FIVE).variables == {"hint": "3"}
    assert plain.judge("4", asked) == ("accepted", "half_point")
    assert hinted.judge("4", asked) == ("disagrees", None)
    assert hinted.judge("3", asked) == ("accepted", "exact")


def test_a_hinted_draw_is_accepted_by_no_other_rule_later():
    draws = [make_draw(0, "disagrees", "4", text="t", trace="because")]
    row = recorded(draws) | {"hinted": True, "target_label": "3", "accepted_labels": ["3", "4"]}
    for acceptance in (
        AcceptanceConfig(),
        AcceptanceConfig(rule="tolerance", tolerance=1),
        AcceptanceConfig(rule="any_annotator"),
    ):
        assert decide_again(row, FIVE, acceptance, SAMPLING)["outcome"] != "accepted"
        assert decide_again(row | {"hinted": False}, FIVE, acceptance, SAMPLING)["outcome"] == "accepted"


def test_a_decision_keeps_its_proposal_and_a_unit_over_quota_stays_so():
    row = recorded(DRAWS) | {"proposal": "strict", "hinted": True}
    result = decide_again(row, FIVE, AcceptanceConfig(rule="any_annotator"), SAMPLING)
    assert (result["proposal"], result["hinted"]) == ("strict", True)
    assert again(recorded([], "over_quota")) == ("over_quota", None, None)
    # As of a file of before there were proposals.
    old = {name: value for name, value in recorded([], "quarantined").items() if name not in ("proposal", "hinted")}
    assert decide_again(old, FIVE, AcceptanceConfig(), SAMPLING)["proposal"] is None
