"""Agreement as sections of the report: raters beside the human ceiling, before and after, confusion matrices. Pure.

Reads the rows that measure_agreement wrote; computes no statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.agreement.figures import (
    HEADLINES,
    PANEL_COMPARISONS,
    Figures,
    Row,
    Where,
    show_p,
    show_share,
    title,
)
from judgetrace.agreement.report import list_populations
from judgetrace.agreement.results import CEILING
from judgetrace.agreement.tables import EACH_ANNOTATOR, REST, TARGET
from judgetrace.agreement.warnings import count_units, find_warnings
from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, Cells, Matrix, Section, Table
from judgetrace.reporting.charts import Dot, DotRow, draw_dots
from judgetrace.reporting.folding import fold_figures, fold_rows

HEADLINE_COLUMNS = {
    "nominal": ("alpha_nominal", "cohen_kappa", "exact_agreement"),
    "ordinal": ("kendall_tau_b", "icc_3_1", "mse", "alpha_ordinal"),
    "interval": ("kendall_tau_b", "icc_3_1", "mse", "alpha_interval"),
}
LOWER_IS_BETTER = ("mse", "mae", "rmse")
MAX_PLOTS = 6
MAX_PAIRS = 6
SHOWN_WARNINGS = 8
WHOLE = "agreement.parquet"
"""Where all figures are."""


@dataclass(frozen=True)
class AgreementInput:
    """What measure_agreement wrote."""

    figures: Figures
    raters: tuple[str, ...]
    """In the order in which the job was given them."""
    confusions: Sequence[Mapping[str, Any]]
    level: float
    replicates: int
    rule: str
    pairs: Sequence[tuple[str, str, str]] = field(default_factory=tuple)
    """(before, after, what lies between them); the first MAX_PAIRS pairs of raters where none is named."""
    simulated: frozenset[str] = frozenset()
    """Raters whose engine is no model."""
    notes: Sequence[str] = ()
    """What measure_agreement says of its input: rows that it could not use, ratings that are missing."""
    remarks: Sequence[str] = ()
    """What must be minded first."""

    @property
    def compared(self) -> list[tuple[str, str, str]]:
        """The pairs to show."""
        return list(self.pairs) or self._list_all_pairs()[:MAX_PAIRS]

    @property
    def num_left_out(self) -> int:
        """How many pairs of raters are not shown though none was named."""
        return 0 if self.pairs else max(0, len(self._list_all_pairs()) - MAX_PAIRS)

    @property
    def in_order(self) -> list[str]:
        """All raters: first those of `pairs`, in their order."""
        return list(dict.fromkeys([*(rater for pair in self.pairs for rater in pair[:2]), *self.raters]))

    def list_raters(self, dimension: str) -> list[str]:
        """List the raters that were asked about a dimension, in the same order."""
        return self.figures.choose_raters(dimension, self.in_order)

    def _list_all_pairs(self) -> list[tuple[str, str, str]]:
        return [(a, b, "") for n, a in enumerate(self.raters) for b in self.raters[n + 1 :]]

    def name(self, rater: str) -> str:
        """Name a rater, saying so where it is simulated."""
        return f"{rater} (simulated)" if rater in self.simulated else rater


def make_headline(found: AgreementInput) -> Section:
    """Make the section that says how far raters agree with people, before and after, beside the human ceiling."""
    figures = found.figures
    made: list[Block] = []
    for kind in dict.fromkeys(figures.type_of(dimension) for dimension in figures.dimensions):
        own = [dimension for dimension in figures.dimensions if figures.type_of(dimension) == kind]
        made += fold_rows(_tabulate_targets(found, own, kind), WHOLE)
        changes = _tabulate_changes(found, own, kind)
        together = _tabulate_together(found, own, kind)
        made += [block for table in (changes, together) if table.rows for block in fold_rows(table, WHOLE)]
    if found.raters and _list_with_others(found):
        made += [*_draw_ceiling(found), *fold_rows(_tabulate_ceiling(found), WHOLE)]
    elif found.raters:
        made.append(blocks.Prose("No item that a rater rated has labels of two people: there is no human ceiling."))
    warnings = [*find_warnings(figures, found.raters, found.replicates), *found.notes]
    # Their backticks are Markdown's.
    made += _list_warnings([*found.remarks, *(text.replace("`", "") for text in warnings)])
    interval = f" Small, below a figure: its {found.level:.0%} bootstrap interval." if found.replicates else ""
    lead = (
        "Each rater against people's target label, and the human ceiling: every annotator in turn against what the "
        f"item's other annotators agree on.{interval} Target rule: {found.rule}."
    )
    return Section("agreement", "Agreement with people", lead, made, bool(found.simulated))


def _list_warnings(warnings: Sequence[str]) -> list[Block]:
    shown, rest = warnings[:SHOWN_WARNINGS], warnings[SHOWN_WARNINGS:]
    made: list[Block] = [blocks.Notes("Mind", shown)] if shown else []
    return [*made, blocks.Folded(f"{len(rest):,} more to mind", [blocks.Notes("Mind, too", rest)])] if rest else made


def where_of(found: AgreementInput, dimension: str) -> Where:
    """Return where the headline figures of a dimension hold: units that the target rule keeps."""
    return (dimension, list_populations(found.figures, dimension)[0], "", "")


def show_cell(row: Row, *, sign: bool = False, tone: str = "") -> Cell:
    """Show a value with its interval beside it."""
    value, low, high = row.get("value"), row.get("low"), row.get("high")
    if value is None:
        return Cell("undefined" if row.get("undefined") else "\u2013", row.get("undefined") or "", "quiet")
    mark = "+" if sign else ""
    detail = "" if low is None or high is None else f"{low:{mark}.2f} to {high:{mark}.2f}"
    return Cell(_minus(f"{value:{mark}.3f}"), _minus(detail), tone)


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def _tabulate_targets(found: AgreementInput, dimensions: Sequence[str], kind: str) -> Table:
    figures, columns = found.figures, HEADLINE_COLUMNS[kind]
    named, rows = any(dimensions), list[Cells]()
    for dimension in dimensions:
        where = where_of(found, dimension)
        comparisons = [(found.name(rater), ("rater_target", rater, TARGET)) for rater in found.list_raters(dimension)]
        ceiling = [("Human ceiling", ("human_ceiling", EACH_ANNOTATOR, REST))]
        for name, who in [*comparisons, *ceiling]:
            first = figures.one_of(where, who)
            units = f"{count_units(figures, dimension, where[1]):,}"
            cells = [show_cell(figures.find(where, who, column)) for column in columns]
            head = Cell(name, tone="ceiling" if who[0] == "human_ceiling" else "")
            rows.append([*([dimension] if named else []), head, units, show_share(first.get("coverage")), *cells])
    return Table(
        "Raters and the target label",
        [*(["dimension"] if named else []), "rater", "units", "coverage", *(explain(column) for column in columns)],
        rows,
        num_heads=1 + named,
        note="MSE: smaller is better. The other figures: 1 is full agreement." if "mse" in columns else "",
    )


def explain(statistic: str) -> str:
    """Name a statistic at the head of a column."""
    names = {"kendall_tau_b": "Kendall τ-b", "alpha_ordinal": "\u03b1 (ordinal)", "alpha_nominal": "\u03b1 (nominal)"}
    return {**names, "alpha_interval": "\u03b1 (interval)"}.get(statistic, title(statistic))


def _tabulate_changes(found: AgreementInput, dimensions: Sequence[str], kind: str) -> Table:
    columns, named, rows = HEADLINE_COLUMNS[kind], any(dimensions), list[Cells]()
    for dimension in dimensions:
        for before, after, what in found.compared:
            changes = [find_change(found, dimension, before, after, column) for column in columns]
            if any(change.get("value") is not None for change in changes):
                start = [dimension] if named else []
                head = f"{found.name(before)} → {found.name(after)}"
                rows.append([*start, Cell(head, what), *map(show_change, columns, changes)])
    note = "After minus before, paired by unit. p: two-sided, Holm's correction over all pairs and dimensions."
    if found.num_left_out:
        note += f" {found.num_left_out} more pairs of raters are not shown; `comparisons` names those to show."
    return Table(
        "Before and after: the difference, on the units that both rated",
        [*(["dimension"] if named else []), "raters", *(f"Δ {explain(column)}" for column in columns)],
        rows,
        num_heads=1 + named,
        note=note,
    )


def _tabulate_together(found: AgreementInput, dimensions: Sequence[str], kind: str) -> Table:
    """Tabulate how far raters agree with each other before and after, where the agreement has such raters."""
    named, rows, whos = any(dimensions), list[Cells](), dict[str, None]()
    for dimension in dimensions:
        where = where_of(found, dimension)
        times = {time: who for time, name in PANEL_COMPARISONS.items() for who in found.figures.list_who(where, name)}
        if "change" not in times:
            continue
        whos[f"Before: {times['before'][1]}. After: {times['after'][1]}."] = None
        for statistic in ("icc_3_1", HEADLINES[kind]):
            before, after, change = (found.figures.find(where, who, statistic) for who in times.values())
            if before:
                cells = [show_cell(before), show_cell(after), show_change(statistic, change)]
                head = [*([dimension] if named else []), explain(statistic)]
                rows.append([*head, f"{before['num_compared']:,}", *cells])
    note = f"{' '.join(whos)} On the units that all of them rated; the change is paired by unit."
    columns = [*(["dimension"] if named else []), "figure", "units", "before", "after", "change"]
    return Table("Raters with each other", columns, rows, num_heads=1 + named, note=note)


def find_change(found: AgreementInput, dimension: str, before: str, after: str, statistic: str) -> dict[str, Any]:
    """Find the row of a paired difference, after minus before; empty where there is none."""
    where = where_of(found, dimension)
    row = found.figures.find(where, ("difference", after, before), statistic)
    if row:
        return dict(row)
    row = found.figures.find(where, ("difference", before, after), statistic)
    turned = {name: None if row.get(name) is None else -row[name] for name in ("value",)}
    low, high = row.get("low"), row.get("high")
    bounds = {"low": None if high is None else -high, "high": None if low is None else -low}
    return {**row, **turned, **bounds} if row else {}


def show_change(statistic: str, row: Row) -> Cell:
    """Show a paired difference: good or bad where its whole interval is on one side of 0."""
    low, high, tone = row.get("low"), row.get("high"), ""
    if low is not None and high is not None and (low > 0 or high < 0):
        tone = "good" if (low > 0) != (statistic in LOWER_IS_BETTER) else "bad"
    cell = show_cell(row, sign=True, tone=tone)
    p_value = row.get("p_adjusted")
    return cell if p_value is None else Cell(cell.text, f"{cell.detail} · p {show_p(p_value)}", cell.tone)


def _draw_ceiling(found: AgreementInput) -> list[Block]:
    plots = [_plot_ceiling(found, dimension, number) for number, dimension in enumerate(_list_with_others(found))]
    what = blocks.Prose(
        "How far a rater, and a person in its place, agree with what the item's other annotators agree on, with "
        "intervals. Where the two meet, the rater is as good as a person."
    )
    more = f"{len(plots) - MAX_PLOTS} more dimensions beside the human ceiling, as plots"
    return [what, *fold_figures(plots, MAX_PLOTS, more)]


def _plot_ceiling(found: AgreementInput, dimension: str, number: int) -> blocks.Figure:
    rows = [
        DotRow(found.name(rater), [make_dot(row) for row in _find_beside(found, dimension, rater)])
        for rater in found.list_raters(dimension)
    ]
    caption = f"{dimension or 'Raters'} beside the human ceiling."
    alternative = f"{caption} Agreement with the item's other annotators. " + " ".join(
        f"{row.name}: rater {say_dot(row.dots[0])}, a person {say_dot(row.dots[1])}." for row in rows
    )
    series = ["rater", "a person in its place"]
    svg = draw_dots(f"ceiling{number}", rows, series, alternative, "Krippendorff's \u03b1", zero=True, ceiling=True)
    data = Table("The plot's data", ["rater", "rater, others", "person, others"], [
        [row.name, *(say_dot(dot) for dot in row.dots)] for row in rows
    ])  # fmt: skip
    return blocks.Figure(svg, caption, alternative, data)


def _list_with_others(found: AgreementInput) -> list[str]:
    """List the dimensions in which some rater can be held against several people."""
    return [
        dimension
        for dimension in found.figures.dimensions
        if any(row.get("value") is not None for rater in found.raters for row in _find_beside(found, dimension, rater))
    ]


def _find_beside(found: AgreementInput, dimension: str, rater: str) -> tuple[Row, Row]:
    statistic, where = HEADLINES[found.figures.type_of(dimension)], where_of(found, dimension)
    mine = found.figures.find(where, ("rater_rest", rater, REST), statistic)
    return mine, found.figures.find(where, ("ceiling_beside", rater, REST), statistic)


def make_dot(row: Row) -> Dot:
    """Make a dot of a row of statistics."""
    return Dot(row.get("value"), row.get("low"), row.get("high"))


def say_dot(dot: Dot | None) -> str:
    """Say what a dot shows."""
    if dot is None or dot.value is None:
        return "undefined"
    bounds = "" if dot.low is None or dot.high is None else f" [{dot.low:.2f}, {dot.high:.2f}]"
    return _minus(f"{dot.value:.3f}{bounds}")


def _tell_tone(low: float | None, high: float | None) -> str:
    """Tell whether a difference from the ceiling is surely none or above it, or surely below."""
    if low is not None and low >= 0:
        return "good"
    return "bad" if high is not None and high < 0 else ""


def _tabulate_ceiling(found: AgreementInput) -> Table:
    named, rows = any(found.figures.dimensions), list[Cells]()
    for dimension in found.figures.dimensions:
        statistic = HEADLINES[found.figures.type_of(dimension)]
        for population in list_populations(found.figures, dimension):
            where = (dimension, population, "", "")
            for rater in found.list_raters(dimension):
                names = (("rater_rest", rater, REST), ("ceiling_beside", rater, REST))
                mine, person = (found.figures.find(where, who, statistic) for who in names)
                gap = found.figures.find(where, ("difference", rater, CEILING), statistic)
                tone = _tell_tone(gap.get("low"), gap.get("high"))
                units = f"{count_units(found.figures, dimension, population):,}"
                cells = [show_cell(mine), show_cell(person), show_cell(gap, sign=True, tone=tone)]
                rows.append([*([dimension] if named else []), found.name(rater), f"{population}: {units}", *cells])
    return Table(
        "Beside the human ceiling (Krippendorff's \u03b1)",
        [*(["dimension"] if named else []), "rater", "units", "rater, others", "person, others", "difference"],
        rows,
        num_heads=1 + named,
        note="filtered: units that the target rule keeps; all: also those on which people disagree too much.",
    )


def make_confusions(found: AgreementInput) -> Section:
    """Make the section of confusion matrices."""
    matrices = []
    place = {EACH_ANNOTATOR: -1, **{rater: number for number, rater in enumerate(found.in_order)}}
    for entry in sorted(found.confusions, key=lambda one: (one["dimension"], place.get(one["who"], 0))):
        dimension = entry["dimension"]
        if entry["slice_by"] or entry["population"] != where_of(found, dimension)[1]:
            continue
        who = "Each annotator" if entry["comparison"] == "human_ceiling" else found.name(entry["who"])
        if entry["who"] not in (EACH_ANNOTATOR, *found.raters):
            continue
        caption = f"{dimension}: {who}" if dimension else who
        names = ("annotator" if entry["comparison"] == "human_ceiling" else "rater", entry["with_whom"])
        matrices.append(Matrix(caption, *names, entry["levels"], entry["counts"]))
    limit = 4 * (1 + len(found.raters))
    made: list[Block] = [blocks.Matrices(matrices[:limit])]
    if matrices[limit:]:
        made.append(blocks.Folded(f"{len(matrices) - limit} more", [blocks.Matrices(matrices[limit:])]))
    lead = (
        "Counts of units. Shade: the share of its column, so that a column reads as what became of one label. Ratings "
        "between levels count for the nearest."
    )
    return Section("confusion", "Confusion matrices", lead, made, bool(found.simulated))
