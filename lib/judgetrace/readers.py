"""Read parts of source files as batches, whatever their format; what can't be read becomes a fault.

Knows no column mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from judgetrace import batches
from judgetrace.batches import Fault, RawBatch, decode_table, describe_error, make_fault_batch
from judgetrace.corruption import is_corruption
from judgetrace.sources import COMPRESSIONS, SourceFile, SourcePart, open_parquet_file
from judgetrace.storage import naming
from judgetrace.text_files import HEADER_BYTES, open_text_file, parse_line, read_csv, read_csv_header, read_jsonl

PIECE_ROWS = 64
"""Rows of Parquet that are decoded at once: what the footer says of their size is that of the encoded ones."""


def read_part(part: SourcePart, columns: Sequence[str], with_others: bool = True) -> Iterator[RawBatch]:
    """Read a part. CSV gives all columns; JSONL gives `columns` as text, the rest in `objects`.

    Parquet gives `columns`, and all others where `with_others`: what is no text in those spoils no row.

    What can't be read any more becomes a last fault "unreadable"; for Parquet one for each row group. Raises StoreError
    for a store that can't be reached.
    """
    with naming(part.file.url, "read"):
        yield from _read_part(part, columns, with_others)


def _read_part(part: SourcePart, columns: Sequence[str], with_others: bool) -> Iterator[RawBatch]:
    if part.fault is not None:
        yield make_fault_batch(Fault(None, 1, "unreadable", part.fault))
    elif part.file.format == "parquet":
        yield from _read_parquet(part, columns, with_others)
    else:
        found = read_csv(part) if part.file.format == "csv" else read_jsonl(part, columns)
        try:
            yield from found
        except Exception as error:
            if not is_corruption(error):
                raise
            yield make_fault_batch(
                Fault(None, 1, "unreadable", f"{describe_error(error)}; the rest of the file was not read")
            )


def _read_parquet(part: SourcePart, columns: Sequence[str], with_others: bool) -> Iterator[RawBatch]:
    row = part.first_row
    for group in range(part.first_group, part.last_group):
        with open_parquet_file(part.file.url) as file:
            metadata = file.metadata.row_group(group)
            end = row + metadata.num_rows
            try:
                pieces = file.iter_batches(
                    batch_size=min(PIECE_ROWS, batches.BATCH_ROWS),
                    row_groups=[group],
                    columns=None if with_others else list(columns),
                    use_threads=False,
                )
                for batch in _join_pieces(pieces):
                    yield decode_table(batch, np.arange(row, row + batch.num_rows), needed=columns)
                    row += batch.num_rows
            except Exception as error:
                if not is_corruption(error):
                    raise
                yield make_fault_batch(
                    Fault(None, end - row, "unreadable", f"row group {group}: {describe_error(error)}")
                )
            row = end


def _join_pieces(pieces: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join pieces to batches of BATCH_ROWS or BATCH_BYTES as they are decoded; what comes before an error is given."""
    held: list[pa.Table] = []
    num_rows = num_bytes = 0
    try:
        for piece in pieces:
            held.append(_decode_dictionaries(piece))
            num_rows, num_bytes = num_rows + piece.num_rows, num_bytes + held[-1].nbytes
            if num_rows >= batches.BATCH_ROWS or num_bytes >= batches.BATCH_BYTES:
                yield pa.concat_tables(held)
                held, num_rows, num_bytes = [], 0, 0
    except Exception:
        if held:
            yield pa.concat_tables(held)
        raise
    if held:
        yield pa.concat_tables(held)


def _decode_dictionaries(piece: pa.RecordBatch) -> pa.Table:
    """Write out dictionary columns, whose values may be long and whose indices tell nothing of it."""
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in piece.columns]
    return pa.table(columns, names=piece.schema.names)


def is_head_whole(file: SourceFile) -> bool:
    """Tell whether the first bytes that `read_column_names` reads of a JSONL file are surely all."""
    return file.size_bytes < HEADER_BYTES and not file.url.lower().endswith(COMPRESSIONS)


def read_column_names(file: SourceFile, delimiter: str, quote: str = '"') -> list[str] | None:
    """Read the columns of a file; of JSONL the keys of its first lines. None for a text file without lines."""
    if file.format == "parquet":
        with open_parquet_file(file.url) as parquet:
            names: list[str] = parquet.schema_arrow.names
            return names
    if file.format == "csv":
        return read_csv_header(file, delimiter, quote) or None
    keys: dict[str, None] = {}
    with open_text_file(file) as stream:
        block = stream.read(HEADER_BYTES)
    for row, line in enumerate(block.split(b"\n")[: -1 if len(block) == HEADER_BYTES else None]):
        parsed = parse_line(row, line) if line.strip() else None
        keys |= dict.fromkeys(parsed) if isinstance(parsed, dict) else {}
    return list(keys) or None
