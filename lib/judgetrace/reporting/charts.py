"""The report's plots as SVG: lines, bars of shares, and dots with intervals. Know nothing of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from judgetrace.reporting.svg import ROLES, SERIES, WIDTH, clean_label, new_figure, plot_style, write_svg


@dataclass(frozen=True)
class Line:
    """A line of a plot; points without a value are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A value with its interval, in a row of dots."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DotRow:
    """A row of a plot of dots: one for each series."""

    name: str
    dots: Sequence[Dot | None]


def draw_lines(
    name: str, lines: Sequence[Line], alternative: str, x_name: str, *, shares: bool = False, log_x: bool = False
) -> str:
    """Draw lines, each named at its end; `shares` from 0 to 100%, `log_x` with a tick at every point."""
    with plot_style():
        figure = new_figure(2.5)
        axes = figure.subplots()
        axes.grid(visible=False, axis="x")
        for number, line in enumerate(lines):
            points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
            if points:
                _draw_line(axes, points, line, ROLES[SERIES[number % len(SERIES)]])
        if log_x:
            ticks = sorted({x for line in lines for x in line.x})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if shares:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(_PERCENT)
        axes.set_xlabel(x_name)
        axes.spines["left"].set_visible(False)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=2)
        return write_svg(figure, name, alternative)


def _draw_line(axes: Any, points: Sequence[tuple[float, float]], line: Line, colour: str) -> None:
    many = len(points) > 40
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        linewidth=1.2 if many else 1.8,
        linestyle=(0, (4, 2)) if line.dashed else "-",
        marker=None if many else "o",
        markersize=4,
        markeredgewidth=0,
        label=clean_label(line.name),
    )


def draw_shares(
    name: str, rows: Sequence[tuple[str, float]], alternative: str, *, baseline: float | None = None
) -> str:
    """Draw a bar from 0 to its share for each row, with the share at its end; `baseline` is marked by a line."""
    with plot_style():
        figure = new_figure(0.5 + 0.25 * max(1, len(rows)))
        axes = figure.subplots()
        axes.grid(visible=False)
        places = range(len(rows))
        axes.barh(places, [1] * len(rows), color=ROLES["grid"], alpha=0.35, height=0.62, linewidth=0)
        axes.barh(places, [share for _, share in rows], color=ROLES["one"], height=0.62, linewidth=0)
        axes.set_yticks(places, [clean_label(label, 24) for label, _ in rows])
        for place, (_, share) in enumerate(rows):
            axes.annotate(f"{share:.0%}", (1.02, place), va="center", color=ROLES["ink"], annotation_clip=False)
        if baseline is not None:
            axes.axvline(baseline, color=ROLES["two"], linewidth=1, linestyle=(0, (3, 2)))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.13)
        axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        return write_svg(figure, name, alternative)


def draw_dots(
    name: str,
    rows: Sequence[DotRow],
    series: Sequence[str],
    alternative: str,
    x_name: str,
    *,
    zero: bool = False,
    ceiling: bool = False,
) -> str:
    """Draw a row of dots with intervals for each row, a colour for each series.

    zero     a line at 0
    ceiling  the last series is the human ceiling: drawn as a diamond, in its own colour
    """
    with plot_style():
        spread = 0.0 if len(series) == 1 else min(0.2, 0.62 / len(series))
        figure = new_figure(0.75 + max(0.27, 0.13 * len(series)) * max(1, len(rows)), WIDTH)
        axes = figure.subplots()
        axes.grid(visible=False, axis="y")
        for number, label in enumerate(series):
            is_ceiling = ceiling and number == len(series) - 1
            colour = ROLES["two" if is_ceiling else [s for s in SERIES if s != "two" or not ceiling][number % 4]]
            offset = (number - (len(series) - 1) / 2) * spread
            look = {"marker": "D" if is_ceiling else "o", "color": colour, "label": clean_label(label)}
            _draw_dots(axes, [row.dots[number] for row in rows], offset, look)
        if zero:
            axes.axvline(0, color=ROLES["quiet"], linewidth=0.8)
        axes.set_yticks(range(len(rows)), [clean_label(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_name)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=2, handletextpad=0.3)
        return write_svg(figure, name, alternative)


def _draw_dots(axes: Any, dots: Sequence[Dot | None], offset: float, look: dict[str, str]) -> None:
    places, values = [], []
    for place, dot in enumerate(dots):
        if dot is None or dot.value is None:
            continue
        places.append(place + offset)
        values.append(dot.value)
        if dot.low is not None and dot.high is not None:
            axes.hlines(place + offset, dot.low, dot.high, color=look["color"], linewidth=1.4, alpha=0.6)
    axes.plot(values, places, markersize=5, markeredgewidth=0, linestyle="none", **look)


_PERCENT = FuncFormatter(lambda value, _: f"{value:.0%}")
