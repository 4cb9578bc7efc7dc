"""Batches of source rows with their row numbers, and the rows that can't be used.

Text columns of a batch are valid UTF-8: one bad byte spoils its row and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20
MAX_HEX_BYTES = 64
FIRST_ESCAPE = 0x10FF00
"""A byte that is no UTF-8 may come as the private character FIRST_ESCAPE + byte."""


@dataclass(frozen=True)
class Fault:
    """Rows that can't be used; `row` is null where a whole file or row group can't be read."""

    row: int | None
    num_rows: int
    reason: str
    detail: str


@dataclass(frozen=True)
class RawBatch:
    """Rows as read: `rows` [N] are their numbers in the file, `objects` the parsed lines of JSONL (else None)."""

    rows: np.ndarray
    table: pa.Table
    faults: list[Fault] = field(default_factory=list)
    objects: list[dict[str, Any]] | None = None


def make_fault_batch(fault: Fault) -> RawBatch:
    """Make a batch of no rows and one fault."""
    return RawBatch(np.empty(0, dtype=np.int64), pa.table({}), [fault])


def describe_error(error: BaseException) -> str:
    """Say what went wrong, shortened."""
    return f"{type(error).__name__}: {error}"[:300]


def decode_table(
    table: pa.Table,
    rows: np.ndarray,
    faults: Sequence[Fault] = (),
    escaped: bool = False,
    needed: Collection[str] | None = None,
) -> RawBatch:
    """Turn binary and string columns into valid UTF-8; rows with a bad byte become faults.

    Where `escaped`, bad bytes come as private characters. In columns other than the `needed` ones (null: all are) what
    is no text becomes hex, or null where it is long, and its row stays.
    """
    bad: dict[int, str] = {}
    columns: dict[str, Any] = {}
    for name in table.column_names:
        found = bad if needed is None or name in needed else None
        columns[name] = _decode_column(name, table[name].combine_chunks(), found)
        if escaped:
            _find_escapes(name, columns[name], bad)
    decoded = pa.table(columns)
    if not bad:
        return RawBatch(rows, decoded, list(faults))
    spoilt = [Fault(int(rows[i]), 1, "undecodable", detail) for i, detail in sorted(bad.items())]
    kept = np.ones(len(rows), dtype=bool)
    kept[list(bad)] = False
    return RawBatch(rows[kept], decoded.filter(pa.array(kept)), [*faults, *spoilt])


def _decode_column(name: str, column: Any, bad: dict[int, str] | None) -> Any:
    """Decode a column; `bad` takes the rows that can't be, and is null where none is to be spoilt."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    kind = column.type
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([None if value is None else _decode_or_hex(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary_view())
    elif pa.types.is_nested(kind):
        return _check_nested(name, column, bad)
    elif not (pa.types.is_string(kind) or _is_binary(kind)):
        return column
    raw = column.cast(pa.binary())
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decode_value(name, value, i, bad) for i, value in enumerate(raw.to_pylist())], pa.string())


def _find_escapes(name: str, texts: Any, bad: dict[int, str]) -> None:
    places = pc.find_substring_regex(texts, r"[\x{10FF00}-\x{10FFFF}]").to_numpy(zero_copy_only=False)
    for index in np.flatnonzero(places >= 0).tolist():
        text = texts[index].as_py()
        byte = next(ord(char) - FIRST_ESCAPE for char in text if ord(char) >= FIRST_ESCAPE)
        bad[index] = f"column {name}: byte 0x{byte:02x} at {int(places[index])}"


def _check_nested(name: str, column: Any, bad: dict[int, str] | None) -> Any:
    """Mark the rows of a list or struct column that hold a string with a bad byte; null where `bad` is null."""
    found: dict[int, str] = {}
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for index, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                found[index] = f"column {name}: {error}"
    if bad is None and found:
        return column.take(pa.array([None if index in found else index for index in range(len(column))], pa.int64()))
    if bad is not None:
        bad.update(found)
    return column


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _decode_value(name: str, value: bytes | None, index: int, bad: dict[int, str] | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        if bad is None:
            return write_bytes(value)
        bad[index] = f"column {name}: byte 0x{value[error.start]:02x} at {error.start}"
        return None


def _decode_or_hex(value: bytes) -> str:
    """Decode bytes, of whose length all are; what is no text is twice as long as hex, and so never the same."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def write_bytes(value: bytes) -> str | None:
    """Write bytes that are no text as hex; null where they are more than a hash, as a picture's."""
    return value.hex() if len(value) <= MAX_HEX_BYTES else None


def write_odd(value: Any) -> str | None:
    """Write a value that JSON does not know."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return write_bytes(value)


def write_text(value: Any) -> str | None:
    """Write a JSON value as the text that stands for it: strings as they are, numbers plain, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    return json.dumps(value, ensure_ascii=False, default=write_odd)
