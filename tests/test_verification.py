"""A second model's verdict about a trace, without any model."""

import pyarrow as pa
import pytest

from judgetrace.accounting import tally_verifications
from judgetrace.asking import AskedUnit
from judgetrace.engine import Prompt
from judgetrace.ledger import join_decisions
from judgetrace.prompts import PromptRenderer, load_template
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.scale import Scale
from judgetrace.schema import TRACES, UNIT_KEY, VERDICTS, VERIFICATIONS
from judgetrace.verification import NOTHING_LEFT, VerificationDecider, describe_trace, hash_trace
from tests.trace_tables import make_decision, make_draw, make_items, table_of

FIVE = Scale(values=("1", "2", "3", "4", "5"))
ITEMS = make_items(3)
DECIDER = VerificationDecider("run")


def earlier_rows() -> pa.Table:
    """Units 0 and 2 are accepted; 2 was hinted."""
    rows = [
        make_decision(ITEMS, 0, "accepted", [make_draw(0, "accepted", "1")], trace="Dull. So: 1", proposal="first"),
        make_decision(ITEMS, 1, "exhausted", []),
        make_decision(ITEMS, 2, "accepted", [make_draw(0, "accepted", "3")], trace="Fair.", proposal="h"),
    ]
    rows[0]["hinted"], rows[2]["hinted"] = False, True
    return join_decisions(ITEMS, table_of(*rows), TRACES).select([*UNIT_KEY, "outcome", *DECIDER.earlier_columns])


def decide(facts_of: dict, rating: str | None, reason: str = "rated", **unit) -> dict:
    facts = describe_trace(facts_of, FIVE)
    asked = AskedUnit(("item-0000", "", "aggregate"), ("1",), (), FIVE, Prompt(3), facts=facts, **unit)
    draws = [] if unit.get("skipped") or unit.get("refused") else [Draw(0, 0, reason, rating, error="away")]
    return DECIDER.decide(asked, UnitSampling(DECIDER.sampling, draws, forget_failed=False))


ROW = {"trace": "Dull. So: 1", "rating": "1", "proposal": "first", "hinted": False}


def test_the_units_with_a_trace_are_selected_and_their_traces_with_them():
    units = DECIDER.select_units(ITEMS, ITEMS.slice(0, 0), earlier_rows())
    assert units["item_id"].to_pylist() == ["item-0000", "item-0002"]
    assert units["trace"].to_pylist() == ["Dull. So: 1", "Fair."]
    assert units["hinted"].to_pylist() == [False, True]
    counted = DECIDER.select_units(ITEMS, ITEMS.slice(0, 0), earlier_rows().select([*UNIT_KEY, "outcome"]))
    assert counted.equals(units.select(counted.column_names))


def test_the_second_model_reads_the_trace_without_its_rating():
    told = DECIDER.tell(ROW, FIVE)
    assert (told.variables, told.skipped) == ({"trace": "Dull."}, None)
    assert told.facts.trace_hash == hash_trace("Dull. So: 1")


def test_a_trace_of_nothing_but_its_rating_is_missed_without_asking():
    told = DECIDER.tell(ROW | {"trace": "<rating>1</rating>"}, FIVE)
    assert told.skipped == "missed"
    row = decide(ROW | {"trace": "<rating>1</rating>"}, None, skipped="missed")
    assert (row["outcome"], row["error"], row["recovers"], row["draws"]) == ("missed", NOTHING_LEFT, False, [])


@pytest.mark.parametrize(
    ("rating", "reason", "outcome", "recovers"),
    [
        ("1", "rated", "recovered", True),
        ("2", "rated", "missed", False),
        (None, "unparsed", "unrated", False),
        (None, "failed", "failed", False),
        (None, "cancelled", "undecided", False),
    ],
)
def test_a_rating_is_recovered_where_it_is_exactly_the_traces_own(rating, reason, outcome, recovers):
    row = decide(ROW, rating, reason)
    assert (row["outcome"], row["recovered_label"], row["recovers"]) == (outcome, rating, recovers)
    assert pa.Table.from_pylist([row], schema=VERDICTS).num_rows == 1


def test_what_cannot_be_asked_is_quarantined_with_its_reason():
    assert decide(ROW, None, refused="too long")["error"] == "too long"


def test_verdicts_are_counted_by_outcome_and_by_what_was_found_of_their_traces():
    hinted = ROW | {"hinted": True, "trace": "I was told it is dull. It ends."}
    rows = [decide(ROW, "1"), decide(hinted, "2") | {"item_id": "item-0001"}]
    table = join_decisions(ITEMS, pa.Table.from_pylist(rows, schema=VERDICTS), VERIFICATIONS)
    tally = tally_verifications(table)
    assert tally.outcomes() == {"recovered": 1, "missed": 1}
    assert tally.flags == {"leaks": 0, "hinted": 1, "hinted_leaks": 1}
    assert tally_verifications(VERIFICATIONS.empty_table()).num_units == 0


@pytest.mark.parametrize("thinks", [True, False])
def test_the_shipped_prompt_shows_the_trace_and_not_the_item(thinks):
    renderer = PromptRenderer(load_template(None, "recover_rating.jinja"), thinks=thinks)
    told = {"trace": "Its plot is thin."}
    (message,) = renderer.render({"text": "Once there was a king."}, "Rate the plot.", "plot", FIVE, told)
    assert "Its plot is thin." in message["content"]
    assert "Rate the plot." in message["content"]
    assert "king" not in message["content"]
