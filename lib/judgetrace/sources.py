"""The source files of a corpus: which there are, their fingerprints, and the parts that tasks read.

Knows names, sizes and footers; what rows mean is the intake's matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate
from pydantic import BaseModel, ConfigDict, Field

from judgetrace.config import UserError
from judgetrace.corruption import is_corruption
from judgetrace.storage import naming, open_filesystem

Format = Literal["parquet", "csv", "jsonl"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
MAX_PART_ROWS = 250_000
MAX_PART_BYTES = 256 << 20
GUESSED_ROW_BYTES = 100
"""A row of a text file is taken to be this long where the number of rows only has to be guessed."""


class SourceConfig(BaseModel):
    """Where the labelled corpus lies."""

    model_config = ConfigDict(extra="forbid")

    paths: list[str] = Field(min_length=1, description="Files, folders or globs; local paths, s3:// or other URLs.")
    format: Literal["auto", "parquet", "csv", "jsonl"] = Field(
        default="auto", description="auto goes by the file name (.parquet, .csv, .tsv, .jsonl, .ndjson; also .gz etc.)."
    )
    layout: Literal["long", "wide"] = Field(
        default="long",
        description="long: a row is one annotation. wide: a row is one item with several labels (columns.labels).",
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="Of CSV; null: a tab in .tsv files, else a comma."
    )
    quote: str | None = Field(
        default=None,
        max_length=1,
        description="Of CSV: what a value with delimiters or line breaks stands in; null: the double quote. Empty: "
        "quotes are plain text, and a line is a row; for files that were not written as CSV, as many .tsv.",
    )
    on_corrupt_file: Literal["stop", "quarantine"] = Field(
        default="stop",
        description="stop: name files that can't be read, and end. quarantine: use what can be read of them.",
    )


@dataclass(frozen=True)
class SourceFile:
    """A source file; `fingerprint` changes when the file does."""

    url: str
    format: Format
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class SourcePart:
    """What one task reads: a whole text file, or row groups [first_group, last_group) of a Parquet file."""

    file: SourceFile
    file_index: int
    delimiter: str = ","
    quote: str = '"'  # empty: none
    first_group: int = 0
    last_group: int = 0
    first_row: int = 0
    num_rows: int | None = None  # null where only reading tells
    size_bytes: int = 0  # uncompressed where known
    fault: str | None = None  # why the file can't be opened


def list_source_files(config: SourceConfig) -> list[SourceFile]:
    """List the source files, sorted by URL. Raises UserError for a path that matches nothing, StoreError."""
    found: dict[str, SourceFile] = {}
    for path in config.paths:
        with naming(path, "listed"):
            for file in _expand_path(path, config.format):
                found[file.url] = file
    return [found[url] for url in sorted(found)]


def _expand_path(path: str, wanted: str) -> list[SourceFile]:
    filesystem, root = open_filesystem(path)
    if any(mark in root for mark in "*?["):
        found = _expand_glob(filesystem, root).items()
        infos = {
            name: info for name, info in found if info["type"] == "file" and not name.rpartition("/")[2].startswith(".")
        }
    elif filesystem.isdir(root):
        infos = {
            name: info
            for name, info in filesystem.find(root, detail=True).items()
            if _guess_format(name) and not _is_hidden(name.removeprefix(root))
        }
    elif filesystem.exists(root):
        infos = {root: filesystem.info(root)}
    else:
        infos = {}
    if not infos:
        raise UserError(
            f"source.paths: {path}: no such file, or no data file in it\n"
            f"expected: files that end in {', '.join(SUFFIXES)} (or these with {', '.join(COMPRESSIONS)})"
        )
    return [_describe_file(filesystem.unstrip_protocol(name), name, info, wanted) for name, info in infos.items()]


def _expand_glob(filesystem: Any, pattern: str) -> dict[str, Any]:
    """List what a glob matches, with details."""
    if isinstance(filesystem, LocalFileSystem):
        return dict(filesystem.glob(pattern, detail=True))
    # fsspec's own glob lists folder by folder, and takes one whose listing fails for an empty one.
    root = pattern[: min(pattern.index(mark) for mark in "*?[" if mark in pattern)].rpartition("/")[0]
    matches = re.compile(glob_translate(pattern)).match
    return {name: info for name, info in filesystem.find(root, detail=True).items() if matches(name)}


def _is_hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/") if part)


def _guess_format(name: str) -> Format | None:
    stem = name.lower()
    for suffix in COMPRESSIONS:
        stem = stem.removesuffix(suffix)
    return next((kind for suffix, kind in SUFFIXES.items() if stem.endswith(suffix)), None)


def _describe_file(url: str, name: str, info: dict[str, Any], wanted: str) -> SourceFile:
    kind: Any = _guess_format(name) if wanted == "auto" else wanted
    if kind is None:
        raise UserError(f"{url}: can't tell the format from the name; give --source.format=parquet, csv or jsonl")
    version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return SourceFile(url, kind, int(info.get("size") or 0), f"{info.get('size')}-{str(version).strip(chr(34))}")


def plan_parts(files: Sequence[SourceFile], delimiter: str | None = None, quote: str | None = None) -> list[SourcePart]:
    """Cut source files into parts, in order of files and rows; reads the footers of Parquet files."""
    quote_char = '"' if quote is None else quote
    with ThreadPoolExecutor(max_workers=16) as pool:
        planned = pool.map(lambda pair: _plan_file(pair[1], pair[0], delimiter, quote_char), enumerate(files))
        return [part for parts in planned for part in parts]


def _plan_file(file: SourceFile, index: int, delimiter: str | None, quote: str) -> list[SourcePart]:
    if file.format != "parquet":
        mark = delimiter or ("\t" if ".tsv" in file.url.lower() else ",")
        return [SourcePart(file, index, mark, quote, size_bytes=file.size_bytes)]
    try:
        with naming(file.url, "read"), open_parquet_file(file.url) as parquet:
            metadata = parquet.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    except Exception as error:
        if not is_corruption(error):
            raise
        return [SourcePart(file, index, size_bytes=file.size_bytes, fault=str(error))]
    return list(_join_groups(file, index, sizes))


def _join_groups(file: SourceFile, index: int, sizes: list[tuple[int, int]]) -> Iterable[SourcePart]:
    first = first_row = 0
    while first < len(sizes):
        last, rows, size = first + 1, *sizes[first]
        while last < len(sizes):
            more_rows, more_bytes = sizes[last]
            if rows + more_rows > MAX_PART_ROWS or size + more_bytes > MAX_PART_BYTES:
                break
            last, rows, size = last + 1, rows + more_rows, size + more_bytes
        yield SourcePart(
            file, index, first_group=first, last_group=last, first_row=first_row, num_rows=rows, size_bytes=size
        )
        first, first_row = last, first_row + rows


def open_parquet_file(url: str) -> pq.ParquetFile:
    """Open a Parquet file by URL."""
    filesystem, path = open_filesystem(url)
    return pq.ParquetFile(filesystem.open(path, "rb"), page_checksum_verification=True)


def estimate_rows(parts: Sequence[SourcePart], row_bytes: float = GUESSED_ROW_BYTES) -> int:
    """Estimate the number of rows: exact for Parquet, from sizes and a row's bytes for text files."""
    return sum(estimate_bytes([p]) // max(int(row_bytes), 1) if p.num_rows is None else p.num_rows for p in parts)


def estimate_bytes(parts: Sequence[SourcePart]) -> int:
    """Estimate the uncompressed bytes: five-fold for compressed text files."""
    return sum(part.size_bytes * (5 if part.file.url.lower().endswith(COMPRESSIONS) else 1) for part in parts)
