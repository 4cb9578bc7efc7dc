"""Read CSV and JSONL files, compressed or not, as batches. Rows are numbered from 0; a CSV header does not count.

A row that can't be read becomes a fault of its own. Knows no column mapping.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
from fsspec.utils import infer_compression

from judgetrace import batches
from judgetrace.batches import FIRST_ESCAPE, Fault, RawBatch, decode_table, describe_error, write_text
from judgetrace.config import UserError
from judgetrace.corruption import is_corruption
from judgetrace.sources import COMPRESSIONS, SourceFile, SourcePart
from judgetrace.storage import naming

CSV_BLOCK_BYTES = 32 << 20
END_MARK = "judgetrace_end_of_file"
"""Ends what the CSV reader is given, in a row of its own: where it is part of another, a quote is still open."""
HEADER_BYTES = 256 << 10
MAX_MEASURED_FILES = 16
HINT = "where quotes are plain text, set source.quote = ''"


def open_text_file(file: SourceFile) -> IO[bytes]:
    """Open a text file for reading bytes, decompressed by its name's suffix. Raises UserError where it can't be."""
    if file.url.lower().endswith(".zst"):
        # Arrow's: fsspec needs a package more, with which a file that was cut off looks whole.
        raw = fsspec.open(file.url, "rb", compression=None).open()
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"))
    if file.url.lower().endswith(COMPRESSIONS) and infer_compression(file.url) is None:
        raise UserError(f"{file.url}: this Python was built without what decompresses it; give the file decompressed")
    opened: IO[bytes] = fsspec.open(file.url, "rb", compression="infer").open()
    return opened


def _escape_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(FIRST_ESCAPE + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("judgetrace.escape", _escape_bytes)


class EscapedStream(io.RawIOBase):
    """A stream of bytes made valid UTF-8: other bytes become private characters, so that a CSV reader bears them.

    `tail` comes after the stream's own bytes.
    """

    def __init__(self, stream: IO[bytes], tail: bytes = b"") -> None:
        self._stream, self._tail = stream, tail
        self._decoder = codecs.getincrementaldecoder("utf-8")("judgetrace.escape")
        self._pending = b""
        self._ended = False
        self.has_escapes = False

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or what is left; a CSV reader takes what is handed over at once for a block."""
        while not self._ended and (size < 0 or len(self._pending) < size):
            block = self._stream.read(size)
            self._ended = not block
            added = self._decoder.decode(block, final=self._ended).encode()
            self.has_escapes |= b"\xf4\x8f" in added
            self._pending += added + self._tail if self._ended else added
        size = len(self._pending) if size < 0 else size
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken


def read_csv_header(file: SourceFile, delimiter: str, quote: str = '"') -> list[str]:
    """Read the column names of a CSV file, which may have line breaks in quotes; none of a file without a line."""
    with open_text_file(file) as stream:
        block = stream.read(HEADER_BYTES)
    if not block.removeprefix(codecs.BOM_UTF8).strip(b"\r\n"):
        return []
    head = EscapedStream(io.BytesIO(block), tail=b"\n")
    # Escaping makes four bytes of one at most. What is cut off at the end of the block is no matter here.
    names: list[str] = pc_csv.open_csv(
        head,
        read_options=pc_csv.ReadOptions(use_threads=False, block_size=4 * HEADER_BYTES + 1),
        parse_options=_make_parse_options(delimiter, quote, lambda _: "skip"),
    ).schema.names
    return names


def _make_parse_options(delimiter: str, quote: str, handle_invalid: Callable[[Any], str]) -> pc_csv.ParseOptions:
    return pc_csv.ParseOptions(
        delimiter=delimiter,
        quote_char=quote or False,
        newlines_in_values=bool(quote),
        invalid_row_handler=handle_invalid,
    )


def read_csv(part: SourcePart) -> Iterator[RawBatch]:
    """Read a CSV file with all its columns, as text."""
    names = read_csv_header(part.file, part.delimiter, part.quote)
    if not names:
        return
    if len(set(names)) < len(names):
        raise UserError(f"{part.file.url}: a column name occurs twice: {names}; rename one of them")
    end_row = part.delimiter.join([END_MARK] * (len(names) + 1))
    wrong: list[Fault] = []

    def keep_invalid(row: Any) -> str:
        if row.text.strip("\r\n") != end_row:
            wrong.append(_describe_invalid_row(row, end_row))
        return "skip"

    with open_text_file(part.file) as raw:
        stream = EscapedStream(raw, f"\n{end_row}\n".encode())
        reader = pc_csv.open_csv(
            stream,
            read_options=pc_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
            parse_options=_make_parse_options(part.delimiter, part.quote, keep_invalid),
            convert_options=pc_csv.ConvertOptions(column_types={name: pa.binary() for name in names}),
        )
        next_row, told = 0, 0
        for block, open_lines in _split_open_rows(reader, end_row):
            invalid = {fault.row for fault in wrong}
            for start in range(0, block.num_rows, batches.BATCH_ROWS):
                batch = pa.table(block.slice(start, batches.BATCH_ROWS))
                rows, next_row = _number_rows(batch.num_rows, next_row, invalid)
                # Taken before the batch is handed over: the reader goes on meanwhile, and finds more.
                found, told = wrong[told:], len(wrong)
                yield decode_table(batch, rows, found, stream.has_escapes)
            if open_lines:
                (last,), next_row = _number_rows(1, next_row, invalid)
                wrong.append(Fault(int(last), open_lines, "invalid_row", _describe_open_quote(open_lines)))
        if wrong[told:]:
            yield RawBatch(np.empty(0, dtype=np.int64), pa.table({}), wrong[told:])


def _split_open_rows(reader: Iterable[pa.RecordBatch], end_row: str) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield blocks of rows, each with 0; a last row whose quote is open is taken off, and its lines are counted."""
    for block in _name_long_rows(reader):
        last = (block.column(block.num_columns - 1)[-1].as_py() or b"").decode() if block.num_rows else ""
        if last.rstrip("\n").endswith(end_row):
            yield block.slice(0, block.num_rows - 1), _count_lines(last, end_row)
        else:
            yield block, 0


def _name_long_rows(reader: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield blocks; says what a row means that is longer than a block."""
    try:
        yield from reader
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        found = f"a row is longer than {CSV_BLOCK_BYTES} bytes: a quote that is not closed?"
        raise pa.ArrowInvalid(f"{found} {HINT}") from error


def _count_lines(text: str, end_row: str) -> int:
    return text.rstrip("\n").removesuffix(end_row).strip("\r\n").count("\n") + 1


def _describe_open_quote(num_lines: int) -> str:
    return f"a quote that is still open at the end of the file, over {num_lines} line(s); {HINT}"


def _describe_invalid_row(row: Any, end_row: str) -> Fault:
    """Make the fault of a row with too few or too many columns.

    One that runs over several lines stands for all of them: a quote that is never closed swallows rows.
    """
    num_lines = _count_lines(row.text, end_row)
    detail = f"expected {row.expected_columns} columns, found {row.actual_columns}"
    if row.text.rstrip("\r\n").endswith(end_row):
        detail += f": {_describe_open_quote(num_lines)}"
    elif num_lines > 1:
        detail += f", over {num_lines} lines: a quote that is not closed? {HINT}"
    return Fault(row.number - 2, num_lines, "invalid_row", detail)  # numbers count from 1 and count the header


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


def measure_row_bytes(files: Sequence[SourceFile]) -> float | None:
    """Measure how long a row is, by the lines that some files begin with; None where none can be read.

    Line breaks within quotes count as ends of rows.
    """
    num_bytes = num_lines = 0
    for file in files[:: max(len(files) // MAX_MEASURED_FILES, 1)]:
        try:
            with naming(file.url, "read"), open_text_file(file) as stream:
                head = stream.read(HEADER_BYTES)
        except Exception as error:
            if not is_corruption(error):
                raise
            continue
        num_bytes, num_lines = num_bytes + len(head), num_lines + head.count(b"\n")
    return num_bytes / max(num_lines, 1) if num_bytes else None


def read_jsonl(part: SourcePart, columns: Sequence[str]) -> Iterator[RawBatch]:
    """Read a JSONL file: some columns as text, and the whole objects."""
    rows: list[int] = []
    objects: list[dict[str, Any]] = []
    faults: list[Fault] = []
    size = 0
    try:
        for row, line in _number_lines(part.file):
            parsed = parse_line(row, line)
            if isinstance(parsed, Fault):
                faults.append(parsed)
            else:
                rows.append(row)
                objects.append(parsed)
            size += len(line)
            if len(rows) + len(faults) >= batches.BATCH_ROWS or size >= batches.BATCH_BYTES:
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


def parse_line(row: int, line: bytes) -> dict[str, Any] | Fault:
    """Parse a line of JSONL into its object, or say what is wrong with it."""
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
        return Fault(row, 1, "invalid_json", describe_error(error))
    if not isinstance(value, dict):
        return Fault(row, 1, "invalid_json", f"expected an object, found {type(value).__name__}")
    return value


def _make_json_batch(
    rows: list[int], objects: list[dict[str, Any]], faults: list[Fault], columns: Sequence[str]
) -> RawBatch:
    table = {name: pa.array([write_text(o.get(name)) for o in objects], pa.string()) for name in columns}
    return RawBatch(np.array(rows, dtype=np.int64), pa.table(table), faults, objects)
