"""Admit rows of a source as annotations: map its columns, resolve labels, and quarantine what can't be used.

In the long layout a row is one annotation. In the wide layout every filled label cell counts as a row, and an item
without any label as one row (missing_label); empty cells mean that an annotator did not label the item.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from judgetrace.guideline import Guideline
from judgetrace.readers import Fault, RawBatch, write_text
from judgetrace.scale import ScaleConfig

ADMITTED = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("annotator_id", pa.string()),
        ("label", pa.string()),  # as the scale writes it
        ("group", pa.string()),
        ("fields", pa.string()),  # JSON; null but in the first row of an (item, dimension) in its batch
        ("extra", pa.string()),  # JSON; null likewise
        ("row", pa.int64()),  # in its file
        ("cell", pa.int32()),  # label cell of the row; 0 in the long layout
    ]
)
"""One row an admitted annotation, in the order of the file."""


class ColumnsConfig(BaseModel):
    """Which column of the source holds what. All other columns travel along in `extra`."""

    model_config = ConfigDict(extra="forbid")

    item_id: str = Field(description="What names an item.")
    text: str | None = Field(default=None, description="The item's text, where it is one column (field `text`).")
    fields: list[str] | dict[str, str] | None = Field(
        default=None, description="The item's parts, where they are several: columns, or a table field = column."
    )
    fields_json: str | None = Field(
        default=None, description="A column that holds a JSON object of parts; its keys become fields."
    )
    fields_json_keys: list[str] | None = Field(default=None, description="Only these keys of fields_json; null: all.")
    annotator_id: str | None = Field(default=None, description="Who gave the label; without it none is a duplicate.")
    label: str | None = Field(default=None, description="The label (long layout).")
    labels: list[str] | str | None = Field(
        default=None,
        description="The labels (wide layout): columns, whose names become annotator ids, or one column that holds a "
        "list (a Parquet list or JSON), whose positions become annotator ids.",
    )
    dimension: str | None = Field(default=None, description="What the label is about, where a corpus has several.")
    group: str | None = Field(default=None, description="What splits must not divide: a prompt, document or author.")
    extra: list[str] | None = Field(default=None, description="Other columns to carry along; null: all of them.")

    @model_validator(mode="after")
    def _check_text(self) -> ColumnsConfig:
        if not (self.text or self.fields or self.fields_json):
            raise ValueError("no text: give columns.text, columns.fields or columns.fields_json")
        if (self.label is None) == (self.labels is None):
            raise ValueError("give columns.label (long layout) or columns.labels (wide layout), not both")
        return self

    @property
    def field_columns(self) -> dict[str, str]:
        """The fields that are columns of their own: field name -> column."""
        fields = self.fields or {}
        named = fields if isinstance(fields, dict) else {name: name for name in fields}
        return {**({"text": self.text} if self.text else {}), **named}

    @property
    def label_columns(self) -> list[str]:
        """The columns that hold labels."""
        return (
            [self.label] if self.label else [self.labels] if isinstance(self.labels, str) else list(self.labels or [])
        )

    def name_columns(self) -> dict[str, str]:
        """Name every column that must exist, with the key of the config that names it."""
        named = {"item_id": self.item_id, "annotator_id": self.annotator_id, "dimension": self.dimension}
        named |= {"group": self.group, "fields_json": self.fields_json, "text": self.text}
        found = {column: f"columns.{key}" for key, column in named.items() if column}
        found |= {column: "columns.fields" for column in self.field_columns.values() if column not in found}
        found |= dict.fromkeys(self.label_columns, "columns.label" if self.label else "columns.labels")
        return found | {column: "columns.extra" for column in self.extra or [] if column not in found}


@dataclass(frozen=True)
class IntakeRules:
    """What decides whether a row is admitted."""

    columns: ColumnsConfig
    scales: ScaleConfig
    guideline: Guideline
    layout: Literal["long", "wide"] = "long"
    max_text_bytes: int = 1_000_000
    needs_annotator: bool = False


@dataclass(frozen=True)
class Admission:
    """What became of a batch; rows of `annotations` and of `faults` together are the rows that came in."""

    annotations: pa.Table
    faults: list[Fault]
    num_empty_cells: int = 0


def admit_batch(batch: RawBatch, rules: IntakeRules) -> Admission:
    """Admit the rows of a batch (annotations: schema ADMITTED)."""
    if not len(batch.rows):
        return Admission(ADMITTED.empty_table(), batch.faults)
    columns, size = rules.columns, len(batch.rows)
    item_ids = _text_of(batch, columns.item_id)
    dimensions = pc.fill_null(_text_of(batch, columns.dimension), "")
    row_marks = _Marks(size)
    row_marks.mark(_is_blank(item_ids), "missing_item_id", lambda i: "")
    texts = _Texts(batch, columns)
    for index, detail in texts.unreadable.items():
        row_marks.mark_one(index, "invalid_json", detail)
    row_marks.mark(texts.blank, "empty_text", lambda i: "")
    row_marks.mark(texts.sizes > rules.max_text_bytes, "text_too_long", lambda i: f"{texts.sizes[i]} bytes")

    cells, num_empty = _list_cells(batch, rules)
    marks = _Marks(len(cells.parent), row_marks, cells.parent)
    if rules.needs_annotator:
        marks.mark(_is_blank(cells.annotators), "missing_annotator_id", lambda i: "")
    marks.mark(_is_blank(cells.labels), "missing_label", lambda i: "")
    dimension_of = dimensions.take(pa.array(cells.parent))
    labels = _resolve_labels(dimension_of, cells.labels, rules, marks)

    kept = marks.unmarked
    parent = cells.parent[kept]
    taken, where = pa.array(parent), pa.array(kept)
    item_of, unit_dimensions = item_ids.take(taken), dimension_of.filter(where)
    first = _find_firsts(item_of, unit_dimensions)
    group = _text_of(batch, columns.group).take(taken)
    annotations = {
        "item_id": item_of,
        "dimension": unit_dimensions,
        "annotator_id": pc.fill_null(cells.annotators.filter(where), ""),
        "label": labels.filter(where),
        "group": pc.if_else(pa.array(_is_blank(group)), item_of, group),
        "fields": _scatter(len(parent), first, texts.write_fields(parent[first])),
        "extra": _scatter(len(parent), first, _write_extras(batch, columns, parent[first])),
        "row": pa.array(batch.rows[parent], pa.int64()),
        "cell": pa.array(cells.index[kept], pa.int32()),
    }
    faults = marks.list_faults(batch.rows[cells.parent])
    return Admission(pa.table(annotations, schema=ADMITTED), [*batch.faults, *faults], num_empty)


class _Marks:
    """The first reason found against each row, with its detail."""

    def __init__(self, size: int, parents: _Marks | None = None, parent: np.ndarray | None = None) -> None:
        self.reasons = np.full(size, "", dtype=object)
        self.details = np.full(size, "", dtype=object)
        if parents is not None:
            self.reasons, self.details = parents.reasons[parent], parents.details[parent]

    @property
    def unmarked(self) -> np.ndarray:
        return np.asarray(self.reasons == "", dtype=bool)

    def mark(self, mask: np.ndarray, reason: str, describe: Any) -> None:
        for index in np.flatnonzero(mask & self.unmarked).tolist():
            self.reasons[index], self.details[index] = reason, describe(index)

    def mark_one(self, index: int, reason: str, detail: str) -> None:
        if not self.reasons[index]:
            self.reasons[index], self.details[index] = reason, detail

    def list_faults(self, rows: np.ndarray) -> list[Fault]:
        marked = np.flatnonzero(~self.unmarked).tolist()
        return [Fault(int(rows[i]), 1, self.reasons[i], self.details[i][:200]) for i in marked]


class _Texts:
    """The texts of a batch's rows: sizes in bytes [N], whether all are blank [N], rows whose JSON can't be read."""

    def __init__(self, batch: RawBatch, columns: ColumnsConfig) -> None:
        size = len(batch.rows)
        self.columns = {name: _text_of(batch, column) for name, column in columns.field_columns.items()}
        self.sizes, self.blank = np.zeros(size, dtype=np.int64), np.ones(size, dtype=bool)
        self.unreadable: dict[int, str] = {}
        for texts in self.columns.values():
            self.sizes += pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
            self.blank &= _is_blank(texts)
        self.codes = np.zeros(size, dtype=np.int64)
        self.parsed: list[dict[str, str] | str] = [{}]
        if columns.fields_json:
            self._parse_json(_text_of(batch, columns.fields_json), columns)

    def _parse_json(self, texts: Any, columns: ColumnsConfig) -> None:
        encoded = pc.fill_null(texts, "").dictionary_encode()
        self.codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        optional = bool(self.columns)
        self.parsed = [
            _parse_fields(text, columns.fields_json_keys, optional) for text in encoded.dictionary.to_pylist()
        ]
        readable = [parsed if isinstance(parsed, dict) else {} for parsed in self.parsed]
        self.sizes += np.array([sum(len(v.encode()) for v in p.values()) for p in readable], dtype=np.int64)[self.codes]
        self.blank &= np.array([not any(v.strip() for v in p.values()) for p in readable], dtype=bool)[self.codes]
        broken = np.array([isinstance(parsed, str) for parsed in self.parsed], dtype=bool)[self.codes]
        self.unreadable = {i: str(self.parsed[self.codes[i]]) for i in np.flatnonzero(broken).tolist()}

    def write_fields(self, rows: np.ndarray) -> list[str]:
        """Write the JSON object of fields of some rows."""
        names = list(self.columns)
        values = [self.columns[name].take(pa.array(rows)).to_pylist() for name in names]
        written = []
        for position, row in enumerate(rows.tolist()):
            parsed = self.parsed[self.codes[row]]
            own = {name: column[position] or "" for name, column in zip(names, values, strict=True)}
            written.append(json.dumps({**own, **(parsed if isinstance(parsed, dict) else {})}, ensure_ascii=False))
        return written


def _parse_fields(text: str, keys: Sequence[str] | None, optional: bool) -> dict[str, str] | str:
    """Parse a JSON object of fields; returns what is wrong with it where it can't be used."""
    if optional and not text.strip():
        return {}
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return f"columns.fields_json: {error}"
    if not isinstance(value, dict):
        return f"columns.fields_json: expected an object, found {type(value).__name__}"
    return {key: write_text(part) or "" for key, part in value.items() if keys is None or key in keys}


@dataclass(frozen=True)
class _Cells:
    """Label cells: the row of each in the batch, its position in the row, and what it holds."""

    parent: np.ndarray
    index: np.ndarray
    annotators: Any
    labels: Any


def _list_cells(batch: RawBatch, rules: IntakeRules) -> tuple[_Cells, int]:
    """List label cells in order of rows, and count the empty ones left out."""
    columns, size = rules.columns, len(batch.rows)
    if rules.layout == "long":
        annotators = _text_of(batch, columns.annotator_id)
        return _Cells(np.arange(size), np.zeros(size, dtype=np.int64), annotators, _text_of(batch, columns.label)), 0
    lists = _list_labels(batch, columns)
    names = list(columns.labels) if isinstance(columns.labels, list) else None
    found: list[tuple[int, int, str | None, str | None]] = []
    num_empty = 0
    for row, labels in enumerate(lists):
        filled = [(i, label) for i, label in enumerate(labels) if label is not None and label.strip()]
        num_empty += len(labels) - len(filled) if filled else 0
        found += [(row, i, names[i] if names else str(i), label) for i, label in filled] or [(row, 0, None, None)]
    parent, index, annotator_ids, texts = zip(*found, strict=True)
    return _Cells(
        np.array(parent), np.array(index), pa.array(annotator_ids, pa.string()), pa.array(texts, pa.string())
    ), num_empty


def _list_labels(batch: RawBatch, columns: ColumnsConfig) -> list[Sequence[str | None]]:
    """List the labels of each row; a cell that holds no list is one label, which no scale will know."""
    if isinstance(columns.labels, list):
        return list(zip(*[_text_of(batch, name).to_pylist() for name in columns.labels], strict=True))
    rows: list[Sequence[str | None]] = []
    for text in _text_of(batch, columns.labels).to_pylist():
        try:
            value = json.loads(text) if text else []
        except ValueError:
            value = text
        rows.append([write_text(label) for label in value] if isinstance(value, list) else [text])
    return rows


def _resolve_labels(dimensions: Any, labels: Any, rules: IntakeRules, marks: _Marks) -> Any:
    """Resolve labels to levels as the scale writes them; each distinct (dimension, label) once."""
    names, written = dimensions.dictionary_encode(), pc.fill_null(labels, "").dictionary_encode()
    width = max(len(written.dictionary), 1)
    codes = names.indices.to_numpy(zero_copy_only=False).astype(np.int64) * width
    codes += written.indices.to_numpy(zero_copy_only=False)
    pairs, inverse = np.unique(codes, return_inverse=True)
    name_list, text_list = names.dictionary.to_pylist(), written.dictionary.to_pylist()
    resolved = [_resolve(name_list[pair // width], text_list[pair % width], rules) for pair in pairs.tolist()]
    for number, (_, reason, detail) in enumerate(resolved):
        if reason:
            marks.mark(inverse == number, reason, lambda i, detail=detail: detail)
    return pa.array([level for level, _, _ in resolved], pa.string()).take(pa.array(inverse))


def _resolve(dimension: str, label: str, rules: IntakeRules) -> tuple[str | None, str | None, str]:
    scale = rules.scales.of(dimension)
    if scale is None:
        return None, "unknown_dimension", repr(dimension)
    if rules.guideline.guideline_for(dimension) is None:
        return None, "no_guideline_section", repr(dimension)
    level = scale.find_level(label)
    if level is None:
        return None, "unknown_label", f"{label[:80]!r} is not one of {list(scale.values)}"
    return scale.values[level], None, ""


def _text_of(batch: RawBatch, column: str | None) -> Any:
    """Return a column as strings; nulls where the config names none."""
    if column is None:
        return pa.nulls(len(batch.rows), pa.string())
    values = batch.table[column].combine_chunks()
    if pa.types.is_string(values.type):
        return values
    if pa.types.is_nested(values.type):
        return pa.array([write_text(value) for value in values.to_pylist()], pa.string())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    return values.cast(pa.string())


def _is_blank(texts: Any) -> np.ndarray:
    lengths = pc.binary_length(pc.utf8_trim_whitespace(texts))
    return np.asarray(pc.fill_null(pc.equal(lengths, 0), True).to_numpy(zero_copy_only=False), dtype=bool)


def _find_firsts(item_ids: Any, dimensions: Any) -> np.ndarray:
    """Find the first row of each (item, dimension), in order of rows."""
    items, names = item_ids.dictionary_encode(), dimensions.dictionary_encode()
    width = max(len(names.dictionary), 1)
    keys = items.indices.to_numpy(zero_copy_only=False).astype(np.int64) * width
    keys += names.indices.to_numpy(zero_copy_only=False)
    return np.sort(np.unique(keys, return_index=True)[1])


def _scatter(size: int, positions: np.ndarray, values: list[str]) -> pa.Array:
    column = np.full(size, None, dtype=object)
    column[positions] = values
    return pa.array(column, pa.string())


def _write_extras(batch: RawBatch, columns: ColumnsConfig, rows: np.ndarray) -> list[str]:
    """Write the JSON object of the other columns of some rows."""
    used = {column for column, key in columns.name_columns().items() if key != "columns.extra"}
    if batch.objects is not None:
        objects = [batch.objects[row] for row in rows.tolist()]
    else:
        others = [name for name in batch.table.column_names if name not in used]
        chosen = others if columns.extra is None else [name for name in others if name in columns.extra]
        objects = batch.table.select(chosen).take(pa.array(rows)).to_pylist() if chosen else [{}] * len(rows)
    return [json.dumps(_pick_extra(o, used, columns.extra), ensure_ascii=False, default=str) for o in objects]


def _pick_extra(values: dict[str, Any], used: set[str], chosen: list[str] | None) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
        if name not in used and (chosen is None or name in chosen)
    }
