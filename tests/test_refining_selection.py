import pyarrow as pa
import pytest

from judgetrace.refining.selection import SELECTED, merge_selections, select_traces
from judgetrace.scale import Scale

SCALE = Scale(values=("1", "2", "3"))


def make_traces(number: int) -> pa.Table:
    """Units whose ratings are 1, 2, 2, 1, 2, 2, ...; none is rated 3. Every fifth one is of another kind."""
    odd = [("exhausted", "fluency", "train"), ("accepted", "depth", "train"), ("accepted", "fluency", "test")]
    rows = []
    for n in range(number):
        outcome, dimension, split = odd[n % 3] if n % 5 == 4 else ("accepted", "fluency", "train")
        rating = None if outcome == "exhausted" else "1" if n % 3 == 0 else "2"
        rows.append((f"item {n}", dimension, "aggregate", outcome, rating, split, False))
    return pa.table(dict(zip(SELECTED, map(list, zip(*rows, strict=True)), strict=True)))


def test_the_same_units_are_taken_whatever_the_order_and_the_shards() -> None:
    table = make_traces(300)
    whole = select_traces(table, "fluency", SCALE, 10, seed=1)
    backwards = select_traces(table.take(list(range(299, -1, -1))), "fluency", SCALE, 10, seed=1)
    parts = [select_traces(table.slice(start, 70), "fluency", SCALE, 10, seed=1) for start in range(0, 300, 70)]

    assert whole == backwards == merge_selections(parts, seed=1) == merge_selections(parts[::-1], seed=1)
    assert [len(whole.taken[level]) for level in SCALE.values] == [10, 10, 0]
    assert whole != select_traces(table, "fluency", SCALE, 10, seed=2)


def test_only_accepted_units_of_the_dimension_and_the_split_are_taken() -> None:
    # Of item 0 to 29 those with n % 5 != 4 count: 8 rated 1 (0, 3, 6, ... without 9 and 24), 16 rated 2.
    found = select_traces(make_traces(30), "fluency", SCALE, 20, seed=0)

    assert {int(key[0].split()[1]) for key in found.taken["1"]} == {0, 3, 6, 12, 15, 18, 21, 27}
    assert found.available == {"1": 8, "2": 16, "3": 0}
    assert found.missing == {"1": 12, "2": 4, "3": 20}


def test_a_smaller_number_takes_a_part_of_what_a_larger_one_takes() -> None:
    table = make_traces(300)
    few, many = (select_traces(table, "fluency", SCALE, number, seed=3) for number in (5, 50))

    assert all(many.taken[level][:5] == few.taken[level] for level in SCALE.values)


def test_levels_take_turns_in_the_order_of_reading() -> None:
    found = select_traces(make_traces(300), "fluency", SCALE, 3, seed=0)

    assert [level for level, _ in found.interleave()] == ["1", "2"] * 3


def test_no_trace_is_no_error() -> None:
    found = select_traces(make_traces(1).slice(0, 0), "fluency", SCALE, 2, seed=0)

    assert found.taken == {"1": (), "2": (), "3": ()}
    assert found.missing == {"1": 2, "2": 2, "3": 2}
    assert found.interleave() == []


def make_hinted(num_own: int, num_hinted: int) -> pa.Table:
    """Traces of level 1, of level 2 as many, and hinted ones of level 3."""
    rows = [(f"item {n}", "fluency", "aggregate", "accepted", str(n % 2 + 1), "train", False) for n in range(num_own)]
    rows += [(f"told {n}", "fluency", "aggregate", "accepted", "3", "train", True) for n in range(num_hinted)]
    return pa.table(dict(zip(SELECTED, map(list, zip(*rows, strict=True)), strict=True)))


def test_hinted_traces_take_only_the_places_that_others_leave() -> None:
    rows = make_traces(300).to_pylist()
    told = [row | {"item_id": f"told {n}", "hinted": True} for n, row in enumerate(rows)]
    few = [row for row in rows if row["rating"] == "1"][:8]
    table = pa.Table.from_pylist([*few, *told], make_traces(1).schema)
    own = {
        unit[0]
        for unit in select_traces(pa.Table.from_pylist(few, table.schema), "fluency", SCALE, 10, seed=0).taken["1"]
    }

    whole = select_traces(table, "fluency", SCALE, 10, seed=0)
    parts = [select_traces(table.slice(start, 50), "fluency", SCALE, 10, seed=0) for start in range(0, len(table), 50)]

    assert {unit[0] for unit in whole.taken["1"][: len(own)]} == own
    assert {level for level, _ in whole.hinted} == {"1", "2"}
    assert len(whole.taken["1"]) == len(whole.taken["2"]) == 10
    assert sum(level == "1" for level, _ in whole.hinted) == 10 - len(own)
    assert merge_selections(parts, seed=0) == merge_selections(parts[::-1], seed=0) == whole


def test_a_unit_that_another_run_reached_without_a_hint_counts_as_not_hinted() -> None:
    own, told = (make_hinted(2, 0), make_hinted(2, 0).to_pylist())
    hinted = pa.Table.from_pylist([row | {"hinted": True} for row in told], own.schema)

    merged = merge_selections([select_traces(table, "fluency", SCALE, 5, seed=0) for table in (hinted, own)], seed=0)

    assert merged.hinted == frozenset()
    assert [len(merged.taken[level]) for level in SCALE.values] == [1, 1, 0]


@pytest.mark.parametrize(
    ("number", "share", "hinted"), [(10, 0.1, 2), (10, 0.0, 0), (10, 1.0, 10), (4, 0.2, 2), (4, 0.5, 4)]
)
def test_of_what_is_read_no_more_than_their_share_is_hinted(number: int, share: float, hinted: int) -> None:
    # 10 of each level: h / (20 + h) <= .1 is h <= 2. 4 of each level: h / (8 + h) <= .2 is h <= 2.
    selection = select_traces(make_hinted(20, 30), "fluency", SCALE, 10, seed=0)

    found = selection.cut(number, share, seed=0)

    assert [len(found.taken[level]) for level in SCALE.values] == [number, number, hinted]
    assert len(found.hinted) == hinted
