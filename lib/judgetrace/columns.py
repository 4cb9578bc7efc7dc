"""Which column of a source holds what, and the texts and extra columns of its rows.

Knows no labels and no scale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from judgetrace.batches import RawBatch, write_odd, write_text
from judgetrace.config import UserError
from judgetrace.readers import read_column_names
from judgetrace.sources import SourcePart


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


def check_columns(part: SourcePart, columns: ColumnsConfig) -> list[str] | None:
    """Raise UserError where a file lacks a column of the config; reads its first bytes or its footer.

    Keys of JSONL may be left out of single lines, so only those that every line has are looked for; of several label
    keys (wide layout) one is enough, since an annotator may have labelled few items. Returns the columns that were
    found, None for a file without lines.
    """
    file, found = part.file, read_column_names(part.file, part.delimiter, part.quote)
    required = columns.name_columns()
    if file.format == "jsonl":
        always = {columns.item_id, *columns.label_columns}
        if found is not None and not set(columns.label_columns).isdisjoint(found):
            always = {columns.item_id}
        required = {name: key for name, key in required.items() if name in always}
    for name, key in required.items():
        if found is not None and name not in found:
            raise UserError(f"{file.url}: no column {name!r}; found: {found[:40]}\nset {key} to one of them")
    return found


class ItemTexts:
    """The texts of a batch's rows: sizes in bytes [N], whether all are blank [N], rows whose JSON can't be read."""

    def __init__(self, batch: RawBatch, columns: ColumnsConfig) -> None:
        size = len(batch.rows)
        self.columns = {name: text_of(batch, column) for name, column in columns.field_columns.items()}
        self.sizes, self.blank = np.zeros(size, dtype=np.int64), np.ones(size, dtype=bool)
        self.unreadable: dict[int, str] = {}
        for texts in self.columns.values():
            self.sizes += pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
            self.blank &= is_blank(texts)
        self.codes = np.zeros(size, dtype=np.int64)
        self.parsed: list[dict[str, str] | str] = [{}]
        if columns.fields_json:
            self._parse_json(text_of(batch, columns.fields_json), columns)

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


def text_of(batch: RawBatch, column: str | None) -> Any:
    """Return a column as strings; nulls where the config names none."""
    if column is None:
        return pa.nulls(len(batch.rows), pa.string())
    return as_text(batch.table[column].combine_chunks())


def as_text(values: Any) -> Any:
    """Return values as strings; null for NaN."""
    if pa.types.is_string(values.type):
        return values
    if pa.types.is_nested(values.type):
        return pa.array([write_text(value) for value in values.to_pylist()], pa.string())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    return values.cast(pa.string())


def is_blank(texts: Any) -> np.ndarray:
    """Tell which texts are null, empty or blanks."""
    lengths = pc.binary_length(pc.utf8_trim_whitespace(texts))
    return np.asarray(pc.fill_null(pc.equal(lengths, 0), True).to_numpy(zero_copy_only=False), dtype=bool)


def write_extras(batch: RawBatch, columns: ColumnsConfig, rows: np.ndarray) -> list[str]:
    """Write the JSON object of the other columns of some rows."""
    used = {column for column, key in columns.name_columns().items() if key != "columns.extra"}
    if batch.objects is not None:
        objects = [batch.objects[row] for row in rows.tolist()]
    else:
        others = [name for name in batch.table.column_names if name not in used]
        chosen = others if columns.extra is None else [name for name in others if name in columns.extra]
        objects = batch.table.select(chosen).take(pa.array(rows)).to_pylist() if chosen else [{}] * len(rows)
    return [json.dumps(_pick_extra(o, used, columns.extra), ensure_ascii=False, default=write_odd) for o in objects]


def _pick_extra(values: dict[str, Any], used: set[str], chosen: list[str] | None) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
        if name not in used and (chosen is None or name in chosen)
    }
