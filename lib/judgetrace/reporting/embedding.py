"""Pack records into what a page can hold: an index of facets and chunks of records, each gzip in base64. Pure.

Chunks are independent: the page unpacks those that it shows, or all in turn when it searches.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from judgetrace.reporting.trace_records import FACETS, NOISE, RATIONALE, Records
from judgetrace.schema import UnitKey

CHUNK_RECORDS = 250
_LEVEL = 7
_AT_ONCE = 8
"""Chunks that are compressed beside each other."""


@dataclass(frozen=True)
class Packed:
    """What the page embeds."""

    index: str
    chunks: tuple[str, ...]
    num_records: int

    @property
    def megabytes(self) -> float:
        """Its size in the page."""
        return (len(self.index) + sum(map(len, self.chunks))) / 1e6


def pack_records(found: Records, noise: set[UnitKey], max_megabytes: float) -> Packed:
    """Pack as many records, from the first on, as `max_megabytes` hold, in whole chunks but at least one."""
    chunks: list[str] = []
    size = 0
    slices = (found.records[n : n + CHUNK_RECORDS] for n in range(0, len(found), CHUNK_RECORDS))
    with ThreadPoolExecutor(2) as pool:
        for group in _group(slices, _AT_ONCE):
            for chunk in pool.map(encode, group):
                if chunks and size + len(chunk) > max_megabytes * 1e6:
                    return _finish(found, noise, chunks)
                chunks.append(chunk)
                size += len(chunk)
    return _finish(found, noise, chunks)


def _group(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _finish(found: Records, noise: set[UnitKey], chunks: Sequence[str]) -> Packed:
    count = min(len(found), len(chunks) * CHUNK_RECORDS)
    return Packed(encode(make_index(found, noise, count)), tuple(chunks), count)


def make_index(found: Records, noise: set[UnitKey], count: int) -> dict[str, Any]:
    """Make the index of the first `count` records: for each facet its values and their codes, and flags."""
    facets = {}
    for name in FACETS:
        values = found.facets[name][:count]
        names = sorted(set(values))
        code = {value: number for number, value in enumerate(names)}
        facets[name] = {"names": names, "codes": [code[value] for value in values]}
    flags = [
        NOISE * (key in noise) + RATIONALE * bool(record[9])
        for key, record in zip(found.keys[:count], found.records, strict=False)
    ]
    return {"count": count, "chunk": CHUNK_RECORDS, "facets": facets, "flags": flags}


def encode(value: Any) -> str:
    """Encode a JSON value as base64 of gzip, the same on every run."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can escape it
        text = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(text, _LEVEL, mtime=0)).decode("ascii")
