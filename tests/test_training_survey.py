"""Indexes of shards summed up, where several runs hold a unit and where traces were hinted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from judgetrace.ledger import join_decisions
from judgetrace.schema import TRACES, UNIT_KEY, VERIFICATIONS
from judgetrace.storage import Folder, encode_parquet
from judgetrace.trace_shards import TraceShard
from judgetrace.training.reading import INDEX, ReadingSpec, read_examples, sum_up
from judgetrace.verification import hash_trace
from tests.trace_tables import make_decision, make_draw, make_items, table_of

READING = ReadingSpec("traces", "train", 0)


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

    survey = sum_up([first, second], READING)

    assert survey.decided == {("", "a"): 2, ("", "b"): 1}
    assert survey.accepted == {("", "a"): 2}
    # Of three units a1 and a2 teach; b1 was missed twice, and is one unit.
    assert survey.reasons == {"not_accepted": 1}


def test_units_that_a_second_proposal_accepts_are_not_left_out() -> None:
    # The first proposal accepts 3 of 10 units; the second takes the other 7, and accepts 3 of these.
    names = [f"a{n}" for n in range(10)]
    first = index_of(*((name, None if n < 3 else "not_accepted", False) for n, name in enumerate(names)))
    second = index_of(*((name, None if n < 3 else "not_accepted", False) for n, name in enumerate(names[3:])))

    survey = sum_up([first, second], READING)

    assert survey.usable.num_rows == 6
    assert survey.describe_left_out() == "4 not_accepted"
    # As where the files come the other way round, and where they are cut otherwise.
    assert sum_up([second, first], READING).reasons == {"not_accepted": 4}
    assert sum_up([first.slice(0, 5), first.slice(5), second], READING).reasons == {"not_accepted": 4}


def test_of_the_reasons_that_runs_have_for_a_unit_the_one_nearest_to_teaching_counts() -> None:
    first = index_of(
        ("a1", "over_quota", False),
        ("a2", "not_accepted", False),
        ("a3", "hinted_unverified", True),
        ("a4", "x", False),
    )
    second = index_of(
        ("a1", "not_accepted", False), ("a2", "overlong: 9", False), ("a3", "not_accepted", False), ("a4", "y", False)
    )

    # Of a4 both runs have a trace that may not teach: the last one's reason counts.
    expected = {"not_accepted": 1, "overlong": 1, "hinted_unverified": 1}
    assert sum_up([first, second], READING).reasons == expected | {"y": 1}
    assert sum_up([second, first], READING).reasons == expected | {"x": 1}


def test_a_hinted_example_beyond_its_share_is_not_left_out_where_another_run_teaches_the_unit() -> None:
    plain = index_of(("a1", None, False), ("a2", "not_accepted", False))
    told = index_of(("a1", None, True), ("a2", None, True))

    survey = sum_up([plain, told], replace(READING, max_hinted_share=0.0))

    assert survey.usable.num_rows == 1
    assert survey.reasons == {"hinted_over_share": 1}


def test_of_first_draws_a_unit_teaches_the_very_first_alone() -> None:
    first = index_of(("a1", "first_draw_unrated", False), ("a2", None, False), ("b1", "over_quota", False))
    second = index_of(("a1", None, False), ("a2", None, False), ("b1", None, False))

    survey = sum_up([first, second], replace(READING, target="first_draw"))

    assert list(zip(survey.usable["shard"].to_pylist(), survey.usable["row"].to_pylist(), strict=True)) == [
        (0, 1),
        (1, 2),
    ]
    # Of three units a2 and b1 teach; the first draw of a1 gave no rating, whatever a later run drew.
    assert survey.reasons == {"first_draw_unrated": 1}
    assert survey.decided == {("", "a"): 2, ("", "b"): 1}


def test_units_over_quota_were_not_decided_by_draws() -> None:
    survey = sum_up([index_of(("a1", "over_quota", False), ("a2", None, False))], READING)

    assert survey.decided == {("", "a"): 1}
    assert survey.reasons == {"over_quota": 1}


def test_hinted_examples_beyond_their_share_are_left_out_and_counted() -> None:
    units = [(f"a{n}", None, False) for n in range(4)] + [(f"b{n}", None, True) for n in range(6)]

    survey = sum_up([index_of(*units[:5]), index_of(*units[5:])], replace(READING, max_hinted_share=0.2))

    assert survey.usable.num_rows == 5
    assert survey.reasons == {"hinted_over_share": 5}
    assert survey.accepted == {("", "a"): 4, ("", "b"): 1}
    assert (survey.num_tokens, survey.num_answer_tokens) == (50, 20)
    assert survey.usable["shard"].to_pylist()[:4] == [0, 0, 0, 0]
    assert sum_up([], READING).usable.num_rows == 0


def write_run(folder: Path, *, hinted: bool) -> TraceShard:
    """A shard, number 7, of three accepted units, each with the trace "because"."""
    items = make_items(3)
    draws = [[make_draw(0, "accepted", label)] for label in items["target_label"].to_pylist()]
    rows = [make_decision(items, n, "accepted", draws[n], hinted=hinted) for n in range(3)]
    table = join_decisions(items, table_of(*rows), TRACES)
    Folder(str(folder)).write_atomic("traces/shard-00007.parquet", encode_parquet(table))
    return TraceShard(str(folder), "shard-00007.parquet")


def write_verdicts(folder: Path) -> str:
    """The first two units have a verdict; of the first the rating was recovered."""
    facts = {"trace_hash": hash_trace("because"), "leaks": False, "mentions_hint": False}
    keys = [dict(zip(UNIT_KEY, (f"item-000{n}", "", "aggregate"), strict=True)) for n in range(2)]
    rows = [key | facts | {"recovers": n == 0} for n, key in enumerate(keys)]
    table = pa.Table.from_pylist(rows, schema=VERIFICATIONS)
    Folder(str(folder)).write_atomic("verifications/shard-00007.parquet", encode_parquet(table))
    return str(folder)


def test_verdicts_decide_which_traces_of_a_run_are_learned(tmp_path: Path) -> None:
    told, plain = write_run(tmp_path / "told", hinted=True), write_run(tmp_path / "plain", hinted=False)
    runs = (write_verdicts(tmp_path / "verified"),)

    def reasons(shard: TraceShard, *, verified: bool) -> list[str | None]:
        spec = ReadingSpec("traces", "train", 0, verification=runs, verified=verified)
        return list(read_examples(shard, spec)["reason"].to_pylist())

    assert reasons(plain, verified=False) == [None, None, None]
    assert reasons(plain, verified=True) == [None, "not_recovered", "not_verified"]
    assert reasons(told, verified=False) == [None, "not_recovered", "hinted_unverified"]
