"""Indexes of shards summed up, where several runs hold a unit and where traces were hinted."""

from __future__ import annotations

import pyarrow as pa

from judgetrace.training.reading import INDEX, sum_up


def index_of(*units: tuple[str, str | None, bool]) -> pa.Table:
    """One unit for each (item, reason, hinted); its label is the item's first letter."""
    rows = [
        {
            "row": n,
            "item_id": item,
            "dimension": "",
            "target_source": "aggregate",
            "target_label": item[0],
            "rating": None if reason else item[0],
            "num_tokens": None if reason else 10,
            "num_prompt_tokens": None if reason else 6,
            "hinted": hinted,
            "reason": reason,
        }
        for n, (item, reason, hinted) in enumerate(units)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX)


def test_a_unit_that_several_runs_hold_was_decided_once() -> None:
    first = index_of(("a1", "not_accepted", False), ("a2", None, False), ("b1", "not_accepted", False))
    second = index_of(("a1", None, False), ("b1", "not_accepted", False))

    survey = sum_up([first, second])

    assert survey.decided == {("", "a"): 2, ("", "b"): 1}
    assert survey.accepted == {("", "a"): 2}
    assert survey.reasons == {"not_accepted": 3}


def test_units_over_quota_were_not_decided_by_draws() -> None:
    survey = sum_up([index_of(("a1", "over_quota", False), ("a2", None, False))])

    assert survey.decided == {("", "a"): 1}
    assert survey.reasons == {"over_quota": 1}


def test_hinted_examples_beyond_their_share_are_left_out_and_counted() -> None:
    units = [(f"a{n}", None, False) for n in range(4)] + [(f"b{n}", None, True) for n in range(6)]

    survey = sum_up([index_of(*units[:5]), index_of(*units[5:])], max_hinted_share=0.2)

    assert survey.usable.num_rows == 5
    assert survey.reasons == {"hinted_over_share": 5}
    assert survey.accepted == {("", "a"): 4, ("", "b"): 1}
    assert (survey.num_tokens, survey.num_answer_tokens) == (50, 20)
    assert survey.usable["shard"].to_pylist()[:4] == [0, 0, 0, 0]
    assert sum_up([]).usable.num_rows == 0
