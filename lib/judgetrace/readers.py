"""Read source parts as batches of rows with their row numbers; rows that can't be read become faults.

Text columns come out as valid UTF-8: one bad byte spoils its row and no other. Knows no column mapping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv

from judgetrace.config import UserError
from judgetrace.sources import SourceFile, SourcePart, is_corruption, open_parquet_file

BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20
CSV_BLOCK_BYTES = 32 << 20
"""A CSV row can't be longer than this."""
HEADER_BYTES = 256 << 10


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


def read_part(part: SourcePart, columns: Sequence[str]) -> Iterator[RawBatch]:
    """Read a part. CSV and Parquet give all columns; JSONL gives `columns` as text, the rest in `objects`.

    What can't be read any more becomes a last fault "unreadable"; for Parquet one for each row group.
    """
    if part.fault is not None:
        yield _only_fault(Fault(None, 1, "unreadable", part.fault))
    elif part.file.format == "parquet":
        yield from _read_parquet(part)
    else:
        batches = _read_csv(part) if part.file.format == "csv" else _read_jsonl(part, columns)
        try:
            yield from batches
        except Exception as error:
            if not is_corruption(error):
                raise
            yield _only_fault(Fault(None, 1, "unreadable", f"{_describe(error)}; the rest of the file was not read"))


def _only_fault(fault: Fault) -> RawBatch:
    return RawBatch(np.empty(0, dtype=np.int64), pa.table({}), [fault])


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _read_parquet(part: SourcePart) -> Iterator[RawBatch]:
    row = part.first_row
    for group in range(part.first_group, part.last_group):
        with open_parquet_file(part.file.url) as file:
            metadata = file.metadata.row_group(group)
            end = row + metadata.num_rows
            row_bytes = metadata.total_byte_size // max(metadata.num_rows, 1) + 1
            size = max(64, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
            try:
                for batch in file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
                    yield _decode(pa.table(batch), np.arange(row, row + batch.num_rows))
                    row += batch.num_rows
            except Exception as error:
                if not is_corruption(error):
                    raise
                yield _only_fault(Fault(None, end - row, "unreadable", f"row group {group}: {_describe(error)}"))
            row = end


def open_text_file(file: SourceFile) -> IO[bytes]:
    """Open a text file for reading bytes, decompressed by its name's suffix."""
    opened: IO[bytes] = fsspec.open(file.url, "rb", compression="infer").open()
    return opened


def read_csv_header(file: SourceFile, delimiter: str) -> list[str]:
    """Read the column names of a CSV file."""
    with open_text_file(file) as stream:
        block = stream.read(HEADER_BYTES)
    options = pc_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=lambda _: "skip")
    first_line = block.split(b"\n", 1)[0] + b"\n"
    names: list[str] = pc_csv.read_csv(pa.BufferReader(first_line), parse_options=options).schema.names
    return names


def read_column_names(file: SourceFile, delimiter: str) -> list[str] | None:
    """Read the columns of a file; of JSONL the keys of its first lines. None for a JSONL file without lines."""
    if file.format == "parquet":
        with open_parquet_file(file.url) as parquet:
            names: list[str] = parquet.schema_arrow.names
            return names
    if file.format == "csv":
        return read_csv_header(file, delimiter)
    keys: dict[str, None] = {}
    with open_text_file(file) as stream:
        block = stream.read(HEADER_BYTES)
    for row, line in enumerate(block.split(b"\n")[: -1 if len(block) == HEADER_BYTES else None]):
        parsed = _parse_line(row, line) if line.strip() else None
        keys |= dict.fromkeys(parsed) if isinstance(parsed, dict) else {}
    return list(keys) or None


def _read_csv(part: SourcePart) -> Iterator[RawBatch]:
    names = read_csv_header(part.file, part.delimiter)
    if len(set(names)) < len(names):
        raise UserError(f"{part.file.url}: a column name occurs twice: {names}; rename one of them")
    wrong: list[Fault] = []

    def keep_invalid(row: Any) -> str:
        detail = f"expected {row.expected_columns} columns, found {row.actual_columns}"
        wrong.append(Fault(row.number - 2, 1, "invalid_row", detail))  # numbers count from 1 and count the header
        return "skip"

    with open_text_file(part.file) as stream:
        reader = pc_csv.open_csv(
            stream,
            read_options=pc_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
            parse_options=pc_csv.ParseOptions(
                delimiter=part.delimiter, newlines_in_values=True, invalid_row_handler=keep_invalid
            ),
            convert_options=pc_csv.ConvertOptions(column_types={name: pa.binary() for name in names}),
        )
        next_row, told = 0, 0
        for block in reader:
            invalid = {fault.row for fault in wrong}
            for start in range(0, block.num_rows, BATCH_ROWS):
                batch = pa.table(block.slice(start, BATCH_ROWS))
                rows, next_row = _number_rows(batch.num_rows, next_row, invalid)
                yield _decode(batch, rows, wrong[told:])
                told = len(wrong)
        if wrong[told:]:
            yield RawBatch(np.empty(0, dtype=np.int64), pa.table({}), wrong[told:])


def _number_rows(count: int, next_row: int, invalid: set[int | None]) -> tuple[np.ndarray, int]:
    """Assign numbers to `count` rows from `next_row` on, leaving out invalid ones."""
    if not invalid:
        return np.arange(next_row, next_row + count), next_row + count
    rows: list[int] = []
    while len(rows) < count:
        if next_row not in invalid:
            rows.append(next_row)
        next_row += 1
    return np.array(rows, dtype=np.int64), next_row


def _decode(table: pa.Table, rows: np.ndarray, faults: Sequence[Fault] = ()) -> RawBatch:
    """Turn binary and string columns into valid UTF-8; rows with a bad byte become faults."""
    bad: dict[int, str] = {}
    columns: dict[str, Any] = {}
    for name in table.column_names:
        columns[name] = _decode_column(name, table[name].combine_chunks(), bad)
    decoded = pa.table(columns)
    if not bad:
        return RawBatch(rows, decoded, list(faults))
    spoilt = [Fault(int(rows[i]), 1, "undecodable", detail) for i, detail in sorted(bad.items())]
    kept = np.ones(len(rows), dtype=bool)
    kept[list(bad)] = False
    return RawBatch(rows[kept], decoded.filter(pa.array(kept)), [*faults, *spoilt])


def _decode_column(name: str, column: Any, bad: dict[int, str]) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
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


def _check_nested(name: str, column: Any, bad: dict[int, str]) -> Any:
    """Mark the rows of a list or struct column that hold a string with a bad byte."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for index, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                bad[index] = f"column {name}: {error}"
    return column


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _decode_value(name: str, value: bytes | None, index: int, bad: dict[int, str]) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        bad[index] = f"column {name}: byte 0x{value[error.start]:02x} at {error.start}"  # type: ignore[index]
        return None


def _read_jsonl(part: SourcePart, columns: Sequence[str]) -> Iterator[RawBatch]:
    rows: list[int] = []
    objects: list[dict[str, Any]] = []
    faults: list[Fault] = []
    size = 0
    try:
        for row, line in _number_lines(part.file):
            parsed = _parse_line(row, line)
            if isinstance(parsed, Fault):
                faults.append(parsed)
            else:
                rows.append(row)
                objects.append(parsed)
            size += len(line)
            if len(rows) + len(faults) >= BATCH_ROWS or size >= BATCH_BYTES:
                yield _make_json_batch(rows, objects, faults, columns)
                rows, objects, faults, size = [], [], [], 0
    except Exception:
        # What came before a broken place is used.
        yield _make_json_batch(rows, objects, faults, columns)
        raise
    yield _make_json_batch(rows, objects, faults, columns)


def _number_lines(file: SourceFile) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 0; blank ones count but are left out."""
    rest, row = b"", 0
    with open_text_file(file) as stream:
        while True:
            block = stream.read(8 << 20)
            lines = (rest + block).split(b"\n")
            rest = lines.pop() if block else b""
            for line in lines:
                if line.strip():
                    yield row, line
                row += 1
            if not block:
                return


def _parse_line(row: int, line: bytes) -> dict[str, Any] | Fault:
    if row == 0:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        text = line.decode()
        value = json.loads(text)
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return Fault(row, 1, "undecodable", f"byte 0x{line[error.start]:02x} at {error.start}")
    except UnicodeEncodeError:
        return Fault(row, 1, "undecodable", "a JSON escape of half a surrogate pair")
    except (ValueError, RecursionError) as error:
        return Fault(row, 1, "invalid_json", _describe(error))
    if not isinstance(value, dict):
        return Fault(row, 1, "invalid_json", f"expected an object, found {type(value).__name__}")
    return value


def _make_json_batch(
    rows: list[int], objects: list[dict[str, Any]], faults: list[Fault], columns: Sequence[str]
) -> RawBatch:
    table = {name: pa.array([write_text(o.get(name)) for o in objects], pa.string()) for name in columns}
    return RawBatch(np.array(rows, dtype=np.int64), pa.table(table), faults, objects)


def write_text(value: Any) -> str | None:
    """Write a JSON value as the text that stands for it: strings as they are, numbers plain, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    return json.dumps(value, ensure_ascii=False, default=str)
