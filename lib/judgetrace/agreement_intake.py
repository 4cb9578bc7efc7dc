"""Read annotations of people and raters, whatever table they lie in, into one form; count who said how much.

A source is one of: a corpus' annotations, its items (groups, splits, slices), a run of rate_items, a long table. Only
the columns that are needed are read. Rows that can't be used are counted by reason, with examples.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from judgetrace.config import UserError
from judgetrace.rating_codes import NO_RATING, OFF_SCALE, RatingCodes
from judgetrace.scale import ScaleConfig
from judgetrace.schema import TARGET_AGGREGATE
from judgetrace.sources import SourcePart
from judgetrace.storage import open_filesystem

Kind = Literal["human", "rater", "items"]
MAX_EXAMPLES = 5

ROWS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("source", pa.int16()),  # index into the plan's sources
        ("who", pa.string()),  # annotator or rater; "" where nobody is named; null in rows of items
        ("target_source", pa.string()),  # null but for rater rows about one annotator's label
        ("code", pa.int32()),  # a code of judgetrace.rating_codes; NO_RATING where the rater gave none
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
    target_source: str | None = None
    outcome: str | None = None
    group: str | None = None
    slices: tuple[tuple[str, str], ...] = ()  # (name of the slice, column)
    extra: tuple[str, ...] = ()  # keys of the JSON column `extra`
    constant: str = ""  # who, where there is no column

    def name_columns(self) -> list[str]:
        """List the columns to read."""
        named = [self.item_id, self.who, self.label, self.rating, self.dimension, self.target_source, self.outcome]
        named += [self.group, *(column for _, column in self.slices), "extra" if self.extra else None]
        return list(dict.fromkeys(column for column in named if column))

    def name_repetitive(self) -> list[str]:
        """List the columns whose values repeat: they are read as dictionaries."""
        named = [self.who, self.label, self.dimension, self.target_source, self.outcome, self.group]
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


@dataclass
class Survey:
    """Who said how much; adds over tasks."""

    rows: int = 0
    annotators: Counter[tuple[str, str]] = field(default_factory=Counter)  # (dimension, annotator) -> labels
    raters: Counter[tuple[int, str]] = field(default_factory=Counter)  # (source, rater) -> rows
    without_rating: Counter[tuple[str, int, str, str]] = field(default_factory=Counter)  # (dim, source, rater, why)
    per_annotator: set[tuple[int, str]] = field(default_factory=set)  # raters with rows about one annotator's label
    unusable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    slice_values: dict[str, set[str]] = field(default_factory=dict)
    items: int = 0

    def add(self, other: Survey) -> None:
        """Add the survey of another task."""
        self.rows += other.rows
        self.items += other.items
        self.annotators.update(other.annotators)
        self.raters.update(other.raters)
        self.without_rating.update(other.without_rating)
        self.per_annotator |= other.per_annotator
        self.unusable.update(other.unusable)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]
        for name, values in other.slice_values.items():
            self.slice_values.setdefault(name, set()).update(values)


def read_source(part: SourcePart, source: Source) -> pa.Table:
    """Read the needed columns of a part. Raises UserError where one is missing."""
    filesystem, path = open_filesystem(part.file.url)
    with filesystem.open(path, "rb") as stream:
        file = pq.ParquetFile(stream, read_dictionary=source.name_repetitive())
        missing = [name for name in source.name_columns() if name not in file.schema_arrow.names]
        if missing:
            raise UserError(
                f"{part.file.url}: no column {missing[0]!r}; found: {file.schema_arrow.names}\n"
                f"set the mapping of {source.name} to the columns that are there"
            )
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


def admit_rows(
    table: pa.Table, source: Source, index: int, rules: IntakeRules, survey: Survey, where: str = ""
) -> pa.Table:
    """Turn a source's table into rows (schema of `rules`), and count into `survey`."""
    if source.kind == "items":
        return _admit_items(table, source, index, rules, survey)
    size = len(table)
    survey.rows += size
    dimension_codes, dimensions = _encode_or(table, source.dimension, "")
    who_codes, names = _encode_or(table, source.who, source.constant)
    scales = {code: _find_scale(rules.scales, name, where) for code, name in enumerate(dimensions)}
    codes = np.full(size, NO_RATING, dtype=np.int64)
    for code, scale_codes in scales.items():
        rows = np.flatnonzero(dimension_codes == code)
        codes[rows] = _encode_ratings(table, source, scale_codes, rows, len(scales) == 1)
    reasons = _find_unusable(table, source, (dimension_codes, who_codes, codes), scales)
    _count_unusable(table, source, reasons, survey, where)
    usable = reasons == 0
    if source.kind == "rater":
        codes[reasons == _OFF_SCALE] = NO_RATING
        usable |= reasons == _OFF_SCALE
    _count_who((dimension_codes, dimensions), (who_codes, names), (codes, usable), source, index, survey)
    targets = _read_target_sources(table, source)
    if source.kind == "rater" and targets is not None:
        about = np.flatnonzero(pc.is_valid(targets).to_numpy(zero_copy_only=False))
        survey.per_annotator |= {(index, names[code]) for code in np.unique(who_codes[about])}
        _count_missing(table, source, index, (dimension_codes, dimensions), (who_codes, names), codes, survey)
    elif source.kind == "rater":
        _count_missing(table, source, index, (dimension_codes, dimensions), (who_codes, names), codes, survey)
    columns = {
        "item_id": table[source.item_id].cast(pa.string()),
        "dimension": _decode(dimension_codes, dimensions),
        "source": pa.array(np.full(size, index, dtype=np.int16)),
        "who": _decode(who_codes, names),
        "target_source": pa.nulls(size, pa.string()) if targets is None else targets,
        "code": pa.array(codes.astype(np.int32)),
        "group": pa.nulls(size, pa.string()) if source.group is None else table[source.group].cast(pa.string()),
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


def _find_scale(scales: ScaleConfig, dimension: str, where: str) -> RatingCodes | None:
    scale = scales.of(dimension)
    return None if scale is None else RatingCodes(scale)


def _encode_ratings(
    table: pa.Table, source: Source, codes: RatingCodes | None, rows: np.ndarray, is_all: bool
) -> np.ndarray:
    """Encode the ratings of some rows: the number where there is one and the scale has an order, else the label."""
    if codes is None:
        return np.full(len(rows), NO_RATING, dtype=np.int64)
    chosen = table if is_all else table.take(pa.array(rows))
    if source.rating is not None and codes.scale.type != "nominal":
        return codes.encode_numbers(_read_floats(chosen[source.rating]))
    assert source.label is not None
    column = chosen[source.label]
    is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    if is_number and codes.scale.type != "nominal":
        return codes.encode_numbers(_read_floats(column))
    label_codes, labels = encode_column(column)
    if codes.scale.type == "nominal" or all(codes.scale.find_level(label) is not None for label in labels):
        levels = codes.encode_labels(labels)
    else:
        numbers = pd.to_numeric(pd.Series(labels, dtype=object), errors="coerce").to_numpy(dtype=float)
        levels = np.where(np.isnan(numbers), OFF_SCALE, codes.encode_numbers(numbers))
        exact = codes.encode_labels(labels)
        levels = np.where(exact >= 0, exact, levels)
    return np.append(levels, NO_RATING)[label_codes]


def _read_floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _find_unusable(
    table: pa.Table,
    source: Source,
    codes: tuple[np.ndarray, np.ndarray, np.ndarray],
    scales: dict[int, RatingCodes | None],
) -> np.ndarray:
    dimension_codes, who_codes, ratings = codes
    reasons = np.zeros(len(table), dtype=np.int64)
    if source.kind == "human":
        levels = np.array([0 if scale is None else scale.num_levels for scale in scales.values()] or [0])
        reasons[ratings >= levels[dimension_codes]] = _BETWEEN_LEVELS
        reasons[ratings == NO_RATING] = _NO_LABEL
    reasons[ratings == OFF_SCALE] = _OFF_SCALE
    unknown = [code for code, scale in scales.items() if scale is None]
    reasons[np.isin(dimension_codes, unknown) | (dimension_codes < 0)] = _NO_SCALE
    reasons[who_codes < 0] = _NO_NAME
    item_ids = table[source.item_id]
    if item_ids.null_count:
        reasons[pc.is_null(item_ids).to_numpy()] = _NO_ITEM
    return reasons


def _count_unusable(table: pa.Table, source: Source, reasons: np.ndarray, survey: Survey, where: str) -> None:
    faulty = np.flatnonzero(reasons)
    if not len(faulty):
        return
    found, counts = np.unique(reasons[faulty], return_counts=True)
    survey.unusable.update({_REASONS[int(r)]: int(c) for r, c in zip(found, counts, strict=True)})
    told = table.slice(0, 0) if len(survey.examples) >= MAX_EXAMPLES else table.take(pa.array(faulty[:MAX_EXAMPLES]))
    label = source.label if source.label in table.column_names else source.rating
    for row, reason in zip(told.to_pylist(), reasons[faulty].tolist(), strict=False):
        said = f"{where}: item {row[source.item_id]!r}: {_REASONS[reason]} {row.get(label)!r}"
        survey.examples = [*survey.examples, said][:MAX_EXAMPLES]


def _count_who(
    dimensions: tuple[np.ndarray, list[str]],
    whos: tuple[np.ndarray, list[str]],
    ratings: tuple[np.ndarray, np.ndarray],
    source: Source,
    index: int,
    survey: Survey,
) -> None:
    codes, usable = ratings
    keys = (dimensions[0] * max(len(whos[1]), 1) + whos[0])[usable]
    totals = np.bincount(keys, minlength=1) if len(keys) else np.zeros(0, dtype=np.int64)
    for key in np.flatnonzero(totals).tolist():
        dimension, who = divmod(key, max(len(whos[1]), 1))
        if source.kind == "human":
            survey.annotators[dimensions[1][dimension], whos[1][who]] += int(totals[key])
        else:
            survey.raters[index, whos[1][who]] += int(totals[key])


def _count_missing(
    table: pa.Table,
    source: Source,
    index: int,
    dimensions: tuple[np.ndarray, list[str]],
    whos: tuple[np.ndarray, list[str]],
    codes: np.ndarray,
    survey: Survey,
) -> None:
    """Count a rater's rows without a rating by outcome."""
    missing = np.flatnonzero(codes == NO_RATING)
    if not len(missing):
        return
    outcomes = ["no rating"] * len(missing)
    if source.outcome is not None:
        outcomes = [text or "no rating" for text in table[source.outcome].take(pa.array(missing)).to_pylist()]
    for row, outcome in zip(missing.tolist(), outcomes, strict=True):
        dimension, who = dimensions[0][row], whos[0][row]
        if dimension >= 0 and who >= 0:
            survey.without_rating[dimensions[1][dimension], index, whos[1][who], outcome] += 1


def _read_target_sources(table: pa.Table, source: Source) -> pa.Array | None:
    if source.target_source is None:
        return None
    column = table[source.target_source].cast(pa.string())
    return pc.if_else(pc.equal(column, TARGET_AGGREGATE), None, column)


def _read_slices(table: pa.Table, source: Source, rules: IntakeRules, survey: Survey) -> dict[str, pa.Array]:
    own = dict(source.slices)
    columns = {}
    for name in rules.slices:
        column = pa.nulls(len(table), pa.string())
        if name in own:
            column = table[own[name]].cast(pa.string())
        elif name in source.extra:
            column = pa.array([_read_extra(text, name) for text in table["extra"].to_pylist()], pa.string())
        columns[f"slice:{name}"] = column
        values = {value for value in pc.unique(column).to_pylist() if value is not None}
        survey.slice_values.setdefault(name, set()).update(values)
        check_slice(name, survey.slice_values[name], rules.max_slice_values)
    return columns


def check_slice(name: str, values: set[str], limit: int) -> None:
    """Raise UserError where a slice column has too many values."""
    if len(values) > limit:
        raise UserError(
            f"slices.columns: {name!r} has more than {limit} values, for example {sorted(values)[:5]}\n"
            "expected a column of few values; leave it out, or raise slices.max_values"
        )


def _read_extra(text: str | None, key: str) -> str | None:
    value: Any = json.loads(text).get(key) if text else None
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _admit_items(table: pa.Table, source: Source, index: int, rules: IntakeRules, survey: Survey) -> pa.Table:
    survey.items += len(table)
    size = len(table)
    columns = {
        "item_id": table[source.item_id],
        "dimension": table[source.dimension],
        "source": pa.array(np.full(size, index, dtype=np.int16)),
        "who": pa.nulls(size, pa.string()),
        "target_source": pa.nulls(size, pa.string()),
        "code": pa.array(np.full(size, NO_RATING, dtype=np.int32)),
        "group": table[source.group] if source.group else pa.nulls(size, pa.string()),
    }
    columns |= _read_slices(table, source, rules, survey)
    return pa.table(columns, schema=rules.schema)

