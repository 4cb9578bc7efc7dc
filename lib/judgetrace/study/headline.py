"""The paper's table: raters x guideline, before and after, beside people and controls, out of agreement.parquet. Pure.

kendall_tau_b, icc_3_1, mse, kappa_quadratic and alpha of each rater against people's target label, the human ceiling,
the paired change from the original to the refined guideline, and how far the raters agree with each other by both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, Field

from judgetrace.agreement.figures import HEADLINES, Row, show, show_p, title, write_table
from judgetrace.agreement.tables import ALL_RATERS, EACH_ANNOTATOR, REST, TARGET
from judgetrace.config import STRICT
from judgetrace.scale import ScaleConfig

TABLE = pa.schema(
    [
        ("dimension", pa.string()),  # "" where there is one; MEAN: unweighted over all dimensions, without intervals
        ("kind", pa.string()),  # rater, control, ceiling, change, raters (with each other)
        ("who", pa.string()),  # the rater without its guideline; people; the raters
        ("guideline", pa.string()),  # original, refined; of a change: refined - original
        ("statistic", pa.string()),
        ("value", pa.float64()),  # null where undefined
        ("low", pa.float64()),  # bounds of the bootstrap interval; null where there is none
        ("high", pa.float64()),
        ("p_adjusted", pa.float64()),  # of a change
        ("num_units", pa.int64()),  # of raters with each other: what all of them rated, or two by one guideline
        ("coverage", pa.float64()),
        ("undefined", pa.string()),
    ]
)
"""A row a figure."""
STATISTICS = ("kendall_tau_b", "icc_3_1", "mse", "kappa_quadratic")
NOMINAL_STATISTICS = ("cohen_kappa", "exact_agreement")
MEAN = "(mean)"
ORIGINAL, REFINED, CHANGE = "original", "refined", "refined - original"
TOGETHER = {"raters_before": ORIGINAL, "raters_after": REFINED, "raters_change": CHANGE}
"""Comparison of raters with each other, on the units that all of them rated by both guidelines -> guideline."""
EACH_OTHER = "raters with each other"


class TableConfig(BaseModel):
    """Where the table goes."""

    model_config = STRICT

    output: str = Field(description="The folder to write table.parquet and table.md into.")


def make_table(
    raters: Sequence[Mapping[str, str]],
    rows: Sequence[Row],
    original: Sequence[Row],
    scales: ScaleConfig,
) -> pa.Table:
    """Make the table (schema TABLE).

    `raters` have rater, guideline and role, as records of study.json do, and dimension where they rate one alone;
    `rows` are all raters' (schema AGREEMENT), `original` those of the raters that are held against each other where
    nobody rated by a refined guideline.
    """
    figures, alone = _index(rows), _index(original)
    found = [row for name in _list_dimensions(rows) for row in _list_rows(name, raters, figures, alone, scales)]
    dimensions = {row["dimension"] for row in found}
    if len(dimensions) > 1:
        found += list(_average(found, len(dimensions)))
    return pa.Table.from_pylist(found, schema=TABLE)


def _index(rows: Iterable[Row]) -> dict[tuple[str, ...], Row]:
    """Index the rows of what the target rule keeps, all slices together."""
    keys = ("dimension", "comparison", "who", "with_whom", "statistic")
    chosen = (row for row in rows if row["population"] == "filtered" and not row["slice_by"])
    return {tuple(row[key] for key in keys): row for row in chosen}


def _list_dimensions(rows: Iterable[Row]) -> list[str]:
    return sorted({row["dimension"] for row in rows})


def _choose_statistics(dimension: str, scales: ScaleConfig) -> tuple[str, ...]:
    scale = scales.of(dimension)
    kind = "ordinal" if scale is None else scale.type
    return (*(NOMINAL_STATISTICS if kind == "nominal" else STATISTICS), HEADLINES[kind])


def _list_rows(
    dimension: str,
    raters: Sequence[Mapping[str, str]],
    figures: Mapping[tuple[str, ...], Row],
    alone: Mapping[tuple[str, ...], Row],
    scales: ScaleConfig,
) -> Iterator[dict[str, Any]]:
    statistics = _choose_statistics(dimension, scales)

    def pick(kind: str, who: str, guideline: str, *where: str, source: Mapping[tuple[str, ...], Row] = figures) -> Any:
        about = {"dimension": dimension, "kind": kind, "who": who, "guideline": guideline}
        for name in statistics:
            row = source.get((dimension, *where, name))
            if row is not None:
                kept = {key: row.get(key) for key in TABLE.names if key in row and key not in about}
                if kind == "raters":
                    kept["num_units"] = row["num_compared"]
                yield about | kept | {"p_adjusted": row.get("p_adjusted") if kind == "change" else None}

    raters = [rater for rater in raters if rater.get("dimension", dimension) == dimension]
    for rater in raters:
        name = rater["rater"].removesuffix("-refined")
        yield from pick(rater["role"], name, rater["guideline"], "rater_target", rater["rater"], TARGET)
    yield from pick("ceiling", "each person, the others", "", "human_ceiling", EACH_ANNOTATOR, REST)
    for rater in raters:
        if rater["guideline"] == REFINED:
            yield from _list_changes(pick, figures, dimension, rater["rater"])
    together = {key[1]: key[1:4] for key in figures if key[0] == dimension and key[1] in TOGETHER}
    for comparison, guideline in TOGETHER.items() if together else ():
        yield from pick("raters", EACH_OTHER, guideline, *together[comparison])
    if not together:
        yield from pick("raters", EACH_OTHER, ORIGINAL, "rater_rater", ALL_RATERS, "", source=alone)


def _list_changes(
    pick: Any, figures: Mapping[tuple[str, ...], Row], dimension: str, refined: str
) -> Iterator[dict[str, Any]]:
    """List the paired differences, refined minus original: the pair is in the table in either order."""
    original = refined.removesuffix("-refined")
    yield from pick("change", original, CHANGE, "difference", refined, original)
    for row in pick("change", original, CHANGE, "difference", original, refined):
        low, high = row["low"], row["high"]
        turned = {"value": _negate(row["value"]), "low": _negate(high), "high": _negate(low)}
        yield row | turned


def _negate(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _average(rows: Sequence[Mapping[str, Any]], num_dimensions: int) -> Iterator[dict[str, Any]]:
    """Average over dimensions, where a figure is defined in all of them."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["who"], row["guideline"], row["statistic"]), []).append(row)
    for (kind, who, guideline, statistic), found in groups.items():
        if guideline in (REFINED, CHANGE) and len({row["dimension"] for row in found}) == 1:
            # The guideline of one dimension was refined.
            continue
        values = [row["value"] for row in found if row["value"] is not None]
        about = {"dimension": MEAN, "kind": kind, "who": who, "guideline": guideline, "statistic": statistic}
        if len(values) == num_dimensions:
            yield about | {
                "value": math.fsum(values) / len(values),
                "num_units": sum(row["num_units"] for row in found),
            }
        else:
            yield about | {"undefined": f"defined in {len(values)} of {num_dimensions} dimensions"}


LEAD = (
    "Against the target label, on the test split. In brackets: bootstrap intervals; the mean of several "
    "dimensions has none. `change` is paired: the refined "
    "guideline minus the original one, with p-values after Holm's correction. Of MSE less is better."
)
TITLE_TOGETHER = "Raters with each other"
LEAD_TOGETHER = (
    "How far raters agree with each other, whoever is right. With a refined guideline: on the units that all of them "
    "rated by both; `change` is paired."
)


@dataclass(frozen=True)
class Part:
    """The table of one dimension, as texts."""

    dimension: str
    columns: list[str]
    lines: list[list[str]]
    together: Part | None = None
    """The raters with each other, a line a figure; none where they are too few."""


def list_parts(table: pa.Table) -> list[Part]:
    """Lay the table (schema TABLE) out for people: a part for each dimension, the mean first."""
    rows = table.to_pylist()
    dimensions = sorted({row["dimension"] for row in rows}, key=lambda name: (name != MEAN, name))
    return [_make_part([row for row in rows if row["dimension"] == name], name) for name in dimensions]


def write_headline(table: pa.Table, notes: Sequence[str] = ()) -> str:
    """Write the table as Markdown."""
    lines = ["# Raters and guidelines, against people", "", LEAD, *(f"\n{note}" for note in notes)]
    for part in list_parts(table):
        lines += ["", f"## {part.dimension}" if part.dimension else "", *write_table(part.columns, part.lines)]
        if part.together is not None:
            lines += ["", f"### {TITLE_TOGETHER}", "", LEAD_TOGETHER, ""]
            lines += write_table(part.together.columns, part.together.lines)
    return "\n".join(lines) + "\n"


def _make_part(rows: Sequence[Mapping[str, Any]], dimension: str) -> Part:
    together = [row for row in rows if row["kind"] == "raters"]
    others = [row for row in rows if row["kind"] != "raters"]
    statistics = list(dict.fromkeys(row["statistic"] for row in others))
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in others:
        groups.setdefault((row["kind"], row["who"], row["guideline"]), {})[row["statistic"]] = row
    columns = ["", "who", "guideline", *map(title, statistics), "units"]
    lines = [_write_line(key, found, statistics) for key, found in groups.items()]
    return Part(dimension, columns, lines, _make_together(together, dimension) if together else None)


def _make_together(rows: Sequence[Mapping[str, Any]], dimension: str) -> Part:
    guidelines = list(dict.fromkeys(row["guideline"] for row in rows))
    lines = []
    for statistic in dict.fromkeys(row["statistic"] for row in rows):
        found = {row["guideline"]: row for row in rows if row["statistic"] == statistic}
        cells = [show(found.get(name, {}), sign=name == CHANGE) for name in guidelines]
        lines.append([title(statistic), *cells, _write_units(found.values())])
    return Part(dimension, ["figure", *guidelines, "units"], lines)


def _write_units(rows: Iterable[Mapping[str, Any]]) -> str:
    units = next((row["num_units"] for row in rows if row["num_units"] is not None), None)
    return "" if units is None else f"{units:,}"


def _write_line(
    key: tuple[str, str, str], found: Mapping[str, Mapping[str, Any]], statistics: Sequence[str]
) -> list[str]:
    kind, who, guideline = key
    cells = []
    for name in statistics:
        row = found.get(name, {})
        p_value = f" p={show_p(row['p_adjusted'])}" if row.get("p_adjusted") is not None else ""
        cells.append(show(row, sign=kind == "change") + p_value)
    return [kind, who, guideline, *cells, _write_units(found.values())]
