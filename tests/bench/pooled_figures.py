"""Figures of agreement read off measure_agreement's output, and pooled over seeds. Pure; knows no benchmark.

The rule: a figure is the mean over seeds. Where the seeds' test items are disjoint, their bootstrap errors are
independent, so the pooled standard error is sqrt(sum of squares) / seeds; a seed's own is read off the width of its
interval. `interval` is the mean +- 1.96 of these: it says how far other test items would move the figure, of these
trained raters. `seeds_interval` is Student's t over the seeds' values: it takes in what another training would change,
and with three seeds it is wide. Both are of 95%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

STATISTICS = {"tau_b": "kendall_tau_b", "qwk": "kappa_quadratic", "mse": "mse"}
"""What figures are called here -> in the rows of measure_agreement."""
Z = 1.96
Figure = dict[str, Any]
"""value, low, high; null where undefined."""


def select_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Select the rows about all units with a target label: those that the target rule dropped are not rated."""
    return [row for row in rows if row["population"] == "filtered" and not row["slice_by"]]


def read_agreement(rows: Sequence[Mapping[str, Any]], rater: str) -> dict[str, Any]:
    """Read a rater's figures against the target label, with its coverage and how many items were compared."""
    own = [row for row in rows if row["comparison"] == "rater_target" and row["who"] == rater]
    found: dict[str, Any] = {name: _find(own, statistic) for name, statistic in STATISTICS.items()}
    return found | {"coverage": own[0]["coverage"], "items": own[0]["num_compared"]}


def read_difference(rows: Sequence[Mapping[str, Any]], rater: str, base: str) -> dict[str, Figure]:
    """Read a rater's figures less those of another on the items that both rated."""
    own = [row for row in rows if row["comparison"] == "difference"]
    straight = [row for row in own if (row["who"], row["with_whom"]) == (rater, base)]
    turned = [row for row in own if (row["who"], row["with_whom"]) == (base, rater)]
    return {name: _find(straight, s) if straight else _turn(_find(turned, s)) for name, s in STATISTICS.items()}


def _find(rows: Sequence[Mapping[str, Any]], statistic: str) -> Figure:
    row = next(row for row in rows if row["statistic"] == statistic)
    return {name: row[name] for name in ("value", "low", "high")}


def _turn(figure: Figure) -> Figure:
    value, low, high = (None if figure[name] is None else -figure[name] for name in ("value", "low", "high"))
    return {"value": value, "low": high, "high": low}


def pool(figures: Sequence[Figure]) -> dict[str, Any]:
    """Pool a figure over seeds by the rule above. One seed keeps its own interval."""
    values = [figure["value"] for figure in figures]
    if any(value is None for value in values):
        return {"mean": None, "interval": None, "seeds_interval": None, "by_seed": values}
    mean = sum(values) / len(values)
    intervals = {"interval": _interval_of_items(mean, figures), "seeds_interval": _interval_of_seeds(mean, values)}
    rounded = {name: None if bounds is None else _round(bounds) for name, bounds in intervals.items()}
    return {"mean": round(mean, 4), **rounded, "by_seed": _round(values)}


def _round(numbers: Sequence[float]) -> list[float]:
    return [round(number, 4) for number in numbers]


def _interval_of_items(mean: float, figures: Sequence[Figure]) -> list[float] | None:
    if any(figure["low"] is None for figure in figures):
        return None
    if len(figures) == 1:
        return [figures[0]["low"], figures[0]["high"]]
    errors = [(figure["high"] - figure["low"]) / (2 * Z) for figure in figures]
    error = math.sqrt(sum(e**2 for e in errors)) / len(errors)
    return [mean - Z * error, mean + Z * error]


def _interval_of_seeds(mean: float, values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:
        return None
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return [mean - reach, mean + reach]


def excludes_zero(interval: Sequence[float] | None) -> bool | None:
    """Whether an interval excludes zero; None where there is none."""
    return None if interval is None else interval[0] > 0 or interval[1] < 0
