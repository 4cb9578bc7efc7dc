"""The Markdown report of measure_agreement: what to look at first, what to mind, then the tables behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.agreement.figures import (
    HEADLINES,
    PAIR_COLUMNS,
    PANEL_COLUMNS,
    PANEL_COMPARISONS,
    Figures,
    Row,
    Where,
    Who,
    show,
    show_count,
    show_p,
    show_share,
    title,
    write_table,
)
from judgetrace.agreement.results import CEILING
from judgetrace.agreement.tables import ALL_ANNOTATORS, ALL_RATERS, EACH_ANNOTATOR, REST, TARGET
from judgetrace.agreement.warnings import count_units, find_warnings
from judgetrace.scale import ScaleConfig

MAX_LINES = 20
PANEL: Who = ("human_human", ALL_ANNOTATORS, "")


@dataclass(frozen=True)
class ReportFacts:
    """What the report says besides the figures."""

    scales: ScaleConfig
    rule: str
    level: float
    replicates: int
    resampled: str  # items or groups
    annotations: int
    units: int
    raters: Sequence[str]
    eps: float
    notes: Sequence[str] = ()
    confusions: Sequence[Mapping[str, Any]] = field(default_factory=list)


def list_populations(figures: Figures, dimension: str) -> list[str]:
    """List the populations to show: one of them where the target rule drops nothing."""
    kept, everything = (count_units(figures, dimension, name) for name in ("filtered", "all"))
    return ["all"] if kept == everything else ["filtered", "all"]


def write_report(rows: Sequence[Row], facts: ReportFacts) -> str:
    """Write the report of rows of statistics (schema AGREEMENT)."""
    return "\n".join(_Report(Figures(rows, facts.scales), facts).write()) + "\n"


class _Report:
    def __init__(self, figures: Figures, facts: ReportFacts):
        self._figures, self._facts, self._raters = figures, facts, facts.raters

    def write(self) -> Iterator[str]:
        facts = self._facts
        yield from ("# Agreement", "")
        yield (
            f"{facts.units:,} units (a unit is an item in a dimension); {facts.annotations:,} annotations were read. "
            f"Target label: {facts.rule}."
        )
        if facts.replicates:
            how = f"{facts.replicates:,} replicates over {facts.resampled}"
            yield f"In brackets: {facts.level:.0%} intervals from {how}."
        yield from self._write_first_look()
        warnings = [*find_warnings(self._figures, self._raters, facts.replicates), *facts.notes]
        if warnings:
            yield from ("", "## Mind", "", *(f"- {text}" for text in warnings))
        for dimension in self._figures.dimensions:
            yield from self._write_dimension(dimension)
        yield from KEY

    def _write_first_look(self) -> Iterator[str]:
        yield from ("", "## First look", "")
        columns = ["dimension", "units", "statistic", "people among themselves"]
        if self._raters:
            yield (
                "`rater, target`: the rater against what people agree on. `rater, others` and `person, others`: the "
                "rater, and each annotator in turn, against what the item's other annotators agree on, on the units "
                "that the rater rated; the second is the human ceiling. `difference`: the first minus the second. A "
                "rater agrees with people as well as a person does where the difference is not below 0."
            )
            more = ["rater, target", "coverage", "rater, others", "person, others", "difference"]
            columns = ["dimension", "units", "rater", "statistic", *more, columns[-1]]
        else:
            yield (
                "No rater was given. `person, others`, each annotator in turn against what the item's other annotators "
                "agree on, is the ceiling that a rater can be held against."
            )
            columns.insert(3, "person, others")
        yield ""
        yield from write_table(columns, self._list_first_look())

    def _list_first_look(self) -> Iterator[list[str]]:
        figures = self._figures
        for dimension in figures.dimensions:
            statistic = HEADLINES[figures.type_of(dimension)]
            for population in list_populations(self._figures, dimension):
                where = (dimension, population, "", "")
                start = [dimension or "(one)", f"{population}: {count_units(figures, dimension, population):,}"]
                people = show(figures.find(where, PANEL, statistic))
                if not self._raters:
                    ceiling = show(figures.find(where, ("human_ceiling", EACH_ANNOTATOR, REST), statistic))
                    yield [*start, title(statistic), ceiling, people]
                for rater in self._choose_raters(dimension):
                    target = figures.find(where, ("rater_target", rater, TARGET), statistic)
                    rest = figures.find(where, ("rater_rest", rater, REST), statistic)
                    person = figures.find(where, ("ceiling_beside", rater, REST), statistic)
                    gap = figures.find(where, ("difference", rater, CEILING), statistic)
                    shown = [show(target), show_share(target.get("coverage")), show(rest), show(person)]
                    yield [*start, rater, title(statistic), *shown, show(gap, sign=True), people]

    def _choose_raters(self, dimension: str) -> list[str]:
        return self._figures.choose_raters(dimension, self._raters)

    def _write_dimension(self, dimension: str) -> Iterator[str]:
        kind, levels = self._figures.type_of(dimension), self._figures.levels_of(dimension)
        yield from ("", f"## {dimension or 'The figures'}", "", f"Scale ({kind}): {', '.join(levels)}.")
        yield from self._write_raters(dimension, kind)
        yield from self._write_alternative(dimension)
        yield from self._write_people(dimension, kind)
        if len(self._choose_raters(dimension)) > 1:
            yield from self._write_raters_among_themselves(dimension, kind)
        yield from self._write_slices(dimension, kind)
        yield from self._write_confusions(dimension)

    def _write_people(self, dimension: str, kind: str) -> Iterator[str]:
        figures, populations = self._figures, list_populations(self._figures, dimension)
        yield from ("", "### People among themselves", "")
        columns = PANEL_COLUMNS[kind]
        lines = []
        for population in populations:
            where = (dimension, population, "", "")
            # The ICCs of the units that all labelled share the name of the panel, not its coverage.
            first = figures.find(where, PANEL, HEADLINES[kind])
            coverage = show_share(first.get("coverage"))
            lines.append(
                [population, show_count(first, "num_units"), coverage, *figures.find_cells(where, PANEL, columns)]
            )
        yield from write_table(["population", "units", "of two labels or more", *map(title, columns)], lines)
        last = (dimension, populations[-1], "", "")
        if figures.find(last, PANEL, "icc_2_1").get("value") is not None:
            both = ", ".join(
                f"{title(name)} {show(figures.find(last, PANEL, name))}" for name in ("icc_2_1", "icc_3_1")
            )
            yield from ("", f"On the units that all annotators labelled: {both}.")
        yield from ("", "Each annotator against what the item's other annotators agree on:", "")
        yield from self._write_pairs(
            dimension, kind, [(p, who) for p in populations for who in self._ceilings(dimension, p)]
        )
        pairs = [who for who in figures.list_who(last, "human_human") if who[2]]
        if pairs:
            yield from ("", "Two annotators each, of those with most labels:", "")
            yield from self._write_pairs(dimension, kind, [(populations[-1], who) for who in pairs])

    def _ceilings(self, dimension: str, population: str) -> list[Who]:
        found = self._figures.list_who((dimension, population, "", ""), "human_ceiling")
        pooled = [who for who in found if who[1] == EACH_ANNOTATOR]
        return pooled + [who for who in found if who[1] != EACH_ANNOTATOR] if population == "all" else pooled

    def _write_raters(self, dimension: str, kind: str) -> Iterator[str]:
        raters = self._choose_raters(dimension)
        if not raters:
            return
        populations = list_populations(self._figures, dimension)
        yield from ("", "### Raters and people", "")
        lines: list[tuple[str, Who]] = []
        for rater in raters:
            for comparison, with_whom in (
                ("rater_target", TARGET),
                ("rater_rest", REST),
                ("rater_annotator", EACH_ANNOTATOR),
            ):
                lines += [(population, (comparison, rater, with_whom)) for population in populations]
        yield from self._write_pairs(dimension, kind, lines, limit=len(lines))
        where = (dimension, "all", "", "")
        single = [who for who in self._figures.list_who(where, "rater_annotator") if who[2] != EACH_ANNOTATOR]
        if single:
            yield from ("", "With single annotators, those with most labels:", "")
            yield from self._write_pairs(dimension, kind, [("all", who) for who in single])

    def _write_raters_among_themselves(self, dimension: str, kind: str) -> Iterator[str]:
        yield from ("", "### Raters among themselves", "")
        where: Where = (dimension, "all", "", "")
        panel: Who = ("rater_rater", ALL_RATERS, "")
        columns = PANEL_COLUMNS[kind]
        first = self._figures.find(where, panel, HEADLINES[kind])
        line = [show_count(first, "num_units"), show_share(first.get("coverage"))]
        cells = self._figures.find_cells(where, panel, columns)
        yield from write_table(["units", "of two ratings or more", *map(title, columns)], [[*line, *cells]])
        yield from self._write_before_and_after(where, columns if kind == "nominal" else (*columns, "icc_3_1"))
        yield ""
        pairs = [who for who in self._figures.list_who(where, "rater_rater") if who[2]]
        yield from self._write_pairs(dimension, kind, [("all", who) for who in pairs])
        yield from ("", "Differences against the target, first minus second, on the units that both rated:", "")
        lines = []
        for who in self._figures.list_who(where, "difference"):
            for name in PAIR_COLUMNS[kind] if who[2] != CEILING else ():
                row = self._figures.find(where, who, name)
                tested = [show_p(row.get("p_value")), show_p(row.get("p_adjusted"))]
                lines.append([who[1], who[2], title(name), show(row, sign=True), *tested])
        yield from write_table(["first", "second", "statistic", "difference", "p", "p (Holm)"], lines)

    def _write_before_and_after(self, where: Where, columns: Sequence[str]) -> Iterator[str]:
        lines = []
        for time, comparison in PANEL_COMPARISONS.items():
            for who in self._figures.list_who(where, comparison):
                rows = [self._figures.find(where, who, column) for column in columns]
                cells = [show(row, sign=time == "change") for row in rows]
                lines.append([time, who[1], show_count(rows[0], "num_compared"), *cells])
        if lines:
            yield from ("", "Before and after, on the units that all of these rated; the change is paired:", "")
            yield from write_table(["", "raters", "units", *map(title, columns)], lines)

    def _write_pairs(
        self, dimension: str, kind: str, pairs: Sequence[tuple[str, Who]], limit: int = MAX_LINES
    ) -> Iterator[str]:
        columns, lines = PAIR_COLUMNS[kind], []
        for population, who in pairs[:limit]:
            where = (dimension, population, "", "")
            first = self._figures.one_of(where, who)
            counted = [show_count(first, "num_compared"), show_share(first.get("coverage"))]
            lines.append([population, who[1], who[2], *counted, *self._figures.find_cells(where, who, columns)])
        yield from write_table(["population", "who", "with", "pairs", "coverage", *map(title, columns)], lines)
        if len(pairs) > limit:
            yield from ("", f"{len(pairs) - limit} more are in agreement.parquet.")

    def _write_alternative(self, dimension: str) -> Iterator[str]:
        lines = []
        for population in list_populations(self._figures, dimension):
            where = (dimension, population, "", "")
            for rater in self._choose_raters(dimension):
                who = ("alternative_test", rater, ALL_ANNOTATORS)
                rate, advantage = (self._figures.find(where, who, n) for n in ("winning_rate", "advantage_probability"))
                verdict = rate.get("undefined") or ("passes" if (rate.get("value") or 0.0) >= 0.5 else "does not pass")
                tested = len(self._figures.list_who(where, "alternative_test")) and sum(
                    found[1] == rater and found[2] != ALL_ANNOTATORS
                    for found in self._figures.list_who(where, "alternative_test")
                )
                lines.append([population, rater, f"{tested:,}", show(rate), show(advantage), verdict])
        if not lines:
            return
        yield from ("", "### May the rater stand in for an annotator?", "")
        yield (
            "The alternative-annotator test. Winning rate: the share of annotators whom the rater replaces, its lower "
            f"cost being worth {self._facts.eps:g}; it passes from .5. Advantage probability: how often the rater is "
            "at least as close to the others as the annotator is."
        )
        yield ""
        columns = ["population", "rater", "annotators", "winning rate", "advantage probability", ""]
        yield from write_table(columns, lines)

    def _write_slices(self, dimension: str, kind: str) -> Iterator[str]:
        figures, levels = self._figures, list(self._figures.levels_of(dimension))
        whos = [("human_ceiling", EACH_ANNOTATOR, REST), *(("rater_target", rater, TARGET) for rater in self._raters)]
        wheres = figures.list_slices(dimension)
        for slice_by in sorted({where[2] for where in wheres}):
            is_label = slice_by == "label"
            own = [where for where in wheres if where[2] == slice_by]
            own.sort(key=lambda where: (levels.index(where[3]) if is_label else 0, where[3]))
            name = "target label" if is_label else slice_by
            columns = ("exact_agreement",) if kind == "nominal" else ("exact_agreement", "mae", "bias")
            columns = columns if is_label else (HEADLINES[kind], *columns)
            lines = []
            for where in own:
                for who in whos:
                    first = figures.one_of(where, who)
                    if first:
                        counted = [show_count(first, "num_units"), show_share(first.get("coverage"))]
                        lines.append([where[3], who[1], who[2], *counted, *figures.find_cells(where, who, columns)])
            yield from ("", f"### By {name}", "")
            yield from write_table(
                [name, "who", "with", "units", "coverage", *map(title, columns)], lines[: 3 * MAX_LINES]
            )

    def _write_confusions(self, dimension: str) -> Iterator[str]:
        for matrix in self._facts.confusions:
            is_pooled = matrix["comparison"] == "rater_target" or matrix["who"] == EACH_ANNOTATOR
            is_whole = matrix["population"] == "all" and not matrix["slice_by"]
            if matrix["dimension"] == dimension and is_whole and is_pooled:
                rows = zip(matrix["levels"], matrix["counts"], strict=True)
                yield from ("", f"### {matrix['who']} (rows) and {matrix['with_whom']} (columns)", "")
                yield from write_table(
                    ["", *matrix["levels"]], [[level, *(f"{count:,}" for count in row)] for level, row in rows]
                )


KEY = (
    "",
    "## How to read it",
    "",
    "- alpha: Krippendorff's. 1: people agree fully, 0: as if by chance. It bears missing labels.",
    "- bias: the mean of the first's ratings minus the second's, in units of the scale.",
    "- coverage: what was compared over what could have been. Ratings that a rater did not give count against it.",
    "- all, filtered: all units, or those that the target rule keeps. Where it drops none they are the same.",
    "- Ratings that are no levels are rounded to 1/100 of a step; statistics of levels take the nearest one.",
    "- p: two-sided, from the replicates; Holm: over all pairs of raters and all dimensions of one statistic.",
    "- agreement.parquet has every figure, with more statistics; its column `undefined` says why one is null.",
)
