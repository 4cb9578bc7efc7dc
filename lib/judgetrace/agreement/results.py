"""Tables of counts -> rows of statistics with intervals, differences and tests, a dimension at a time.

Pure; knows no corpus and no files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.agreement.alternative_rows import list_test_rows
from judgetrace.agreement.bootstrap import Resampler, adjust_holm, find_interval, find_p_value
from judgetrace.agreement.counts import EMPTY_COUNTS, Counts, add_counts, decode_pairs
from judgetrace.agreement.measures import Measured, measure_counts
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.agreement.tables import EACH_ANNOTATOR, PANEL_TIMES, TARGET, TableKey, TestSums

AGREEMENT = pa.schema(
    [
        ("dimension", pa.string()),
        ("population", pa.string()),  # filtered: units that the target rule keeps; all: those that it drops, too
        ("slice_by", pa.string()),  # "" for all units, label (the target label), or a column
        ("slice", pa.string()),
        ("comparison", pa.string()),  # COMPARISONS
        ("who", pa.string()),
        ("with_whom", pa.string()),
        ("statistic", pa.string()),
        ("value", pa.float64()),  # null where undefined
        ("low", pa.float64()),  # bounds of the bootstrap interval; null where there is none
        ("high", pa.float64()),
        ("p_value", pa.float64()),  # of differences and of the alternative-annotator test
        ("p_adjusted", pa.float64()),  # Holm over a statistic's differences; Benjamini-Yekutieli over annotators
        ("num_units", pa.int64()),  # units of this population and slice
        ("num_compared", pa.int64()),  # pairs of ratings; of panels: units of at least two ratings
        ("coverage", pa.float64()),  # num_compared over what it could have been; null where nothing tells
        ("undefined", pa.string()),  # why value is null; null where it is not
    ]
)
"""One row a statistic."""

COMPARISONS = {
    "human_panel": "human_human",
    "human_complete": "human_human",
    "human_pair": "human_human",
    "human_ceiling": "human_ceiling",
    "ceiling_beside": "ceiling_beside",  # the human ceiling on the units that a rater (who) rated
    "rater_target": "rater_target",
    "rater_annotator": "rater_annotator",
    "rater_rest": "rater_rest",
    "rater_rater": "rater_rater",
    "rater_panel": "rater_rater",
    "rater_complete": "rater_rater",
    "rater_before_panel": "raters_before",  # raters with each other, where the config names raters before and after
    "rater_before_complete": "raters_before",
    "rater_after_panel": "raters_after",
    "rater_after_complete": "raters_after",
}
"""Kind of table -> comparison. Rows of `difference`, `raters_change` and `alternative_test` follow from several."""

CEILING = "the human ceiling"
POPULATIONS = ("filtered", "all")
Name = tuple[str, str, str]
"""(kind of table, who, with whom)."""


@dataclass
class Results:
    """All rows, and what does not fit into them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    confusions: list[dict[str, Any]] = field(default_factory=list)

    def to_table(self) -> pa.Table:
        """Return the rows as a table (schema AGREEMENT)."""
        return pa.Table.from_pylist(self.rows, schema=AGREEMENT)


@dataclass(frozen=True)
class MeasureRules:
    """What all dimensions share."""

    clusters: np.ndarray  # of the whole run
    replicates: int
    seed: int
    level: float
    eps: float
    raters: tuple[str, ...] = ()


@dataclass(frozen=True)
class DimensionCounts:
    """The counts of one dimension."""

    dimension: str
    codes: RatingCodes
    tables: Mapping[TableKey, Counts]
    tests: TestSums


def split_dimensions(
    tables: Mapping[TableKey, Counts], tests: TestSums, codes: Mapping[str, RatingCodes]
) -> list[DimensionCounts]:
    """Split a run's counts by dimension."""
    return [
        DimensionCounts(
            name,
            codes[name],
            {key: counts for key, counts in tables.items() if key.dimension == name},
            {key: sums for key, sums in tests.items() if key[0] == name},
        )
        for name in sorted(codes)
    ]


def join_results(parts: Sequence[Results]) -> Results:
    """Join the results of dimensions, in their order, and adjust the p-values of differences over all of them."""
    results = Results([row for part in parts for row in part.rows], [c for part in parts for c in part.confusions])
    families: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in results.rows:
        if row["comparison"] == "difference" and not row["slice_by"]:
            family = (row["population"], row["statistic"], row["with_whom"] == CEILING)
            families.setdefault(family, []).append(row)
    for rows in families.values():
        p_values = np.array([math.nan if row.get("p_value") is None else row["p_value"] for row in rows])
        for row, adjusted in zip(rows, adjust_holm(p_values), strict=True):
            row["p_adjusted"] = _null(float(adjusted))
    return results


def measure_dimension(counts: DimensionCounts, rules: MeasureRules) -> Results:
    """Measure all of a dimension's tables, in both populations."""
    resampler = Resampler(rules.clusters, rules.seed, rules.replicates) if rules.replicates else None
    results = Results()
    is_filtered = any(not key.kept for key in counts.tables)
    for population in POPULATIONS if is_filtered else ("all",):
        _Population(counts, rules, population, resampler, results).measure()
    if not is_filtered:
        # The rule drops nothing: both populations are the same.
        for found in (results.rows, results.confusions):
            found[:0] = [{**row, "population": "filtered"} for row in found]
    return results


class _Population:
    """Measures one population of a dimension."""

    def __init__(
        self,
        counts: DimensionCounts,
        rules: MeasureRules,
        population: str,
        resampler: Resampler | None,
        results: Results,
    ):
        self._counts, self._rules, self._resampler, self._results = counts, rules, resampler, results
        self._population = population
        self._flags = (True,) if population == "filtered" else (True, False)

    def measure(self) -> None:
        """Measure every slice."""
        found: dict[tuple[str, str], dict[Name, list[Counts]]] = {("", ""): {}}
        for key, counts in self._counts.tables.items():
            if key.kept in self._flags:
                own = found.setdefault((key.slice_by, key.slice), {})
                own.setdefault((key.kind, key.who, key.with_whom), []).append(counts)
        for slice_by, name in sorted(found):
            where = {"dimension": self._counts.dimension, "population": self._population}
            where |= {"slice_by": slice_by, "slice": name}
            tables = {key: add_counts(parts) for key, parts in sorted(found[slice_by, name].items())}
            self._measure_slice(where, tables)
        about = {"dimension": self._counts.dimension, "population": self._population, "slice_by": "", "slice": ""}
        for rater in self._rules.raters:
            if ("rater_target", rater, TARGET) not in found["", ""]:
                # It was not asked about this dimension.
                continue
            sums = [self._counts.tests.get((self._counts.dimension, rater, flag), {}) for flag in self._flags]
            self._results.rows += list_test_rows(about | {"who": rater}, sums, self._rules.eps)

    def _measure_slice(self, where: dict[str, str], tables: Mapping[Name, Counts]) -> None:
        base = _count_base(tables.get(("units", "", ""), EMPTY_COUNTS))
        codes, measured = self._counts.codes, {}
        for name, counts in tables.items():
            kind, who, with_whom = name
            if kind == "units":
                continue
            found = measured[name] = measure_counts(kind, counts, codes, self._resampler)
            if kind not in COMPARISONS:
                continue
            about = where | {"comparison": COMPARISONS[kind], "who": who, "with_whom": with_whom}
            counted: dict[str, Any] = {"num_units": base["units"], "num_compared": found.num_compared}
            counted["coverage"] = _find_coverage(name, found.num_compared, base)
            self._results.rows += [
                {**about, **_describe(found.values[s], found.replicates.get(s), self._rules.level), **counted}
                | {"statistic": s, "undefined": found.reasons.get(s)}
                for s in found.values
            ]
            if kind in ("rater_target", "human_ceiling"):
                self._results.confusions.append({**about, **_confuse(counts, codes)})
        for comparison, first, second, whom in _find_differences(measured):
            names = {"comparison": comparison, "who": first[1], "with_whom": whom}
            self._add_difference({**where, **names, "num_units": base["units"]}, measured[first], measured[second])

    def _add_difference(self, about: dict[str, Any], first: Measured, second: Measured) -> None:
        for name, value in first.values.items():
            both = (first.replicates.get(name), second.replicates.get(name))
            replicates = None if both[0] is None or both[1] is None else both[0] - both[1]
            row = {**about, **_describe(value - second.values[name], replicates, self._rules.level)}
            row |= {"statistic": name, "undefined": first.reasons.get(name) or second.reasons.get(name)}
            row["num_compared"] = first.num_compared
            # Slices have intervals only: testing each of them would cost the family its power.
            if replicates is not None and row["undefined"] is None and not about["slice_by"]:
                row["p_value"] = _null(find_p_value(replicates))
            self._results.rows.append(row)


def _find_differences(measured: Mapping[Name, Measured]) -> Iterator[tuple[str, Name, Name, str]]:
    """Find what is compared: comparison, first, second, and what the second is called."""
    before = {kind: (kind, who, with_whom) for kind, who, with_whom in measured if kind.startswith(PANEL_TIMES[0])}
    for kind, who, with_whom in measured:
        if kind == "paired" and who < with_whom and (kind, with_whom, who) in measured:
            yield "difference", (kind, who, with_whom), (kind, with_whom, who), with_whom
        if kind == "rater_rest" and ("ceiling_beside", who, with_whom) in measured:
            yield "difference", (kind, who, with_whom), ("ceiling_beside", who, with_whom), CEILING
        if kind.startswith(PANEL_TIMES[1]):
            earlier = before[kind.replace(PANEL_TIMES[1], PANEL_TIMES[0])]
            yield "raters_change", (kind, who, with_whom), earlier, earlier[1]


def _describe(value: float, replicates: np.ndarray | None, level: float) -> dict[str, float | None]:
    low, high = (math.nan, math.nan) if replicates is None else find_interval(replicates, level)
    if math.isnan(value):
        low = high = math.nan
    return {"value": _null(value), "low": _null(low), "high": _null(high)}


def _confuse(counts: Counts, codes: RatingCodes) -> dict[str, Any]:
    first, second = decode_pairs(counts.cells)
    table = np.zeros((codes.num_levels, codes.num_levels), dtype=np.int64)
    np.add.at(table, (codes.read_levels(first), codes.read_levels(second)), counts.amounts)
    return {"levels": list(codes.scale.values), "counts": table.tolist()}


def _count_base(units: Counts) -> dict[str, int]:
    names = ("units", "with_target", "labels", "labels_with_others")
    return {name: int(units.amounts[units.cells == cell].sum()) for cell, name in enumerate(names)}


def _find_coverage(key: Name, compared: int, base: Mapping[str, int]) -> float | None:
    """Find the share of what could have been compared; None for figures of single annotators."""
    kind, who, with_whom = key
    if kind == "human_pair" or (kind == "rater_annotator" and with_whom != EACH_ANNOTATOR):
        return None
    if kind == "human_ceiling" and who != EACH_ANNOTATOR:
        return None
    if kind in ("human_ceiling", "ceiling_beside", "rater_rest"):
        # Where nobody else labelled a unit there is nothing that one could be held against.
        possible = base["labels_with_others"]
    elif kind == "rater_annotator":
        possible = base["labels"]
    else:
        possible = base["units"] if kind.startswith("rater_") and kind != "rater_target" else base["with_target"]
    return compared / possible if possible else None


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value
