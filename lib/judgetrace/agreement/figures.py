"""Figures for people: look rows of statistics up, choose columns by the type of scale, write Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from judgetrace.agreement.tables import TARGET
from judgetrace.scale import ScaleConfig

Row = Mapping[str, Any]
Where = tuple[str, str, str, str]
"""(dimension, population, slice_by, slice)."""
Who = tuple[str, str, str]
"""(comparison, who, with whom)."""

HEADLINES = {"nominal": "alpha_nominal", "ordinal": "alpha_ordinal", "interval": "alpha_interval"}
PAIR_COLUMNS = {
    "nominal": ("alpha_nominal", "cohen_kappa", "gwet_ac1", "exact_agreement"),
    "ordinal": ("alpha_ordinal", "kendall_tau_b", "kappa_quadratic", "icc_3_1", "exact_agreement", "mae", "bias"),
    "interval": ("alpha_interval", "kendall_tau_b", "icc_2_1", "icc_3_1", "exact_agreement", "mse", "bias"),
}
PANEL_COLUMNS = {
    "nominal": ("alpha_nominal", "fleiss_kappa", "gwet_ac1", "exact_agreement"),
    "ordinal": ("alpha_ordinal", "fleiss_kappa", "gwet_ac2_ordinal", "exact_agreement", "adjacent_agreement"),
    "interval": ("alpha_interval", "fleiss_kappa", "gwet_ac2_quadratic", "exact_agreement", "adjacent_agreement"),
}
PANEL_COMPARISONS = {"before": "raters_before", "after": "raters_after", "change": "raters_change"}
"""Time -> comparison of raters with each other, on the units that all of them rated at both times."""
TITLES = {
    "alpha_nominal": "alpha (nominal)",
    "alpha_ordinal": "alpha (ordinal)",
    "alpha_interval": "alpha (interval)",
    "fleiss_kappa": "Fleiss' kappa",
    "cohen_kappa": "Cohen's kappa",
    "kappa_linear": "linear kappa",
    "kappa_quadratic": "quadratic kappa",
    "gwet_ac1": "AC1",
    "gwet_ac2_linear": "AC2 (linear)",
    "gwet_ac2_ordinal": "AC2 (ordinal)",
    "gwet_ac2_quadratic": "AC2 (quadratic)",
    "kendall_tau_b": "tau-b",
    "exact_agreement": "exact",
    "adjacent_agreement": "within one level",
    "mae": "mean error",
    "mse": "MSE",
    "icc_2_1": "ICC(2,1)",
    "icc_3_1": "ICC(3,1)",
}


class Figures:
    """Rows of statistics (schema AGREEMENT), by where they hold and who is compared."""

    def __init__(self, rows: Iterable[Row], scales: ScaleConfig):
        self._scales = scales
        self._found: dict[Where, dict[Who, dict[str, Row]]] = {}
        for row in rows:
            where = (row["dimension"], row["population"], row["slice_by"], row["slice"])
            who = (row["comparison"], row["who"], row["with_whom"])
            self._found.setdefault(where, {}).setdefault(who, {})[row["statistic"]] = row

    @property
    def dimensions(self) -> list[str]:
        """The dimensions, in order."""
        return sorted({where[0] for where in self._found})

    def type_of(self, dimension: str) -> str:
        """Return the type of a dimension's scale."""
        scale = self._scales.of(dimension)
        assert scale is not None, f"figures of {dimension!r} have a scale"
        return scale.type

    def levels_of(self, dimension: str) -> Sequence[str]:
        """Return the levels of a dimension's scale."""
        scale = self._scales.of(dimension)
        return () if scale is None else scale.values

    def list_who(self, where: Where, comparison: str) -> list[Who]:
        """List who is compared with whom."""
        return [who for who in self._found.get(where, {}) if who[0] == comparison]

    def choose_raters(self, dimension: str, raters: Iterable[str]) -> list[str]:
        """Choose the raters that have figures in a dimension: those that were asked about it."""
        where = (dimension, "all", "", "")
        return [rater for rater in raters if self.all_of(where, ("rater_target", rater, TARGET))]

    def list_slices(self, dimension: str) -> list[Where]:
        """List the slices of all of a dimension's units."""
        return [where for where in self._found if where[:2] == (dimension, "all") and where[2]]

    def all_of(self, where: Where, who: Who) -> Mapping[str, Row]:
        """Return a comparison's rows by statistic; empty where there are none."""
        return self._found.get(where, {}).get(who, {})

    def one_of(self, where: Where, who: Who) -> Row:
        """Return any row of a comparison, for what all of them share; empty where there are none."""
        return next(iter(self.all_of(where, who).values()), {})

    def find(self, where: Where, who: Who, statistic: str) -> Row:
        """Return a row; empty where there is none."""
        return self.all_of(where, who).get(statistic, {})

    def find_cells(self, where: Where, who: Who, statistics: Sequence[str]) -> list[str]:
        """Show some statistics of a comparison."""
        return [show(self.find(where, who, name), sign=name == "bias") for name in statistics]


def write_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a Markdown table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join("---" for _ in columns) + "|"
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"


def title(statistic: str) -> str:
    """Name a statistic for people."""
    return TITLES.get(statistic, statistic)


def show(row: Row, sign: bool = False) -> str:
    """Show a value with its interval; "undefined" where it is, nothing where there is no row."""
    value, low, high = row.get("value"), row.get("low"), row.get("high")
    if value is None:
        return "undefined" if row.get("undefined") else ""
    mark = "+" if sign else ""
    if low is None or high is None:
        return f"{value:{mark}.3f}"
    return f"{value:{mark}.3f} [{low:{mark}.3f}, {high:{mark}.3f}]"


def show_count(row: Row, column: str) -> str:
    """Show a count of a row."""
    return f"{row[column]:,}" if row.get(column) is not None else ""


def show_share(value: float | None) -> str:
    """Show a share in percent; never 100% where it is less, nor 0% where it is more."""
    if value is None:
        return ""
    return f"{value:.1%}" if value in (0.0, 1.0) or 0.0005 <= value < 0.9995 else f"{value:.4%}"


def show_p(value: float | None) -> str:
    """Show a p-value."""
    return "" if value is None else f"{value:.3f}"
