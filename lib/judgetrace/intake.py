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

from judgetrace.batches import Fault, RawBatch, write_text
from judgetrace.columns import ColumnsConfig, ItemTexts, is_blank, text_of, write_extras
from judgetrace.guideline import Guideline
from judgetrace.scale import ScaleConfig

ADMITTED = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("annotator_id", pa.string()),
        ("label", pa.string()),  # as the scale writes it
        ("group", pa.string()),  # null where the row tells none
        ("fields", pa.string()),  # JSON; null but in the first row of an (item, dimension) in its batch
        ("extra", pa.string()),  # JSON; null likewise
        ("row", pa.int64()),  # in its file
        ("cell", pa.int32()),  # label cell of the row; 0 in the long layout
    ]
)
"""One row an admitted annotation, in the order of the file."""


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
    num_rows: int  # counted before anything is decided
    num_source_rows: int  # the same in the long layout; in the wide one a row is one whatever its cells
    num_empty_cells: int = 0


def admit_batch(batch: RawBatch, rules: IntakeRules) -> Admission:
    """Admit the rows of a batch (annotations: schema ADMITTED)."""
    unread = sum(fault.num_rows for fault in batch.faults)
    if not len(batch.rows):
        return Admission(ADMITTED.empty_table(), batch.faults, unread, unread)
    columns, size = rules.columns, len(batch.rows)
    item_ids = text_of(batch, columns.item_id)
    dimensions = pc.fill_null(text_of(batch, columns.dimension), "")
    row_marks = _Marks(size)
    row_marks.mark(is_blank(item_ids), "missing_item_id", lambda i: "")
    texts = ItemTexts(batch, columns)
    for index, detail in texts.unreadable.items():
        row_marks.mark_one(index, "invalid_json", detail)
    row_marks.mark(texts.blank, "empty_text", lambda i: "")
    row_marks.mark(texts.sizes > rules.max_text_bytes, "text_too_long", lambda i: f"{texts.sizes[i]} bytes")

    cells, num_empty = _list_cells(batch, rules)
    marks = _Marks(len(cells.parent), row_marks, cells.parent)
    if rules.needs_annotator:
        marks.mark(is_blank(cells.annotators), "missing_annotator_id", lambda i: "")
    marks.mark(is_blank(cells.labels), "missing_label", lambda i: "")
    dimension_of = dimensions.take(pa.array(cells.parent))
    labels = _resolve_labels(dimension_of, cells.labels, rules, marks)

    kept = marks.unmarked
    parent = cells.parent[kept]
    taken, where = pa.array(parent), pa.array(kept)
    item_of, unit_dimensions = item_ids.take(taken), dimension_of.filter(where)
    first = _find_firsts(item_of, unit_dimensions)
    group = text_of(batch, columns.group).take(taken)
    annotations = {
        "item_id": item_of,
        "dimension": unit_dimensions,
        "annotator_id": pc.fill_null(cells.annotators.filter(where), ""),
        "label": labels.filter(where),
        "group": pc.if_else(pa.array(is_blank(group)), None, group),
        "fields": _scatter(len(parent), first, texts.write_fields(parent[first])),
        "extra": _scatter(len(parent), first, write_extras(batch, columns, parent[first])),
        "row": pa.array(batch.rows[parent], pa.int64()),
        "cell": pa.array(cells.index[kept], pa.int32()),
    }
    faults = marks.list_faults(batch.rows[cells.parent])
    return Admission(
        pa.table(annotations, schema=ADMITTED),
        [*batch.faults, *faults],
        num_rows=unread + len(cells.parent),
        num_source_rows=unread + size,
        num_empty_cells=num_empty,
    )


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
        annotators = text_of(batch, columns.annotator_id)
        return _Cells(np.arange(size), np.zeros(size, dtype=np.int64), annotators, text_of(batch, columns.label)), 0
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
        return list(zip(*[text_of(batch, name).to_pylist() for name in columns.labels], strict=True))
    rows: list[Sequence[str | None]] = []
    for text in text_of(batch, columns.labels).to_pylist():
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
