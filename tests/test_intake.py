import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from judgetrace.batches import Fault, RawBatch
from judgetrace.columns import ColumnsConfig
from judgetrace.guideline import parse_guideline
from judgetrace.intake import ADMITTED, Admission, IntakeRules, admit_batch
from judgetrace.scale import ScaleConfig

LONG: dict[str, Any] = {"item_id": "item", "text": "text", "annotator_id": "who", "label": "label"}
FIVE = ScaleConfig(values=("1", "2", "3", "4", "5"))


def make_rules(columns: dict[str, Any], scales: ScaleConfig = FIVE, **rules: Any) -> IntakeRules:
    layout = "wide" if "labels" in columns else "long"
    rules = {"guideline": parse_guideline("Rate it."), "max_text_bytes": 100, **rules}
    return IntakeRules(ColumnsConfig(**columns), scales, layout=layout, **rules)


def make_batch(rows: list[dict[str, Any]]) -> RawBatch:
    return RawBatch(np.arange(len(rows)), pa.Table.from_pylist(rows))


def admit(rows: list[dict[str, Any]], columns: dict[str, Any], **rules: Any) -> Admission:
    """Admit rows, and check on the way that none is lost."""
    admitted = admit_batch(make_batch(rows), make_rules(columns, **rules))
    assert admitted.num_rows == len(admitted.annotations) + sum(fault.num_rows for fault in admitted.faults)
    return admitted


def row(item: Any = "i", text: Any = "a text", who: Any = "ann", label: Any = "3", **others: Any) -> dict[str, Any]:
    return {"item": item, "text": text, "who": who, "label": label, **others}


def test_a_good_row_is_admitted_with_its_text_and_its_other_columns() -> None:
    admitted = admit([row(source="web", year=2020)], LONG)

    assert admitted.annotations.to_pylist() == [
        {
            "item_id": "i",
            "dimension": "",
            "annotator_id": "ann",
            "label": "3",
            "group": None,
            "fields": '{"text": "a text"}',
            "extra": '{"source": "web", "year": 2020}',
            "row": 0,
            "cell": 0,
        }
    ]
    assert admitted.faults == []


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (row(label=None), "missing_label", ""),
        (row(label="  "), "missing_label", ""),
        (row(label="6"), "unknown_label", "'6' is not one of ['1', '2', '3', '4', '5']"),
        (row(item=None), "missing_item_id", ""),
        (row(item=""), "missing_item_id", ""),
        (row(text=None), "empty_text", ""),
        (row(text=" \n\t"), "empty_text", ""),
        (row(text="é" * 51), "text_too_long", "102 bytes"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason_and_the_others_are_admitted(
    bad: dict[str, Any], reason: str, detail: str
) -> None:
    admitted = admit([row(item="before"), bad, row(item="after")], LONG)

    assert admitted.annotations["item_id"].to_pylist() == ["before", "after"]
    assert admitted.faults == [Fault(1, 1, reason, detail)]


def test_a_text_of_just_the_limit_is_admitted() -> None:
    assert admit([row(text="é" * 50)], LONG).faults == []


@pytest.mark.parametrize(
    "labels", [[3.0, 4.0, None, float("nan"), 6.0], [3, 4, None, None, 6], ["3.0", " 4", None, "", "6"]]
)
def test_labels_as_whole_numbers_floats_and_text_are_the_same_levels(labels: list[Any]) -> None:
    admitted = admit([row(item=f"i{n}", label=label) for n, label in enumerate(labels)], LONG)

    assert admitted.annotations["label"].to_pylist() == ["3", "4"]
    assert [fault.reason for fault in admitted.faults] == ["missing_label", "missing_label", "unknown_label"]


def test_a_dimension_needs_a_scale_and_a_section() -> None:
    scales = ScaleConfig(dimensions={"a": {"values": ["no", "yes"]}, "b": {"values": ["1", "2"]}})  # type: ignore[dict-item]
    guideline = parse_guideline("## A\nfirst", by_section=True)
    rows = [row(label="YES", dim="a"), row(label="1", dim="b"), row(dim="c"), row(dim=None)]

    admitted = admit(rows, {**LONG, "dimension": "dim"}, scales=scales, guideline=guideline)

    assert admitted.annotations.select(["dimension", "label"]).to_pylist() == [{"dimension": "a", "label": "yes"}]
    assert [(fault.reason, fault.detail) for fault in admitted.faults] == [
        ("no_guideline_section", "'b'"),
        ("unknown_dimension", "'c'"),
        ("unknown_dimension", "''"),
    ]


def test_several_fields_are_named_by_their_columns_or_by_the_config() -> None:
    rows = [{"item": "i", "label": "1", "q": "why", "a": "because"}, {"item": "j", "label": "1", "q": None, "a": "so"}]
    by_column = admit(rows, {"item_id": "item", "label": "label", "fields": ["q", "a"]})
    by_name = admit(rows, {"item_id": "item", "label": "label", "fields": {"prompt": "q", "response": "a"}})

    assert by_column.annotations["fields"].to_pylist() == ['{"q": "why", "a": "because"}', '{"q": "", "a": "so"}']
    assert json.loads(by_name.annotations["fields"].to_pylist()[0]) == {"prompt": "why", "response": "because"}
    assert by_name.annotations["extra"].to_pylist() == ["{}", "{}"]


def test_a_json_column_gives_its_keys_as_fields() -> None:
    parts = ['{"q": "why", "n": 2, "z": null}', "{", "[]", '{"q": " "}', None]
    rows = [{"item": f"i{n}", "label": "1", "parts": part} for n, part in enumerate(parts)]
    columns = {"item_id": "item", "label": "label", "fields_json": "parts"}

    admitted = admit(rows, columns)

    assert admitted.annotations["fields"].to_pylist() == ['{"q": "why", "n": "2", "z": ""}']
    assert [fault.reason for fault in admitted.faults] == ["invalid_json", "invalid_json", "empty_text", "invalid_json"]
    some = admit(rows[:1], {**columns, "fields_json_keys": ["n"]})
    assert some.annotations["fields"].to_pylist() == ['{"n": "2"}']


def test_only_the_first_row_of_an_item_and_dimension_carries_the_text() -> None:
    admitted = admit([row(label=None), row(who="a"), row(who="b"), row(item="j")], LONG)

    assert [fields is not None for fields in admitted.annotations["fields"].to_pylist()] == [True, False, True]


def test_a_blank_group_is_no_group() -> None:
    admitted = admit([row(g="doc"), row(item="j", g=None), row(item="k", g=" ")], {**LONG, "group": "g"})

    assert admitted.annotations["group"].to_pylist() == ["doc", None, None]


def test_an_annotator_is_needed_only_where_labels_are_kept_apart() -> None:
    assert admit([row(who=None)], LONG).annotations["annotator_id"].to_pylist() == [""]
    assert [fault.reason for fault in admit([row(who=None)], LONG, needs_annotator=True).faults] == [
        "missing_annotator_id"
    ]


WIDE: dict[str, Any] = {"item_id": "item", "text": "text"}


def test_in_the_wide_layout_every_filled_cell_is_a_row_named_by_its_column() -> None:
    rows = [
        {"item": "i", "text": "x", "ann": 1.0, "bob": None, "year": 2020},
        {"item": "j", "text": "y", "ann": 9.0, "bob": 2.0, "year": 2021},
        {"item": "k", "text": "z", "ann": None, "bob": None, "year": 2022},
        {"item": "l", "text": "", "ann": 1.0, "bob": 1.0, "year": 2023},
    ]

    admitted = admit(rows, {**WIDE, "labels": ["ann", "bob"]})

    assert admitted.annotations.select(["item_id", "annotator_id", "label"]).to_pylist() == [
        {"item_id": "i", "annotator_id": "ann", "label": "1"},
        {"item_id": "j", "annotator_id": "bob", "label": "2"},
    ]
    assert admitted.annotations["extra"].to_pylist() == ['{"year": 2020}', '{"year": 2021}']
    assert [(fault.row, fault.reason) for fault in admitted.faults] == [
        (1, "unknown_label"),
        (2, "missing_label"),
        (3, "empty_text"),
        (3, "empty_text"),
    ]
    assert (admitted.num_rows, admitted.num_source_rows, admitted.num_empty_cells) == (6, 4, 1)


@pytest.mark.parametrize("lists", [[[3, 4], [5, None], []], ["[3, 4]", "[5, null]", "[]"], ["[3, 4]", '["5", ""]', ""]])
def test_a_list_of_labels_is_the_same_as_a_parquet_list_and_as_json(lists: list[Any]) -> None:
    rows = [{"item": f"i{n}", "text": "x", "scores": labels} for n, labels in enumerate(lists)]

    admitted = admit(rows, {**WIDE, "labels": "scores"})

    assert admitted.annotations.select(["item_id", "annotator_id", "label", "cell"]).to_pylist() == [
        {"item_id": "i0", "annotator_id": "0", "label": "3", "cell": 0},
        {"item_id": "i0", "annotator_id": "1", "label": "4", "cell": 1},
        {"item_id": "i1", "annotator_id": "0", "label": "5", "cell": 0},
    ]
    assert [(fault.row, fault.reason) for fault in admitted.faults] == [(2, "missing_label")]


def test_bytes_within_other_columns_are_written_as_hex() -> None:
    admitted = admit([row(signature={"key": b"\xff\x00"})], LONG)

    assert admitted.annotations["extra"].to_pylist() == ['{"signature": {"key": "ff00"}}']


def test_no_rows_give_no_annotations_with_all_columns() -> None:
    batch = RawBatch(np.empty(0, dtype=np.int64), pa.table({}), [Fault(None, 7, "unreadable", "")])

    admitted = admit_batch(batch, make_rules(LONG))

    assert admitted == Admission(ADMITTED.empty_table(), batch.faults, num_rows=7, num_source_rows=7)


def test_any_split_into_batches_admits_the_same_annotations_and_faults() -> None:
    rows = [row(item=f"i{n % 3}", who=f"w{n}", label=str(n % 7), year=n) for n in range(20)]
    batch, rules = make_batch(rows), make_rules(LONG)
    whole = admit_batch(batch, rules)
    before = batch.table.to_pylist()
    halves = [
        admit_batch(RawBatch(batch.rows[start : start + 7], batch.table.slice(start, 7)), rules) for start in (0, 7, 14)
    ]

    # A batch's first row of an item carries its text; the first of all rows does so in any split.
    keys = ["item_id", "annotator_id", "label", "group", "row", "cell"]
    assert pa.concat_tables([half.annotations for half in halves]).select(keys) == whole.annotations.select(keys)
    assert [fault for half in halves for fault in half.faults] == whole.faults
    assert batch.table.to_pylist() == before


def test_columns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="no text"):
        ColumnsConfig(item_id="i", label="l")
    for labels in ({}, {"label": "l", "labels": ["a"]}):
        with pytest.raises(ValidationError, match="not both"):
            ColumnsConfig(item_id="i", text="t", **labels)  # type: ignore[arg-type]
