"""Reliability by slice as a section of the report: by target label, by annotator, by columns of the source. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from judgetrace.agreement.figures import Where, Who, show_share, title
from judgetrace.agreement.tables import EACH_ANNOTATOR, REST, TARGET
from judgetrace.reporting import blocks
from judgetrace.reporting.agreement_section import (
    HEADLINE_COLUMNS,
    WHOLE,
    AgreementInput,
    explain,
    make_dot,
    say_dot,
    show_cell,
)
from judgetrace.reporting.blocks import Block, Cells, Section, Table
from judgetrace.reporting.charts import DotRow, draw_dots
from judgetrace.reporting.folding import fold_figures, fold_rows, group

MAX_OPEN = 6
"""Dimensions that are not folded."""
PLOT_RATERS = 4
"""Raters in one plot: no two have one colour."""


def make_slices(found: AgreementInput) -> Section:
    """Make the section of reliability by slice: target label, annotator, and columns that the job was given."""
    made: list[Block] = []
    for number, dimension in enumerate(found.figures.dimensions):
        kind = found.figures.type_of(dimension)
        inner = [*_draw_labels(found, dimension, kind, number), *_tabulate_slices(found, dimension, kind)]
        inner += _tabulate_annotators(found, dimension, kind)
        if not dimension or number < MAX_OPEN:
            made += [*([blocks.Heading(dimension)] if dimension else []), *inner]
        else:
            made.append(blocks.Folded(dimension, inner))
    lead = "Where raters and people agree, and where they do not: by target label, by annotator, by what was asked for."
    return Section("slices", "Reliability by slice", lead, made, bool(found.simulated))


def _list_compared(found: AgreementInput, raters: Sequence[str]) -> list[tuple[str, Who]]:
    named: list[tuple[str, Who]] = [(found.name(rater), ("rater_target", rater, TARGET)) for rater in raters]
    return [*named, ("each annotator", ("human_ceiling", EACH_ANNOTATOR, REST))]


def _list_label_slices(found: AgreementInput, dimension: str) -> list[Where]:
    levels = list(found.figures.levels_of(dimension))
    own = [where for where in found.figures.list_slices(dimension) if where[2] == "label" and where[3] in levels]
    return sorted(own, key=lambda where: levels.index(where[3]))


def _draw_labels(found: AgreementInput, dimension: str, kind: str, number: int) -> Iterator[Block]:
    slices = _list_label_slices(found, dimension)
    if not slices:
        return
    plots: list[blocks.Figure] = []
    asked = found.list_raters(dimension)
    for place, raters in enumerate(group(asked, PLOT_RATERS) or [[]]):
        plots += _draw_raters(found, slices, kind, raters, f"slice{number}-{place}")
    rest = ", ".join(map(found.name, asked[PLOT_RATERS:]))
    yield from fold_figures(plots, 1 if kind == "nominal" else 2, f"By target label: {rest}")


def _draw_raters(
    found: AgreementInput, slices: Sequence[Where], kind: str, raters: Sequence[str], name: str
) -> Iterator[blocks.Figure]:
    statistics = ["exact_agreement"] if kind == "nominal" else ["bias", "exact_agreement"]
    compared = _list_compared(found, raters)
    for statistic in statistics:
        rows = [DotRow(w[3], [make_dot(found.figures.find(w, who, statistic)) for _, who in compared]) for w in slices]
        names = [name for name, _ in compared]
        what = {"bias": "signed error in levels (above 0: too high)", "exact_agreement": "share of exact agreement"}
        alternative = f"By target label, {what[statistic]}. " + " ".join(
            f"Label {row.name}: " + ", ".join(f"{n} {say_dot(d)}" for n, d in zip(names, row.dots, strict=True)) + "."
            for row in rows
        )
        svg = draw_dots(
            f"{name}-{statistic}", rows, names, alternative, what[statistic],
            zero=statistic == "bias", ceiling=True,
        )  # fmt: skip
        data = Table("The plot's data", ["label", *names], [[r.name, *map(say_dot, r.dots)] for r in rows])
        yield blocks.Figure(svg, f"By target label: {what[statistic]}.", alternative, data)


def _tabulate_slices(found: AgreementInput, dimension: str, kind: str) -> Iterator[Block]:
    statistics = ("exact_agreement", "mae", "bias") if kind != "nominal" else ("exact_agreement",)
    by: dict[str, list[Where]] = {}
    for where in found.figures.list_slices(dimension):
        by.setdefault(where[2], []).append(where)
    for column, slices in by.items():
        ordered = _list_label_slices(found, dimension) if column == "label" else sorted(slices)
        rows: list[Cells] = []
        for where in ordered:
            for name, who in _list_compared(found, found.in_order):
                first = found.figures.one_of(where, who)
                if first:
                    cells = [show_cell(found.figures.find(where, who, s), sign=s == "bias") for s in statistics]
                    rows.append([where[3], name, f"{first['num_units']:,}", show_share(first.get("coverage")), *cells])
        named = "target label" if column == "label" else column
        table = Table(f"By {named}", [named, "who", "units", "coverage", *map(title, statistics)], rows, 2)
        if rows:
            yield blocks.Folded(f"By {named}, as a table", fold_rows(table, WHOLE))


def _tabulate_annotators(found: AgreementInput, dimension: str, kind: str) -> Iterator[Block]:
    columns = HEADLINE_COLUMNS[kind]
    where = (dimension, "all", "", "")
    ceilings = [who for who in found.figures.list_who(where, "human_ceiling") if who[1] != EACH_ANNOTATOR]
    with_raters = [w for w in found.figures.list_who(where, "rater_annotator") if w[2] != EACH_ANNOTATOR]
    pairs = [("the others", who) for who in ceilings] + [(who[2], who) for who in with_raters]
    rows: list[Cells] = []
    for whom, who in pairs:
        cells = [show_cell(found.figures.find(where, who, column)) for column in columns]
        compared = found.figures.one_of(where, who).get("num_compared")
        rows.append([found.name(who[1]), whom, "" if compared is None else f"{compared:,}", *cells])
    if rows:
        heads = ["who", "with", "pairs", *(explain(column) for column in columns)]
        table = Table("Single annotators", heads, rows, 2)
        yield blocks.Folded("By annotator, as a table", fold_rows(table, WHOLE))
