"""Who said how much: counts of a first look at all rows, which add over tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from judgetrace.config import UserError

MAX_EXAMPLES = 5


@dataclass
class Survey:
    """Who said how much; adds over tasks."""

    rows: int = 0
    annotators: Counter[tuple[str, str]] = field(default_factory=Counter)  # (dimension, annotator) -> labels
    raters: Counter[tuple[int, str]] = field(default_factory=Counter)  # (source, rater) -> rows
    without_rating: Counter[tuple[str, int, str, str]] = field(default_factory=Counter)  # (dim, source, rater, why)
    unusable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    slice_values: dict[str, set[str]] = field(default_factory=dict)
    extra_keys: set[str] = field(default_factory=set)  # of the corpus' `extra`, where slices are read from it

    def add(self, other: Survey) -> None:
        """Add the survey of another task."""
        self.rows += other.rows
        self.annotators.update(other.annotators)
        self.raters.update(other.raters)
        self.without_rating.update(other.without_rating)
        self.unusable.update(other.unusable)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]
        for name, values in other.slice_values.items():
            self.slice_values.setdefault(name, set()).update(values)
        self.extra_keys |= other.extra_keys


def check_slice(name: str, values: set[str], limit: int) -> None:
    """Raise UserError where a slice column has too many values."""
    if len(values) > limit:
        raise UserError(
            f"slices.columns: {name!r} has more than {limit} values, for example {sorted(values)[:5]}\n"
            "expected a column of few values; leave it out, or raise slices.max_values"
        )


def check_slice_names(survey: Survey) -> None:
    """Raise UserError for slice columns that no row has a value of."""
    missing = sorted(name for name, values in survey.slice_values.items() if not values)
    if missing:
        keys = sorted(survey.extra_keys)
        raise UserError(
            f"slices.columns: no row has a value of {missing[:5]}\n"
            f"found in `extra` of the corpus: {keys[:20]}{f', {len(keys)} in all' if len(keys) > 20 else ''}\n"
            "expected one of these, a column of the tables, `split` or `group`; mend the name, or leave it out"
        )
