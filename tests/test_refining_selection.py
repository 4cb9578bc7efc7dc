import pyarrow as pa

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
        rows.append((f"item {n}", dimension, "aggregate", outcome, rating, split))
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
