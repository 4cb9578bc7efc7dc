"""What a reader of agreement figures must mind: skewed labels, severity, coverage, filters, what is undefined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from judgetrace.agreement.figures import Figures, show_share, title
from judgetrace.agreement.tables import ALL_ANNOTATORS, TARGET

SKEW = 0.6
"""Where one label has a larger share of the targets, percent agreement and AC1 are high by themselves."""


def find_warnings(figures: Figures, raters: Sequence[str], replicates: int) -> Iterator[str]:
    """Find what must be minded, a sentence or two each."""
    for dimension in figures.dimensions:
        named = f"{dimension}: " if dimension else ""
        for text in _find_skew(figures, dimension):
            yield named + text
        for text in _find_filter(figures, dimension):
            yield named + text
        for rater in raters:
            for text in _find_of_rater(figures, dimension, rater):
                yield named + text
    floor = _find_p_floor(figures, raters, replicates)
    if floor > 0.05:
        yield (
            f"with so many differences and {replicates:,} replicates no p (Holm) can fall below {min(floor, 1.0):.2g}; "
            "raise intervals.replicates."
        )


def _find_skew(figures: Figures, dimension: str) -> Iterator[str]:
    # Not of the ceiling, which units of one label have no part in.
    who = ("human_human", ALL_ANNOTATORS, "")
    units = {
        where[3]: figures.one_of(where, who).get("num_units", 0)
        for where in figures.list_slices(dimension)
        if where[2] == "label"
    }
    total = sum(units.values())
    if total and max(units.values()) / total > SKEW:
        label, count = max(units.items(), key=lambda pair: pair[1])
        yield (
            f"{count / total:.0%} of the target labels are `{label}`. Exact agreement, AC1 and AC2 are high by "
            "themselves then; look at alpha and kappa, and at the confusion matrix."
        )


def _find_filter(figures: Figures, dimension: str) -> Iterator[str]:
    kept, everything = (count_units(figures, dimension, population) for population in ("filtered", "all"))
    if kept < everything:
        yield (
            f"the target rule drops {everything - kept:,} of {everything:,} units, on which people disagree or which "
            "nobody labelled. Figures on the others (`filtered`) flatter everybody."
        )


def count_units(figures: Figures, dimension: str, population: str) -> int:
    """Count the units of a population."""
    found = figures.one_of((dimension, population, "", ""), ("human_human", ALL_ANNOTATORS, ""))
    return int(found.get("num_units", 0))


def _find_of_rater(figures: Figures, dimension: str, rater: str) -> Iterator[str]:
    found = figures.all_of((dimension, "all", "", ""), ("rater_target", rater, TARGET))
    first = next(iter(found.values()), {})
    coverage = first.get("coverage")
    if coverage is not None and coverage < 1:
        yield f"{rater} rated {show_share(coverage)} of what has a target label; the rest is in no figure of its."
    bias, low, high = (found.get("bias", {}).get(key) for key in ("value", "low", "high"))
    if bias is not None and low is not None and high is not None and (low > 0 or high < 0):
        yield (
            f"{rater} rates {abs(bias):.2f} {'above' if bias > 0 else 'below'} the target on average. ICC(3,1), tau-b "
            "and correlations don't see a constant severity; ICC(2,1), alpha and the errors do."
        )
    undefined = [row for row in found.values() if row["undefined"] and row["num_compared"]]
    if undefined:
        names = ", ".join(title(row["statistic"]) for row in undefined[:5])
        yield f"{rater}: undefined: {names} ({undefined[0]['undefined']})."


def _find_p_floor(figures: Figures, raters: Sequence[str], replicates: int) -> float:
    """Find the smallest p-value that Holm's rule can leave to any difference between raters."""
    tested: Counter[str] = Counter()
    for dimension in figures.dimensions:
        where = (dimension, "all", "", "")
        for who in figures.list_who(where, "difference"):
            rows = figures.all_of(where, who) if who[2] in raters else {}
            tested.update(name for name, row in rows.items() if row["p_value"] is not None)
    return 2 / (replicates + 1) * max(tested.values(), default=0)
