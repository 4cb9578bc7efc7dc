"""Tables of counts -> rows of statistics with intervals, differences and tests. Pure; knows no corpus and no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.agreement_counts import (
    EMPTY_COUNTS,
    Counts,
    add_counts,
    decode_pairs,
    lay_out_complete,
    lay_out_panel,
    sum_clusters,
)
from judgetrace.agreement_tables import EACH_ANNOTATOR, REST, TableKey, TestSums, list_expected
from judgetrace.alternative_test import AlternativeTest, run_test
from judgetrace.bootstrap import Resampler, adjust_holm, find_interval, find_p_value
from judgetrace.pair_statistics import PairTable, measure_pair
from judgetrace.panel_statistics import compute_iccs, measure_panel
from judgetrace.rating_codes import RatingCodes

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
    "rater_target": "rater_target",
    "rater_annotator": "rater_annotator",
    "rater_rest": "rater_rest",
    "rater_rater": "rater_rater",
    "rater_panel": "rater_rater",
    "rater_complete": "rater_rater",
}
CEILING = "the human ceiling"
POPULATIONS = ("filtered", "all")

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """The statistics of one table: values and replicates by name."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]
    num_compared: int
    reasons: dict[str, str]


@dataclass
class Results:
    """All rows, and what does not fit into them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    confusions: list[dict[str, Any]] = field(default_factory=list)
    tests: list[tuple[str, str, str, AlternativeTest]] = field(default_factory=list)  # dimension, population, rater

    def to_table(self) -> pa.Table:
        """Return the rows as a table (schema AGREEMENT)."""
        return pa.Table.from_pylist(self.rows, schema=AGREEMENT)


def make_measure(kind: str, codes: RatingCodes, cells: np.ndarray) -> tuple[Callable[[np.ndarray], Values], int]:
    """Make the function amounts [..., K] -> statistics [...] of a table of some kind, and what it needs of floats."""
    is_nominal = codes.scale.type == "nominal"
    numbers, levels = np.array(codes.scale.numbers), codes.num_levels
    if kind in ("human_panel", "rater_panel"):
        size = lay_out_panel(cells, np.zeros(len(cells)), levels).pairs.size
        return lambda amounts: measure_panel(lay_out_panel(cells, amounts, levels), numbers, is_nominal), 2 * size
    if kind in ("human_complete", "rater_complete"):
        raters = int((cells >> 42).max(initial=0))
        return lambda amounts: compute_iccs(lay_out_complete(cells, amounts, raters, levels), numbers), levels**2
    layout = PairLayout(cells, codes)
    return lambda amounts: measure_pair(layout.lay_out(amounts), is_nominal), layout.num_floats


class PairLayout:
    """Where the cells of two ratings go in dense tables."""

    def __init__(self, cells: np.ndarray, codes: RatingCodes):
        first, second = decode_pairs(cells)
        self.numbers = np.array(codes.scale.numbers)
        self.first, rows = np.unique(codes.read_numbers(first), return_inverse=True)
        self.second, columns = np.unique(codes.read_numbers(second), return_inverse=True)
        self._by_value = rows * len(self.second) + columns
        self._by_level = codes.read_levels(first) * codes.num_levels + codes.read_levels(second)

    @property
    def num_floats(self) -> int:
        """Floats that a replicate needs."""
        return 6 * len(self.first) * len(self.second)

    def lay_out(self, amounts: np.ndarray) -> PairTable:
        """Lay out amounts [..., K]."""
        levels = len(self.numbers)
        by_level = _scatter(amounts, self._by_level, levels * levels)
        by_value = _scatter(amounts, self._by_value, len(self.first) * len(self.second))
        return PairTable(
            by_level.reshape(*amounts.shape[:-1], levels, levels),
            by_value.reshape(*amounts.shape[:-1], len(self.first), len(self.second)),
            self.first,
            self.second,
            self.numbers,
        )


def _scatter(amounts: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """Add amounts [..., K] into [..., size] at `index` [K]."""
    found = np.zeros((*amounts.shape[:-1], size))
    if not len(index):
        return found
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    found[..., ordered[starts]] = np.add.reduceat(amounts[..., order], starts, axis=-1)
    return found


def measure_counts(kind: str, counts: Counts, codes: RatingCodes, resampler: Resampler | None) -> Measured:
    """Measure a table of counts and its replicates."""
    cells, totals = sum_clusters(counts)
    amounts = totals.astype(np.float64)
    measure, num_floats = make_measure(kind, codes, cells)
    values = {name: float(value) for name, value in measure(amounts).items()}
    compared = count_compared(kind, cells, totals)
    reasons = {name: explain(kind, name, cells, compared) for name, v in values.items() if math.isnan(v)}
    replicates: dict[str, np.ndarray] = {}
    if resampler is not None and len(cells):
        chunks = [measure(chunk) for chunk in resampler.resample(counts, num_floats)]
        replicates = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in values}
    return Measured(values, replicates, compared, reasons)


def count_compared(kind: str, cells: np.ndarray, amounts: np.ndarray) -> int:
    """Count pairs of ratings, of panels the units of at least two ratings."""
    if kind.endswith("_panel"):
        return int(amounts[((cells & ((1 << 42) - 1)) == 0) & (cells >> 42 >= 2)].sum())
    if kind.endswith("_complete"):
        return int(amounts[cells >> 42 == 1].sum())
    return int(amounts.sum())


def explain(kind: str, statistic: str, cells: np.ndarray, compared: int) -> str:
    """Say why a statistic is undefined."""
    is_panel, is_complete = kind.endswith("_panel"), kind.endswith("_complete")
    if not compared:
        absent = "no unit was rated by all" if is_complete else "no unit has a rating of both"
        return "no unit has two ratings" if is_panel else absent
    if compared == 1 and statistic not in ("exact_agreement", "adjacent_agreement", "mse", "mae", "bias"):
        return "one unit only"
    if is_panel:
        return "all ratings are of one category"
    sides = ("first", "second") if not is_complete else ()
    constant = [side for side, codes_ in zip(sides, decode_pairs(cells), strict=False) if len(np.unique(codes_)) == 1]
    if not constant:
        return "the ratings do not vary"
    return "each of the two gives one rating only" if len(constant) == 2 else f"the {constant[0]} gives one rating only"


class Measurer:
    """Measures all tables of a run."""

    def __init__(
        self,
        tables: Mapping[TableKey, Counts],
        scales: Mapping[str, RatingCodes],
        resampler: Resampler | None,
        level: float,
        raters: tuple[str, ...] = (),
        per_annotator: tuple[str, ...] = (),
    ):
        self._raters, self._expected = raters, list_expected(raters)
        self._per_annotator = per_annotator
        self._tables, self._scales, self._resampler, self._level = tables, scales, resampler, level
        self.results = Results()

    def run(self) -> Results:
        """Measure everything but the alternative-annotator test."""
        for dimension in sorted(self._scales):
            for population in POPULATIONS:
                self._measure_population(dimension, population)
        self._adjust()
        return self.results

    def _measure_population(self, dimension: str, population: str) -> None:
        flags = (True,) if population == "filtered" else (True, False)
        found: dict[tuple[str, str, str, str, str], list[Counts]] = {}
        for key, counts in self._tables.items():
            if key.dimension == dimension and key.kept in flags:
                found.setdefault((key.slice_by, key.slice, key.kind, key.who, key.with_whom), []).append(counts)
        for expected in self._expected:
            found.setdefault(("", "", *expected), [])
        merged = {name: add_counts(parts) for name, parts in found.items()}
        for slice_by, name in sorted({(key[0], key[1]) for key in merged}):
            own = {key[2:]: counts for key, counts in merged.items() if key[:2] == (slice_by, name)}
            where = {"dimension": dimension, "population": population, "slice_by": slice_by, "slice": name}
            self._measure_slice(where, own, self._scales[dimension])

    def _measure_slice(
        self, where: dict[str, str], tables: Mapping[tuple[str, str, str], Counts], codes: RatingCodes
    ) -> None:
        base = _count_base(tables.get(("units", "", ""), EMPTY_COUNTS))
        measured: dict[tuple[str, str, str], Measured] = {}
        for (kind, who, with_whom), counts in sorted(tables.items(), key=lambda pair: pair[0]):
            if kind == "units":
                continue
            found = measured[kind, who, with_whom] = measure_counts(kind, counts, codes, self._resampler)
            if kind in ("paired", "ceiling_paired"):
                continue
            about = where | {"comparison": COMPARISONS[kind], "who": who, "with_whom": with_whom}
            coverage = _find_coverage((kind, who, with_whom), found.num_compared, base, self._per_annotator)
            self._add_rows(about, found, base["units"], coverage)
            if kind == "rater_target" or (kind == "human_ceiling" and with_whom == REST):
                self._add_confusion(about, counts, codes)
        self._add_differences(where, measured, base["units"])

    def _add_rows(self, about: dict[str, str], found: Measured, units: int, coverage: float | None) -> None:
        for name, value in found.values.items():
            low, high = find_interval(found.replicates.get(name, np.empty(0)), self._level)
            row = {"statistic": name, "value": _null(value), "low": _null(low), "high": _null(high)}
            row |= {"num_units": units, "num_compared": found.num_compared, "coverage": coverage}
            self.results.rows.append({**about, **row, "undefined": found.reasons.get(name)})

    def _add_confusion(self, about: dict[str, str], counts: Counts, codes: RatingCodes) -> None:
        cells, amounts = counts.cells, counts.amounts
        first, second = decode_pairs(cells)
        table = np.zeros((codes.num_levels, codes.num_levels), dtype=np.int64)
        np.add.at(table, (codes.read_levels(first), codes.read_levels(second)), amounts)
        self.results.confusions.append({**about, "levels": list(codes.scale.values), "counts": table.tolist()})

    def _add_differences(
        self, where: dict[str, str], measured: Mapping[tuple[str, str, str], Measured], units: int
    ) -> None:
        for (kind, who, with_whom), found in measured.items():
            if kind == "paired" and who < with_whom:
                other = measured.get(("paired", with_whom, who))
                if other is not None:
                    self._add_difference(where, (who, with_whom), found, other, units)
            elif kind == "rater_rest":
                self._add_difference(where, (who, CEILING), found, measured["ceiling_paired", who, with_whom], units)

    def _add_difference(
        self, where: dict[str, str], whos: tuple[str, str], first: Measured, second: Measured, units: int
    ) -> None:
        about = where | {"comparison": "difference", "who": whos[0], "with_whom": whos[1]}
        for name in first.values:
            value = first.values[name] - second.values[name]
            replicates = np.empty(0)
            if name in first.replicates and name in second.replicates:
                replicates = first.replicates[name] - second.replicates[name]
            low, high = find_interval(replicates, self._level)
            reason = first.reasons.get(name) or second.reasons.get(name)
            row = {"statistic": name, "value": _null(value), "low": _null(low), "high": _null(high)}
            # Slices have intervals only: testing each of them would cost the family its power.
            tested = reason is None and not where["slice_by"]
            row |= {"p_value": _null(find_p_value(replicates)) if tested else None, "num_units": units}
            self.results.rows.append({**about, **row, "num_compared": first.num_compared, "undefined": reason})

    def _adjust(self) -> None:
        """Adjust p-values by Holm: a family is one statistic's differences of one kind over all dimensions, unsliced."""
        families: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
        for row in self.results.rows:
            if row["comparison"] == "difference" and not row["slice_by"]:
                family = (row["population"], row["statistic"], row["with_whom"] == CEILING)
                families.setdefault(family, []).append(row)
        for rows in families.values():
            p_values = np.array([math.nan if row["p_value"] is None else row["p_value"] for row in rows])
            for row, adjusted in zip(rows, adjust_holm(p_values), strict=True):
                row["p_adjusted"] = _null(float(adjusted))

    def add_tests(self, sums: TestSums, eps: float) -> None:
        """Add the alternative-annotator test of each rater."""
        for dimension in sorted(self._scales):
            for population in POPULATIONS:
                flags = (True,) if population == "filtered" else (True, False)
                for rater in self._raters:
                    own = _add_sums(sums, dimension, rater, flags)
                    test = run_test(own, eps)
                    self.results.tests.append((dimension, population, rater, test))
                    about = {"dimension": dimension, "population": population, "slice_by": "", "slice": ""}
                    about |= {"comparison": "alternative_test", "who": rater}
                    self.results.rows += list(_list_test_rows(about, test, own))


def _add_sums(sums: TestSums, dimension: str, rater: str, flags: tuple[bool, ...]) -> dict[str, tuple[int, int, int]]:
    own: dict[str, np.ndarray] = {}
    for flag in flags:
        for annotator, numbers in sums.get((dimension, rater, flag), {}).items():
            own[annotator] = own.get(annotator, np.zeros(3, dtype=np.int64)) + numbers
    return {name: (int(n[0]), int(n[1]), int(n[2])) for name, n in own.items()}


def _list_test_rows(
    about: dict[str, str], test: AlternativeTest, sums: Mapping[str, tuple[int, int, int]]
) -> Iterator[dict[str, Any]]:
    reason = None if test.num_tested else "no annotator has 30 items that others labelled, too"
    compared = sum(items for items, _, _ in sums.values())
    for name, value in (("winning_rate", test.winning_rate), ("advantage_probability", test.advantage_probability)):
        yield {
            **about,
            "with_whom": "all annotators",
            "statistic": name,
            "value": _null(value),
            "num_compared": compared,
            "undefined": reason,
        }
    for annotator in test.annotators:
        yield {
            **about,
            "with_whom": annotator.annotator,
            "statistic": "advantage_probability",
            "value": annotator.rater_advantage,
            "p_value": annotator.p_value,
            "p_adjusted": annotator.p_adjusted,
            "num_compared": annotator.num_items,
        }


def _count_base(units: Counts) -> dict[str, int]:
    names = ("units", "with_target", "labels")
    return {name: int(units.amounts[units.cells == cell].sum()) for cell, name in enumerate(names)}


def _find_coverage(
    key: tuple[str, str, str], compared: int, base: Mapping[str, int], per_annotator: tuple[str, ...]
) -> float | None:
    """Find the share of what could have been compared; None for figures of single annotators."""
    kind, who, with_whom = key
    if kind == "human_pair" or (kind == "rater_annotator" and with_whom != EACH_ANNOTATOR):
        return None
    if kind == "human_ceiling" and who != EACH_ANNOTATOR:
        return None
    if kind in ("human_ceiling", "rater_annotator", "rater_rest") or (kind == "rater_target" and who in per_annotator):
        possible = base["labels"]
    else:
        possible = base["units"] if kind.startswith("rater_") and kind != "rater_target" else base["with_target"]
    return compared / possible if possible else None


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value
