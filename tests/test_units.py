import random
from typing import Any

import pyarrow as pa

from judgetrace.labels import TargetConfig
from judgetrace.scale import ScaleConfig
from judgetrace.schema import DROPPED, ITEMS
from judgetrace.splits import SplitConfig, assign_split
from judgetrace.staging import STAGED
from judgetrace.units import CorpusRules, find_repeats, make_units, mix_items, settle_groups

KEYS = ["item_id", "dimension", "group"]
NONE_KNOWN = STAGED.empty_table().select(KEYS)


def make_rules(**target: Any) -> CorpusRules:
    scales = ScaleConfig(values=("1", "2", "3", "4", "5"))
    return CorpusRules(TargetConfig(**target), scales, SplitConfig(), 10, 1, 0, 0, ["file.csv"])


def make_staged(rows: list[tuple[str, str, str]]) -> pa.Table:
    """Make staged annotations of (item, annotator, label), in order of a file."""
    records, seen = [], set()
    for number, (item, annotator, label) in enumerate(rows):
        record = {
            "item_id": item,
            "dimension": "",
            "annotator_id": annotator,
            "label": label,
            "group": f"group of {item}",
        }
        if item not in seen:
            record |= {"fields": f'{{"text": "{item}"}}', "extra": "{}"}
        seen.add(item)
        records.append({**record, "row": number, "cell": 0, "file_index": 0})
    return pa.Table.from_pylist(records, schema=STAGED)


def test_the_first_label_of_an_annotator_counts_and_the_second_is_a_duplicate() -> None:
    staged = make_staged([("i", "a", "1"), ("i", "b", "1"), ("i", "a", "5"), ("j", "a", "1")])

    kept, faults = find_repeats(staged, NONE_KNOWN, names_annotators=True)

    assert kept["row"].to_pylist() == [0, 1, 3]
    assert [(index, fault.row, fault.reason, fault.detail) for index, fault in faults] == [
        (0, 2, "duplicate", "i /  / a")
    ]


def test_annotations_without_an_annotator_are_never_duplicates() -> None:
    staged = make_staged([("i", "", "1"), ("i", "", "1")])

    for names_annotators in (True, False):
        assert find_repeats(staged, NONE_KNOWN, names_annotators) == (staged, [])


def test_rows_of_a_unit_that_is_known_already_are_taken_out() -> None:
    staged = make_staged([("i", "a", "1"), ("j", "a", "1"), ("i", "a", "1")])
    known = pa.table({"item_id": ["i", "x"], "dimension": ["", ""], "group": ["i", "x"]}, schema=NONE_KNOWN.schema)

    kept, faults = find_repeats(staged, known, names_annotators=True)

    assert kept["item_id"].to_pylist() == ["j"]
    assert [(fault.row, fault.reason) for _, fault in faults] == [(0, "already_prepared"), (2, "already_prepared")]


def make_grouped(rows: list[tuple[str, str, str | None]]) -> pa.Table:
    """Make staged annotations of (item, dimension, group), in order of a file."""
    records = [
        {"item_id": item, "dimension": dimension, "annotator_id": "a", "label": "1", "group": group, "fields": "{}"}
        | {"extra": "{}", "row": number, "cell": 0, "file_index": 0}
        for number, (item, dimension, group) in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=STAGED)


def test_all_units_of_an_item_have_the_group_that_any_of_its_rows_tells() -> None:
    # Each unit used to take the group of its own first row, so that item i could lie in train and in test.
    staged = make_grouped([("i", "x", None), ("i", "y", "doc"), ("j", "x", None), ("i", "z", "doc")])

    settled, faults = settle_groups(staged, NONE_KNOWN)

    assert settled["group"].to_pylist() == ["doc", "doc", "j", "doc"]
    assert settled.drop_columns("group") == staged.drop_columns("group")
    assert faults == []


def test_an_item_that_is_told_two_groups_is_taken_out_with_all_its_rows() -> None:
    staged = make_grouped([("i", "x", "p"), ("j", "x", "p"), ("i", "y", "q"), ("i", "z", None), ("k", "x", "k")])

    settled, faults = settle_groups(staged, NONE_KNOWN)

    assert settled.select(["item_id", "group"]).to_pylist() == [
        {"item_id": "j", "group": "p"},
        {"item_id": "k", "group": "k"},
    ]
    assert [(fault.row, fault.reason, fault.detail) for _, fault in faults] == [
        (row, "two_groups", "i: 'p' and 'q'") for row in (0, 2, 3)
    ]


def test_an_item_keeps_the_group_of_its_units_that_are_prepared_already() -> None:
    known = pa.table({"item_id": ["i", "j"], "dimension": ["x", "x"], "group": ["doc", "j"]})
    staged = make_grouped([("i", "y", None), ("j", "y", "doc"), ("l", "y", None)])

    settled, faults = settle_groups(staged, known)

    assert settled["group"].to_pylist() == ["doc", "l"]
    assert [(fault.row, fault.detail) for _, fault in faults] == [(1, "j: 'j' and 'doc'")]
    assert settle_groups(STAGED.empty_table(), known) == (STAGED.empty_table(), [])


def test_no_annotations_give_no_repeats_and_no_units_with_all_columns() -> None:
    kept, faults = find_repeats(STAGED.empty_table(), NONE_KNOWN, names_annotators=True)
    units, dropped = make_units(kept, make_rules())

    assert (kept, faults) == (STAGED.empty_table(), [])
    assert (units, dropped) == (ITEMS.empty_table(), DROPPED.empty_table())


def test_a_unit_has_the_text_and_group_of_its_first_row_and_the_split_of_its_group() -> None:
    units, dropped = make_units(
        make_staged([("j", "a", "1"), ("i", "a", "1"), ("j", "b", "2"), ("k", "a", "1"), ("k", "b", "5")]), make_rules()
    )

    assert units.select(["item_id", "target_label", "group", "fields"]).to_pylist() == [
        {"item_id": "i", "target_label": "1", "group": "group of i", "fields": '{"text": "i"}'},
        {"item_id": "j", "target_label": "1", "group": "group of j", "fields": '{"text": "j"}'},
    ]
    assert units["split"].to_pylist() == [assign_split(f"group of {item}", SplitConfig()) for item in "ij"]
    assert dropped["item_id"].to_pylist() == ["k"]
    assert dropped["group"].null_count == 0


def test_units_of_one_item_share_its_text_where_annotators_are_kept_apart() -> None:
    units, _ = make_units(make_staged([("i", "a", "1"), ("i", "b", "5")]), make_rules(rule="per_annotator"))

    assert units["target_source"].to_pylist() == ["a", "b"]
    assert units["fields"].to_pylist() == ['{"text": "i"}'] * 2


def test_the_order_of_items_is_free_and_the_input_stays_as_it_is() -> None:
    staged = make_staged([(item, who, label) for item in "dbac" for who, label in (("x", "1"), ("y", "2"))])
    rows = staged.to_pylist()
    random.seed(3)
    items = [[row for row in rows if row["item_id"] == item] for item in random.sample("abcd", 4)]
    shuffled = pa.Table.from_pylist([row for item in items for row in item], schema=STAGED)

    assert make_units(shuffled, make_rules()) == make_units(staged, make_rules())
    assert staged.to_pylist() == rows


def test_any_split_of_items_over_buckets_gives_the_same_units() -> None:
    rows = [(item, who, label) for item in "abcd" for who, label in (("x", "1"), ("y", "2"))]
    whole, _ = make_units(make_staged(rows), make_rules())
    parts = [make_units(make_staged([row for row in rows if row[0] == item]), make_rules())[0] for item in "abcd"]

    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


def test_items_are_mixed_the_same_way_whatever_lies_beside_them_and_an_items_units_stay_together() -> None:
    rows = [(f"item-{n:02d}", who, "1") for n in range(40) for who in "xy"]
    units, _ = make_units(make_staged(rows), make_rules(rule="per_annotator"))
    mixed = mix_items(units)
    order = mixed["item_id"].to_pylist()

    assert sorted(mixed.to_pylist(), key=str) == sorted(units.to_pylist(), key=str)
    assert order[::2] == order[1::2]
    assert order != sorted(order)
    assert mixed["target_source"].to_pylist() == ["x", "y"] * 40
    half = mix_items(units.slice(0, 40))["item_id"].to_pylist()
    assert half == [item for item in order if item in half]
    assert mix_items(units.slice(0, 0)).schema == units.schema
