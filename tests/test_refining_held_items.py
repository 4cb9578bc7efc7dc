import json
from itertools import pairwise

import pyarrow as pa

from judgetrace.refining.held_items import HeldItems, ItemRule, merge_items, pick_items
from judgetrace.schema import ITEMS
from tests.trace_tables import make_items


def make_table(num: int, group_size: int = 3, **changes: object) -> pa.Table:
    splits = ("train", "validation", "validation", "test")
    rows = [
        row
        | {"group": f"group {number // group_size}", "split": splits[number // group_size % 4]}
        | {"fields": json.dumps({"text": str(number)})}
        | changes
        for number, row in enumerate(make_items(num).to_pylist())
    ]
    return pa.Table.from_pylist(rows, ITEMS)


RULE = ItemRule("", seed=0)


def list_ids(held: HeldItems) -> dict[str, list[str]]:
    return {part: [row["item_id"] for row in rows] for part, rows in held.rows.items()}


def test_groups_lie_whole_in_one_half_of_the_validation_split_or_in_the_test_split() -> None:
    held = pick_items(make_table(240), RULE)
    groups = {part: {row["group"] for row in rows} for part, rows in held.rows.items()}

    assert groups["race"] & groups["confirm"] == set()
    assert len(groups["race"] | groups["confirm"]) == 40
    assert min(len(groups["race"]), len(groups["confirm"])) >= 10
    assert len(held.rows["test"]) == 60
    assert held.count_groups("test") == 20
    assert {row["split"] for row in held.rows["race"]} == {"validation"}


def test_any_cut_into_tables_in_any_order_makes_the_same_choice() -> None:
    table, rule = make_table(240), ItemRule("", seed=1, max_items=20, max_test_items=10)
    whole = list_ids(pick_items(table, rule))
    bounds = [0, 50, 51, 200, 240]
    parts = [pick_items(table.slice(start, end - start), rule) for start, end in pairwise(bounds)]

    assert list_ids(merge_items(parts, rule)) == whole
    assert list_ids(merge_items(reversed(parts), rule)) == whole


def test_a_limit_takes_whole_groups() -> None:
    held = pick_items(make_table(240), ItemRule("", seed=0, max_items=20, max_test_items=6))

    assert len(held.rows["race"]) == 21
    assert len(held.rows["test"]) == 6
    assert held.count_groups("race") == 7


def test_what_has_no_single_target_or_is_of_another_dimension_is_left_out() -> None:
    for changes in ({"target_source": "ann-1"}, {"target_label": None}, {"dimension": "other"}):
        assert list_ids(pick_items(make_table(24, **changes), RULE)) == {"race": [], "confirm": [], "test": []}


def test_an_empty_table_has_all_parts_and_the_test_split_may_be_left_alone() -> None:
    assert list_ids(pick_items(ITEMS.empty_table(), RULE)) == {"race": [], "confirm": [], "test": []}
    assert list_ids(merge_items([], RULE)) == {"race": [], "confirm": [], "test": []}
    assert pick_items(make_table(240), ItemRule("", seed=0, test=None)).rows["test"] == ()


def test_the_input_is_not_changed() -> None:
    table = make_table(24)
    before = table.to_pylist()
    pick_items(table, RULE)

    assert table.to_pylist() == before
