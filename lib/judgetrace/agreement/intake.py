"""Read annotations of people and raters, whatever table they lie in, into one form.

A source is one of: a corpus' annotations, its items (groups, splits, slices), a run of rate_items, a long table. Only
the columns that are needed are read. Rows that can't be used are counted by reason, with examples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from judgetrace.agreement.rating_codes import NO_RATING, OFF_SCALE, RatingCodes
from judgetrace.agreement.survey import MAX_EXAMPLES, Survey, check_slice
from judgetrace.columns import as_text, is_blank
from judgetrace.config import UserError
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourcePart
from judgetrace.storage import naming, open_filesystem, parsing

Kind = Literal["human", "rater", "items"]

ROWS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("source", pa.int16()),  # index into the plan's sources
        ("who", pa.string()),  # annotator or rater; "" where nobody is named; null in rows of items
        ("code", pa.int32()),  # a code of judgetrace.agreement.rating_codes; NO_RATING where the rater gave none
        ("group", pa.string()),  # null where this row does not tell
    ]
)
"""One row an annotation, or an item's facts; the slice columns follow."""


@dataclass(frozen=True)
class Source:
    """Where rows come from, and which column holds what (null: there is none)."""

    name: str
    kind: Kind
    item_id: str = "item_id"
    who: str | None = "annotator_id"
    label: str | None = "label"
    rating: str | None = None
    dimension: str | None = "dimension"
    outcome: str | None = None
    group: str | None = None
    slices: tuple[tuple[str, str], ...] = ()  # (name of the slice, column)
    extra: tuple[str, ...] = ()  # keys of the JSON column `extra`
    constant: str = ""  # who, where there is no column
    dimensions: tuple[str, ...] = ()  # of a run of ratings: those that it asked about alone; none: all

    def name_columns(self) -> list[str]:
        """List the columns to read."""
        named = [self.item_id, self.who, self.label, self.rating, self.dimension, self.outcome, self.group]
        named += [*(column for _, column in self.slices), "extra" if self.extra else None]
        return list(dict.fromkeys(column for column in named if column))

    def name_repetitive(self) -> list[str]:
        """List the columns whose values repeat: they are read as dictionaries."""
        named = [self.who, self.label, self.dimension, self.outcome, self.group]
        return [column for column in named if column]


@dataclass(frozen=True)
class IntakeRules:
    """What all map tasks share."""

    scales: ScaleConfig
    slices: tuple[str, ...] = ()
    max_slice_values: int = 50

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows: ROWS and a column for each slice."""
        return pa.schema([*ROWS, *((f"slice:{name}", pa.string()) for name in self.slices)])


def read_source(part: SourcePart, source: Source) -> pa.Table:
    """Read the needed columns of a part. Raises UserError where one is missing, CorruptFileError, StoreError."""
    url = part.file.url
    filesystem, path = open_filesystem(url)
    with naming(url, "read"), parsing(url), filesystem.open(path, "rb") as stream:
        schema = pq.read_schema(stream)
        missing = [name for name in source.name_columns() if name not in schema.names]
        if missing:
            raise UserError(
                f"{url}: no column {missing[0]!r}; found: {schema.names}\n"
                f"set the mapping of {source.name} to the columns that are there"
            )
        texts = [name for name in source.name_repetitive() if pa.types.is_string(schema.field(name).type)]
        file = pq.ParquetFile(stream, read_dictionary=texts, page_checksum_verification=True)
        groups = list(range(part.first_group, part.last_group))
        return file.read_row_groups(groups, columns=source.name_columns(), use_threads=False)


def encode_column(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, list[str]]:
    """Encode a column as int64 codes (-1 for null) and its distinct values as text."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return codes, [str(value) for value in encoded.dictionary.to_pylist()]


def encode_items(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Encode item ids (no nulls) as int64 codes and their distinct values."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


@dataclass(frozen=True)
class Origin:
    """Where a table comes from."""

    source: Source
    index: int  # of the source
    url: str = ""


@dataclass(frozen=True)
class _Codes:
    """The columns of a table as numbers; -1 for null."""

    dimension: np.ndarray
    dimensions: list[str]
    who: np.ndarray
    names: list[str]
    rating: np.ndarray  # rating codes, NO_RATING, OFF_SCALE


def admit_rows(table: pa.Table, origin: Origin, rules: IntakeRules, survey: Survey) -> pa.Table:
    """Turn a source's table into rows (schema of `rules`), and count into `survey`."""
    source, size = origin.source, len(table)
    if source.kind == "items":
        return _admit_items(table, origin, rules, survey)
    survey.rows += size
    dimension, dimensions = _encode_or(table, source.dimension, "")
    who, names = _encode_or(table, source.who, source.constant)
    found = [rules.scales.of(name) for name in dimensions]
    scales = [None if scale is None else RatingCodes(scale) for scale in found]
    rating = np.full(size, NO_RATING, dtype=np.int64)
    for code, codes in enumerate(scales):
        rows = np.flatnonzero(dimension == code)
        if codes is not None:
            chosen = table if len(rows) == size else table.take(pa.array(rows))
            rating[rows] = _encode_ratings(chosen, source, codes)
    coded = _Codes(dimension, dimensions, who, names, rating)
    reasons = _find_unusable(table, source, coded, scales)
    _count_unusable(table, origin, reasons, survey)
    usable = reasons == 0
    if source.kind == "rater":
        rating[reasons == _OFF_SCALE] = NO_RATING
        usable |= reasons == _OFF_SCALE
    _count_who(coded, usable, origin, survey)
    if source.kind == "rater":
        _count_missing(table, coded, reasons, origin, survey)
    columns = {
        "item_id": table[source.item_id].cast(pa.string()),
        "dimension": _decode(dimension, dimensions),
        "source": pa.array(np.full(size, origin.index, dtype=np.int16)),
        "who": _decode(who, names),
        "code": pa.array(rating.astype(np.int32)),
        "group": _read_groups(table, source),
    }
    columns |= _read_slices(table, source, rules, survey)
    rows = pa.table(columns, schema=rules.schema)
    return rows if usable.all() else rows.filter(pa.array(usable))


_OFF_SCALE, _BETWEEN_LEVELS, _NO_ITEM, _NO_LABEL, _NO_SCALE, _NO_NAME = 1, 2, 3, 4, 5, 6
_REASONS = {
    _OFF_SCALE: "off_scale",
    _BETWEEN_LEVELS: "between_levels",
    _NO_ITEM: "missing_item_id",
    _NO_LABEL: "missing_label",
    _NO_SCALE: "no_scale",
    _NO_NAME: "missing_annotator_id",
}


def _encode_or(table: pa.Table, column: str | None, constant: str) -> tuple[np.ndarray, list[str]]:
    if column is None:
        return np.zeros(len(table), dtype=np.int64), [constant]
    return encode_column(table[column])


def _decode(codes: np.ndarray, values: list[str]) -> pa.Array:
    indices = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string())).cast(pa.string())


def _encode_ratings(table: pa.Table, source: Source, codes: RatingCodes) -> np.ndarray:
    """Encode a table's ratings: the number where there is one and the scale has an order, else the label."""
    if source.rating is not None and codes.scale.type != "nominal":
        return codes.encode_numbers(_read_floats(table[source.rating]))
    assert source.label is not None
    column = table[source.label]
    # A number among words is no position: who codes none, mild, severe may begin with 0 or with 1.
    takes_numbers = codes.scale.type != "nominal" and codes.scale.is_numeric
    is_floating = pa.types.is_floating(column.type)
    if takes_numbers and (is_floating or pa.types.is_integer(column.type)):
        return codes.encode_numbers(_read_floats(column))
    index, labels = encode_column(as_text(column.combine_chunks()) if is_floating else column)
    found = codes.encode_labels(labels)
    if takes_numbers:
        numbers = pd.to_numeric(pd.Series(labels, dtype=object), errors="coerce").to_numpy(dtype=float)
        between = codes.encode_numbers(numbers)
        found = np.where((found == OFF_SCALE) & ~np.isnan(numbers), between, found)
    return np.asarray(np.append(found, NO_RATING)[index])


def _read_floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _find_unusable(table: pa.Table, source: Source, coded: _Codes, scales: list[RatingCodes | None]) -> np.ndarray:
    """Find why rows can't be used [N]: 0 where they can."""
    reasons = np.zeros(len(table), dtype=np.int64)
    if source.kind == "human":
        levels = np.array([0 if scale is None else scale.num_levels for scale in [*scales, None]])
        reasons[coded.rating >= levels[coded.dimension]] = _BETWEEN_LEVELS
        reasons[coded.rating == NO_RATING] = _NO_LABEL
    reasons[coded.rating == OFF_SCALE] = _OFF_SCALE
    unknown = [code for code, scale in enumerate(scales) if scale is None]
    reasons[np.isin(coded.dimension, unknown) | (coded.dimension < 0)] = _NO_SCALE
    reasons[coded.who < 0] = _NO_NAME
    if table[source.item_id].null_count:
        reasons[pc.is_null(table[source.item_id]).to_numpy()] = _NO_ITEM
    return reasons


def _count_unusable(table: pa.Table, origin: Origin, reasons: np.ndarray, survey: Survey) -> None:
    faulty = np.flatnonzero(reasons)
    if not len(faulty):
        return
    found, counts = np.unique(reasons[faulty], return_counts=True)
    survey.unusable.update({_REASONS[int(r)]: int(c) for r, c in zip(found, counts, strict=True)})
    told = faulty[: MAX_EXAMPLES - len(survey.examples)]
    source = origin.source
    label = source.rating or source.label
    for row, reason in zip(table.take(pa.array(told)).to_pylist(), reasons[told].tolist(), strict=True):
        said = f"{origin.url}: item {row[source.item_id]!r}: {_REASONS[reason]} {row[label]!r}"
        survey.examples.append(said[:300])


def _count_who(coded: _Codes, usable: np.ndarray, origin: Origin, survey: Survey) -> None:
    width = max(len(coded.names), 1)
    totals = np.bincount((coded.dimension * width + coded.who)[usable])
    for key in np.flatnonzero(totals).tolist():
        dimension, who = divmod(key, width)
        if origin.source.kind == "human":
            survey.annotators[coded.dimensions[dimension], coded.names[who]] += int(totals[key])
        else:
            survey.raters[origin.index, coded.names[who]] += int(totals[key])


def _count_missing(table: pa.Table, coded: _Codes, reasons: np.ndarray, origin: Origin, survey: Survey) -> None:
    """Count a rater's rows without a rating, by outcome."""
    missing = np.flatnonzero((coded.rating == NO_RATING) & np.isin(reasons, (0, _OFF_SCALE)))
    column = origin.source.outcome
    outcomes = [None] * len(missing)
    if column is not None and len(missing):
        outcomes = table[column].take(pa.array(missing)).cast(pa.string()).to_pylist()
    for row, outcome in zip(missing.tolist(), outcomes, strict=True):
        why = _REASONS[_OFF_SCALE] if reasons[row] else outcome or "no rating"
        dimension, who = coded.dimensions[coded.dimension[row]], coded.names[coded.who[row]]
        survey.without_rating[dimension, origin.index, who, why] += 1


def _read_groups(table: pa.Table, source: Source) -> pa.Array:
    """Read the groups; a blank one is null, as in prepare_corpus: else all items without a group would be one."""
    if source.group is None:
        return pa.nulls(len(table), pa.string())
    groups = as_text(table[source.group].combine_chunks())
    return pc.if_else(pa.array(is_blank(groups)), None, groups)


def _read_slices(table: pa.Table, source: Source, rules: IntakeRules, survey: Survey) -> dict[str, pa.Array]:
    own = dict(source.slices)
    extra = _read_extra(table["extra"], source.extra, survey.extra_keys) if source.extra else {}
    columns = {}
    for name in rules.slices:
        column = extra.get(name, pa.nulls(len(table), pa.string()))
        if name in own:
            column = table[own[name]].cast(pa.string())
        columns[f"slice:{name}"] = column
        values = {value for value in pc.unique(column).to_pylist() if value is not None}
        survey.slice_values.setdefault(name, set()).update(values)
        check_slice(name, survey.slice_values[name], rules.max_slice_values)
    return columns


def _read_extra(texts: pa.ChunkedArray, names: tuple[str, ...], known: set[str]) -> dict[str, pa.Array]:
    """Read some keys of JSON objects, as text; adds the keys that there are to `known`."""
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for text in texts.to_pylist():
        found: dict[str, Any] = json.loads(text) if text else {}
        known.update(found)
        for name, values in columns.items():
            value = found.get(name)
            values.append(value if value is None or isinstance(value, str) else json.dumps(value))
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}


def _admit_items(table: pa.Table, origin: Origin, rules: IntakeRules, survey: Survey) -> pa.Table:
    source, size = origin.source, len(table)
    assert source.dimension is not None, "a corpus' items have dimensions"
    columns = {
        "item_id": table[source.item_id],
        "dimension": table[source.dimension].cast(pa.string()),
        "source": pa.array(np.full(size, origin.index, dtype=np.int16)),
        "who": pa.nulls(size, pa.string()),
        "code": pa.array(np.full(size, NO_RATING, dtype=np.int32)),
        "group": _read_groups(table, source),
    }
    columns |= _read_slices(table, source, rules, survey)
    return pa.table(columns, schema=rules.schema)
