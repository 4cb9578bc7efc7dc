"""A 64-bit hash of strings, a column at a time: the same in every process and release, and not for secrets.

The bytes of a string are taken as little-endian words of 8, the last one padded with zeros; each word is mixed in by
a multiplication and a shift, the length last, as in Steele, Lea and Flood, "Fast splittable pseudorandom number
generators" (2014).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def hash_strings(strings: pa.Array) -> np.ndarray:
    """Hash strings [N] (no nulls) to uint64."""
    strings = strings.cast(pa.large_string())
    _, offsets_buffer, data_buffer = strings.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[strings.offset : strings.offset + len(strings) + 1]
    # Eight bytes more, so that a word may be read at the last byte, too.
    start, end = (int(offsets[0]), int(offsets[-1])) if len(strings) else (0, 0)
    data = np.zeros(end - start + 8, dtype=np.uint8)
    if end > start:
        data[:-8] = np.frombuffer(data_buffer, dtype=np.uint8)[start:end]
    words = np.ndarray(shape=(len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    begins, lengths = offsets[:-1] - start, np.diff(offsets)
    hashes = np.zeros(len(strings), dtype=np.uint64)
    for word in range(int(lengths.max(initial=0) + 7) // 8):
        rows = slice(None) if word * 8 < lengths.min() else np.flatnonzero(lengths > word * 8)
        left = np.minimum(lengths[rows] - word * 8, 8).astype(np.uint64)
        # Bytes past the end belong to the next string: shifted out.
        shift = (np.uint64(8) - left) * np.uint64(8)
        value = words[begins[rows] + word * 8] << shift >> shift
        hashes[rows] = mix(hashes[rows] ^ value)
    return mix(hashes ^ lengths.astype(np.uint64))


def mix(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 values: each of them changes about half of the result's."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return np.asarray(values ^ (values >> np.uint64(31)))
