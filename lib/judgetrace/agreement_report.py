"""The Markdown report of measure_agreement: what to look at first, warnings, then the tables behind it.

Knows rows of statistics (schema AGREEMENT) and confusion matrices, nothing of how they were counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.agreement_results import CEILING
from judgetrace.agreement_tables import ALL_ANNOTATORS, ALL_RATERS, EACH_ANNOTATOR, REST, TARGET
from judgetrace.scale import ScaleConfig

Row = Mapping[str, Any]

MAX_SLICES = 12
MAX_PAIRS = 15
SKEW = 0.6
"""Where one label has a larger share of the targets, percent agreement and AC1 are high by themselves."""

HEADLINE = {"nominal": "alpha_nominal", "ordinal": "alpha_ordinal", "interval": "alpha_interval"}
COLUMNS = {
    "nominal": ("alpha_nominal", "cohen_kappa", "gwet_ac1", "exact_agreement"),
    "ordinal": (
        "alpha_ordinal",
        "kendall_tau_b",
        "kappa_quadratic",
        "exact_agreement",
        "adjacent_agreement",
        "mae",
        "bias",
    ),
    "interval": ("alpha_interval", "kendall_tau_b", "icc_3_1", "icc_2_1", "exact_agreement", "mse", "bias"),
}
PANEL_COLUMNS = {
    "nominal": ("alpha_nominal", "fleiss_kappa", "gwet_ac1", "exact_agreement"),
    "ordinal": (
        "alpha_ordinal",
        "alpha_interval",
        "fleiss_kappa",
        "gwet_ac2_ordinal",
        "exact_agreement",
        "adjacent_agreement",
    ),
    "interval": (
        "alpha_interval",
        "alpha_ordinal",
        "fleiss_kappa",
        "gwet_ac2_quadratic",
        "exact_agreement",
        "adjacent_agreement",
    ),
}
TITLES = {
    "alpha_nominal": "alpha (nominal)",
    "alpha_ordinal": "alpha (ordinal)",
    "alpha_interval": "alpha (interval)",
    "fleiss_kappa": "Fleiss' kappa",
    "cohen_kappa": "Cohen's kappa",
    "kappa_linear": "linear kappa",
    "kappa_quadratic": "quadratic kappa",
    "gwet_ac1": "AC1",
    "gwet_ac2_ordinal": "AC2 (ordinal)",
    "gwet_ac2_quadratic": "AC2 (quadratic)",
    "kendall_tau_b": "tau-b",
    "exact_agreement": "exact",
    "adjacent_agreement": "within one level",
    "mae": "mean error",
    "mse": "MSE",
    "bias": "bias",
    "icc_2_1": "ICC(2,1)",
    "icc_3_1": "ICC(3,1)",
}


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
    notes: Sequence[str] = ()
    confusions: Sequence[Row] = field(default_factory=list)


def write_report(rows: Sequence[Row], facts: ReportFacts) -> str:
    """Write the report."""
    report = _Report(rows, facts)
    return "\n".join(report.write()) + "\n"


class _Report:
    def __init__(self, rows: Sequence[Row], facts: ReportFacts):
        self.facts = facts
        self.found: dict[tuple[str, str, str, str], dict[tuple[str, str, str], dict[str, Row]]] = {}
        for row in rows:
            where = (row["dimension"], row["population"], row["slice_by"], row["slice"])
            who = (row["comparison"], row["who"], row["with_whom"])
            self.found.setdefault(where, {}).setdefault(who, {})[row["statistic"]] = row
        self.dimensions = sorted({key[0] for key in self.found})

    def write(self) -> Iterator[str]:
        facts = self.facts
        yield "# Agreement"
        yield ""
        yield (
            f"{facts.annotations:,} annotations of {facts.units:,} units (an item in a dimension). "
            f"Target rule: {facts.rule}. "
            + (
                f"In brackets: {facts.level:.0%} intervals, {facts.replicates:,} bootstrap replicates over {facts.resampled}."
                if facts.replicates
                else "No intervals were asked for."
            )
        )
        yield from self._write_first_look()
        warnings = list(self._find_warnings())
        yield from ("", "## Mind", "", *(f"- {text}" for text in warnings)) if warnings else ()
        for dimension in self.dimensions:
            yield from self._write_dimension(dimension)
        yield from _write_key()

    def _type(self, dimension: str) -> str:
        scale = self.facts.scales.of(dimension)
        return "nominal" if scale is None else scale.type

    def _cell(self, where: tuple[str, str, str, str], who: tuple[str, str, str], statistic: str) -> Row:
        return self.found.get(where, {}).get(who, {}).get(statistic, {})

    def _write_first_look(self) -> Iterator[str]:
        """Write the one table to look at first: each rater beside the human ceiling."""
        yield from ("", "## First look", "")
        if not self.facts.raters:
            yield "No rater was given: how far people agree is what a rater can be held against."
            yield ""
        else:
            yield (
                "How close each rater comes to what people agree on, and how close a person does. `rater, rest` and "
                "`person, rest` are both against the other annotators of the item, on the items that the rater rated, "
                "so they compare like with like; `difference` is the first minus the second. A rater whose difference "
                "is not below 0 agrees with people as well as one of them does."
            )
            yield ""
        columns = ["dimension", "statistic", "people among themselves", "person, rest (ceiling)"]
        if self.facts.raters:
            columns = [
                "dimension",
                "rater",
                "statistic",
                "rater, target",
                "coverage",
                "rater, rest",
                "difference",
                "people among themselves",
            ]
        yield from _table(columns, self._list_first_look())

    def _list_first_look(self) -> Iterator[list[str]]:
        for dimension in self.dimensions:
            statistic = HEADLINE[self._type(dimension)]
            where = (dimension, "all", "", "")
            people = _show(self._cell(where, ("human_human", ALL_ANNOTATORS, ""), statistic))
            name = dimension or "(the one)"
            if not self.facts.raters:
                ceiling = self._cell(where, ("human_ceiling", EACH_ANNOTATOR, REST), statistic)
                yield [name, TITLES[statistic], people, _show(ceiling)]
            for rater in self.facts.raters:
                target = self._cell(where, ("rater_target", rater, TARGET), statistic)
                rest = self._cell(where, ("rater_rest", rater, REST), statistic)
                gap = self._cell(where, ("difference", rater, CEILING), statistic)
                yield [
                    name,
                    rater,
                    TITLES[statistic],
                    _show(target),
                    _percent(target.get("coverage")),
                    _show(rest),
                    _show(gap, sign=True),
                    people,
                ]

    def _find_warnings(self) -> Iterator[str]:
        yield from self.facts.notes
        for dimension in self.dimensions:
            named = f"{dimension}: " if dimension else ""
            for text in self._find_skew(dimension):
                yield named + text
            for rater in self.facts.raters:
                for text in self._find_rater_warnings(dimension, rater):
                    yield named + text
            for text in self._find_filter(dimension):
                yield named + text

    def _find_skew(self, dimension: str) -> Iterator[str]:
        units = {
            key[3]: next(iter(next(iter(found.values())).values()))["num_units"]
            for key, found in self.found.items()
            if key[:3] == (dimension, "all", "label") and found
        }
        total = sum(units.values())
        if total and max(units.values()) / total > SKEW:
            label, count = max(units.items(), key=lambda pair: pair[1])
            yield (
                f"{count / total:.0%} of the target labels are `{label}`. Exact agreement, AC1 and AC2 are high by "
                "themselves then; look at alpha and kappa, and at the confusion matrix."
            )

    def _find_rater_warnings(self, dimension: str, rater: str) -> Iterator[str]:
        where, who = (dimension, "all", "", ""), ("rater_target", rater, TARGET)
        found = self.found.get(where, {}).get(who, {})
        first = next(iter(found.values()), {})
        coverage = first.get("coverage")
        if coverage is not None and coverage < 1:
            yield f"{rater} gave a rating for {_percent(coverage)} of the units; the others are in no figure of its."
        bias, low, high = (found.get("bias", {}).get(key) for key in ("value", "low", "high"))
        if bias is not None and low is not None and high is not None and (low > 0 or high < 0):
            yield (
                f"{rater} rates {abs(bias):.2f} {'above' if bias > 0 else 'below'} the target on average. ICC(3,1), "
                "tau-b and correlations don't see that; ICC(2,1), alpha and the errors do."
            )
        undefined = [TITLES.get(name, name) for name, row in found.items() if row["undefined"] and row["num_compared"]]
        if undefined:
            reason = next(row["undefined"] for row in found.values() if row["undefined"])
            yield f"{rater}: {', '.join(undefined[:5])} undefined: {reason}."

    def _find_filter(self, dimension: str) -> Iterator[str]:
        kept, everything = (
            self._cell((dimension, population, "", ""), ("human_human", ALL_ANNOTATORS, ""), "exact_agreement")
            for population in ("filtered", "all")
        )
        if not everything or not everything["num_units"]:
            return
        dropped = everything["num_units"] - (kept["num_units"] if kept else 0)
        if dropped:
            yield (
                f"the target rule drops {dropped:,} of {everything['num_units']:,} units, those on which people "
                "disagree. Figures on the others (`filtered`) flatter everybody; the first look is on all units."
            )

    def _write_dimension(self, dimension: str) -> Iterator[str]:
        kind = self._type(dimension)
        scale = self.facts.scales.of(dimension)
        levels = ", ".join(scale.values) if scale else ""
        yield from ("", f"## {dimension or 'Figures'}", "", f"{kind} scale: {levels}", "")
        populations = [name for name in ("filtered", "all") if (dimension, name, "", "") in self.found]
        if len(populations) == 2 and self._is_equal(dimension):
            populations = ["all"]
        yield from self._write_people(dimension, kind, populations)
        yield from self._write_raters(dimension, kind, populations)
        yield from self._write_alternative(dimension, populations)
        yield from self._write_slices(dimension, kind)
        yield from self._write_confusions(dimension)

    def _is_equal(self, dimension: str) -> bool:
        """Whether the target rule drops nothing."""
        units = [
            self._cell((dimension, population, "", ""), ("human_human", ALL_ANNOTATORS, ""), "exact_agreement").get(
                "num_units"
            )
            for population in ("filtered", "all")
        ]
        return units[0] == units[1]

    def _write_people(self, dimension: str, kind: str, populations: Sequence[str]) -> Iterator[str]:
        yield from ("### People among themselves", "")
        columns = PANEL_COLUMNS[kind]
        lines = []
        for population in populations:
            found = self.found[dimension, population, "", ""]
            panel = found.get(("human_human", ALL_ANNOTATORS, ""), {})
            lines.append([population, _units(panel), *(_show(panel.get(name, {})) for name in columns)])
        yield from _table(["population", "units", *(TITLES[name] for name in columns)], lines)
        iccs = self.found[dimension, populations[-1], "", ""].get(("human_human", ALL_ANNOTATORS, ""), {})
        if iccs.get("icc_2_1", {}).get("value") is not None:
            both = ", ".join(f"{TITLES[name]} {_show(iccs[name])}" for name in ("icc_2_1", "icc_3_1"))
            yield from ("", f"On the units that all annotators rated: {both}.")
        yield from ("", "Each annotator against the target of the item's others, the human ceiling:", "")
        yield from self._write_pairs(dimension, kind, populations, ("human_ceiling",), MAX_PAIRS)
        if any(key[0] == "human_human" and key[2] for key in self.found[dimension, populations[-1], "", ""]):
            yield from ("", "Annotators in pairs, those with most labels:", "")
            yield from self._write_pairs(dimension, kind, populations[-1:], ("human_human",), MAX_PAIRS)

    def _write_raters(self, dimension: str, kind: str, populations: Sequence[str]) -> Iterator[str]:
        if not self.facts.raters:
            return
        yield from ("", "### Raters and people", "")
        yield from self._write_pairs(
            dimension, kind, populations, ("rater_target", "rater_rest", "rater_annotator"), 6 * MAX_PAIRS
        )
        if len(self.facts.raters) < 2:
            return
        yield from ("", "### Raters among themselves", "")
        panel = self.found[dimension, "all", "", ""].get(("rater_rater", ALL_RATERS, ""), {})
        columns = PANEL_COLUMNS[kind]
        yield from _table(
            ["", "units", *(TITLES[n] for n in columns)],
            [[ALL_RATERS, _units(panel), *(_show(panel.get(n, {})) for n in columns)]],
        )
        yield ""
        yield from self._write_pairs(dimension, kind, populations[-1:], ("rater_rater",), MAX_PAIRS)
        yield from self._write_differences(dimension, kind, populations[-1])

    def _write_pairs(
        self, dimension: str, kind: str, populations: Sequence[str], comparisons: Sequence[str], limit: int
    ) -> Iterator[str]:
        columns, lines = COLUMNS[kind], []
        for comparison in comparisons:
            for population in populations:
                found = self.found[dimension, population, "", ""]
                keys = [
                    key
                    for key in found
                    if key[0] == comparison
                    and key[2]
                    and "bias" in found[key]
                    or key[0] == comparison
                    and key[2]
                    and kind == "nominal"
                ]
                keys.sort(key=lambda key: (key[1] != EACH_ANNOTATOR, key[1], key[2] != EACH_ANNOTATOR, key[2]))
                for key in keys:
                    first = next(iter(found[key].values()))
                    cells = [_show(found[key].get(name, {}), sign=name == "bias") for name in columns]
                    lines.append(
                        [population, key[1], key[2], f"{first['num_compared']:,}", _percent(first["coverage"]), *cells]
                    )
        yield from _table(
            ["population", "who", "with", "pairs", "coverage", *(TITLES[name] for name in columns)], lines[:limit]
        )
        if len(lines) > limit:
            yield from ("", f"... and {len(lines) - limit} more in agreement.parquet")

    def _write_differences(self, dimension: str, kind: str, population: str) -> Iterator[str]:
        """Write the differences between raters against the target."""
        found = self.found[dimension, population, "", ""]
        keys = [key for key in found if key[0] == "difference" and key[2] != CEILING]
        if not keys:
            return
        yield from ("", "Differences against the target, first minus second, on the units that both rated:", "")
        lines = []
        for key in keys[:MAX_PAIRS]:
            for name in COLUMNS[kind]:
                row = found[key].get(name)
                if row is not None:
                    lines.append(
                        [key[1], key[2], TITLES[name], _show(row, sign=True), _p(row["p_value"]), _p(row["p_adjusted"])]
                    )
        yield from _table(["first", "second", "statistic", "difference", "p", "p (Holm)"], lines)

    def _write_alternative(self, dimension: str, populations: Sequence[str]) -> Iterator[str]:
        lines = []
        for population in populations:
            found = self.found[dimension, population, "", ""]
            for rater in self.facts.raters:
                test = found.get(("alternative_test", rater, ALL_ANNOTATORS), {})
                rate, advantage = test.get("winning_rate", {}), test.get("advantage_probability", {})
                if rate.get("value") is None:
                    verdict = rate.get("undefined") or ""
                else:
                    verdict = "passes" if rate["value"] >= 0.5 else "does not pass"
                lines.append([population, rater, _show(rate), _show(advantage), verdict])
        if lines:
            yield from ("", "### May the rater stand in for an annotator?", "")
            yield "The alternative-annotator test: the share of annotators that the rater replaces (passes from .5)."
            yield ""
            yield from _table(["population", "rater", "winning rate", "advantage probability", ""], lines)

    def _write_slices(self, dimension: str, kind: str) -> Iterator[str]:
        wheres = [key for key in self.found if key[0] == dimension and key[1] == "all" and key[2]]
        for slice_by in sorted({key[2] for key in wheres}):
            own = [key for key in wheres if key[2] == slice_by]
            scale = self.facts.scales.of(dimension)
            order = list(scale.values) if scale and slice_by == "label" else []
            own.sort(key=lambda key: (order.index(key[3]) if key[3] in order else len(order), key[3]))
            title = "target label" if slice_by == "label" else slice_by
            yield from ("", f"### By {title}", "")
            columns = ("exact_agreement", "mae", "bias") if kind != "nominal" else ("exact_agreement",)
            if slice_by != "label":
                columns = (HEADLINE[kind], *columns)
            lines = []
            for key in own[:MAX_SLICES]:
                for who in (
                    ("human_ceiling", EACH_ANNOTATOR, REST),
                    *(("rater_target", rater, TARGET) for rater in self.facts.raters),
                ):
                    found = self.found[key].get(who)
                    if found:
                        first = next(iter(found.values()))
                        cells = [_show(found.get(name, {}), sign=name == "bias") for name in columns]
                        lines.append(
                            [key[3], who[1], who[2], f"{first['num_units']:,}", _percent(first["coverage"]), *cells]
                        )
            yield from _table([title, "who", "with", "units", "coverage", *(TITLES[name] for name in columns)], lines)

    def _write_confusions(self, dimension: str) -> Iterator[str]:
        for matrix in self.facts.confusions:
            pooled = matrix["comparison"] == "rater_target" or matrix["who"] == EACH_ANNOTATOR
            if matrix["dimension"] != dimension or matrix["population"] != "all" or matrix["slice_by"] or not pooled:
                continue
            yield from ("", f"### Confusion: {matrix['who']} (rows) and {matrix['with_whom']} (columns)", "")
            lines = [
                [level, *(f"{count:,}" for count in row)]
                for level, row in zip(matrix["levels"], matrix["counts"], strict=True)
            ]
            yield from _table(["", *matrix["levels"]], lines)


def _write_key() -> Iterator[str]:
    yield from ("", "## How to read it", "")
    yield "- alpha: Krippendorff's, agreement beyond chance; 1 is perfect, 0 is chance. It bears missing ratings."
    yield "- bias: the mean of the first's ratings minus the second's, in scale units."
    yield "- coverage: compared over what could have been; ratings that a rater did not give count against it."
    yield "- all, filtered: all units, or those that the target rule keeps. Where it drops none there is one of them."
    yield "- Ratings that are no levels are rounded to 1/100 of a step; what needs levels uses the nearest one."
    yield "- p: two-sided, from the bootstrap; Holm over all differences of a statistic. agreement.parquet has all figures."


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join("---" for _ in columns) + "|"
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"


def _show(row: Row, sign: bool = False) -> str:
    """Show a value with its interval; a dash where there is none."""
    value, low, high = row.get("value"), row.get("low"), row.get("high")
    if value is None:
        return "–" if row.get("undefined") else ""
    mark = "+" if sign else ""
    if low is None or high is None:
        return f"{value:{mark}.3f}"
    return f"{value:{mark}.3f} [{low:{mark}.3f}, {high:{mark}.3f}]"


def _units(found: Mapping[str, Row]) -> str:
    first = next(iter(found.values()), {})
    return f"{first['num_units']:,}" if first else ""


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if value in (0.0, 1.0) or 0.001 < value < 0.9995 else f"{value:.3%}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
