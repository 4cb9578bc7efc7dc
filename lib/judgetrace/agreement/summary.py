"""The first look at agreement, for a terminal: each rater beside the human ceiling, one figure a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from judgetrace.agreement.figures import HEADLINES, Figures, Row, Where, Who, show, show_share, title
from judgetrace.agreement.report import PANEL, ReportFacts, list_populations
from judgetrace.agreement.tables import EACH_ANNOTATOR, REST, TARGET
from judgetrace.agreement.warnings import count_units

MAX_DIMENSIONS = 10


def print_first_look(console: Console, rows: Sequence[Row], facts: ReportFacts) -> None:
    """Print a table for each dimension: raters, human ceiling and people among themselves, with intervals."""
    figures = Figures(rows, facts.scales)
    for dimension in figures.dimensions[:MAX_DIMENSIONS]:
        statistic = HEADLINES[figures.type_of(dimension)]
        table = Table(title=escape(f"Agreement{f' ({dimension})' if dimension else ''}"), title_justify="left")
        for name in ("units", "who", "with whom", title(statistic), "coverage"):
            table.add_column(name, no_wrap=name == title(statistic), overflow="fold")
        for population in list_populations(figures, dimension):
            units = f"{population}: {count_units(figures, dimension, population):,}"
            where, raters = (dimension, population, "", ""), figures.choose_raters(dimension, facts.raters)
            for who, with_whom, row in _list_lines(figures, where, raters, statistic):
                table.add_row(*map(Text, (units, who, with_whom, show(row), show_share(row.get("coverage")))))
                units = ""
            table.add_section()
        console.print(table)
    if len(figures.dimensions) > MAX_DIMENSIONS:
        console.print(f"... and {len(figures.dimensions) - MAX_DIMENSIONS} more dimensions, in the report")


def _list_lines(
    figures: Figures, where: Where, raters: Sequence[str], statistic: str
) -> Iterator[tuple[str, str, Row]]:
    for rater in raters:
        yield rater, "target label", figures.find(where, ("rater_target", rater, TARGET), statistic)
        yield rater, "the other annotators", figures.find(where, ("rater_rest", rater, REST), statistic)
    ceiling: Who = ("human_ceiling", EACH_ANNOTATOR, REST)
    yield "each person", "the others (ceiling)", figures.find(where, ceiling, statistic)
    yield "people", "among themselves", figures.find(where, PANEL, statistic)
