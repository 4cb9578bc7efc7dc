"""Units that no draw of any proposal reaches."""

import pyarrow as pa
import pytest

from judgetrace.label_noise import READ, SUSPECTS, find_suspects
from judgetrace.ledger import join_decisions
from judgetrace.noise_report import write_noise
from judgetrace.scale import ScaleConfig
from judgetrace.schema import TRACES
from tests.trace_tables import make_decision, make_draw, make_items, table_of

FIVE = ScaleConfig(values=("1", "2", "3", "4", "5"))
ITEMS = make_items(5)
"""Labelled 1 to 5."""


def run_of(*units: tuple[int, str, str], proposal: str = "first", hinted: bool = False) -> pa.Table:
    """One run: (row of ITEMS, outcome, ratings drawn); x stands for a draw without a rating, f for a failed one."""
    rows = []
    for row, outcome, drawn in units:
        label = ITEMS["target_label"][row].as_py()
        reasons = {label: "accepted", "x": "unparsed", "f": "failed"}
        draws = [
            make_draw(n, reasons.get(rating, "disagrees"), rating if rating.isdigit() else None)
            for n, rating in enumerate(drawn)
        ]
        rows.append(make_decision(ITEMS, row, outcome, draws, proposal=proposal, hinted=hinted))
    return join_decisions(ITEMS, table_of(*rows), TRACES).select(READ)


def suspects(*runs: pa.Table, min_draws: int = 1) -> list[dict]:
    table = find_suspects(runs, FIVE, min_draws)
    assert table.schema == SUSPECTS
    return table.to_pylist()


def test_a_suspect_shows_its_labels_what_was_drawn_and_how_improbable_the_label_is():
    (row,) = suspects(run_of((4, "exhausted", "1121xf"), (3, "accepted", "14")))
    assert (row["item_id"], row["target_label"], row["annotator_labels"]) == ("item-0004", "5", ["5", "1"])
    assert row["ratings"] == [{"rating": "1", "count": 3}, {"rating": "2", "count": 1}]
    assert (row["num_draws"], row["num_rated"], row["modal_rating"], row["modal_share"]) == (5, 4, "1", 0.75)
    assert row["distance"] == 4
    # (1 - p) ** 4 = .05
    assert row["reach_at_most"] == pytest.approx(0.5271, abs=1e-4)


def test_a_unit_that_any_proposal_reached_is_none():
    first, strict = run_of((4, "exhausted", "1111")), run_of((4, "accepted", "5"), proposal="strict")
    assert suspects(first, strict) == []
    (row,) = suspects(first, run_of((4, "exhausted", "22"), proposal="strict"))
    assert (row["proposals"], row["num_rated"]) == (["first", "strict"], 6)


def test_a_draw_that_was_told_the_label_reaches_nothing():
    told = run_of((4, "accepted", "5"), proposal="hinted", hinted=True)
    (row,) = suspects(run_of((4, "exhausted", "1111")), told)
    assert (row["reached_by_hint"], row["num_rated"], row["proposals"]) == (True, 4, ["first"])
    assert suspects(told) == []


@pytest.mark.parametrize(
    ("outcome", "drawn", "found"),
    [
        ("exhausted", "1111", 1),
        ("exhausted", "111xxx", 0),
        ("over_quota", "", 0),
        ("quarantined", "f", 0),
        ("failed", "fff", 0),
    ],
)
def test_too_few_draws_with_a_rating_say_nothing(outcome, drawn, found):
    assert len(suspects(run_of((4, outcome, drawn)), min_draws=4)) == found


def test_those_whose_draws_agree_most_come_first_then_those_farthest_from_their_label():
    rows = suspects(run_of((0, "exhausted", "5555"), (3, "exhausted", "3332"), (4, "exhausted", "4444")))
    assert [row["item_id"][-1] for row in rows] == ["0", "4", "3"]


def test_of_equally_frequent_ratings_the_one_farthest_from_the_label_counts():
    (row,) = suspects(run_of((3, "exhausted", "3311")))
    assert row["modal_rating"] == "1"


def test_on_a_nominal_scale_every_other_label_is_as_far():
    nominal = ScaleConfig(values=FIVE.values, type="nominal")
    (row,) = find_suspects([run_of((4, "exhausted", "111"))], nominal, 1).to_pylist()
    assert row["distance"] == 1


def test_no_unit_at_all_leaves_the_columns():
    assert find_suspects([], FIVE, 1).equals(SUSPECTS.empty_table())


def test_the_listing_shows_each_suspect_and_no_text_acts_as_markup():
    rows = suspects(run_of((4, "exhausted", "1121")))
    rows[0]["fields"] = '{"text": "<b>bold</b> *star*"}'
    text = write_noise(rows, {"suspects": 1, "units": 5})
    assert "1 of 5 units are suspects" in text
    assert "4 draws with a rating (first): 3 x 1, 1 x 2" in text
    assert "75% at 1, 4 from the label; a draw reaches it in at most 53% of cases" in text
    assert "\\<b\\>bold" in text
    assert "\\*star\\*" in text
