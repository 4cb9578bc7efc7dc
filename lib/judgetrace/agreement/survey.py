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
    per_annotator: set[tuple[int, str]] = field(default_factory=set)  # raters with rows about one annotator's label
    unusable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    slice_values: dict[str, set[str]] = field(default_factory=dict)

    def add(self, other: Survey) -> None:
        """Add the survey of another task."""
        self.rows += other.rows
        self.annotators.update(other.annotators)
        self.raters.update(other.raters)
        self.without_rating.update(other.without_rating)
        self.per_annotator |= other.per_annotator
        self.unusable.update(other.unusable)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]
        for name, values in other.slice_values.items():
            self.slice_values.setdefault(name, set()).update(values)


def check_slice(name: str, values: set[str], limit: int) -> None:
    """Raise UserError where a slice column has too many values."""
    if len(values) > limit:
        raise UserError(
            f"slices.columns: {name!r} has more than {limit} values, for example {sorted(values)[:5]}\n"
            "expected a column of few values; leave it out, or raise slices.max_values"
        )
