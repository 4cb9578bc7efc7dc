"""How many accepted traces of each level are enough, and when a level has them. Pure.

A level here is a dimension's target label, as accounting.name_level writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from judgetrace.accounting import name_level
from judgetrace.config import STRICT

COUNTED = ("dimension", "target_label", "split", "outcome")
"""The columns of schema.TRACES that `count_accepted` reads."""


class QuotaConfig(BaseModel):
    """How many traces are enough."""

    model_config = STRICT

    per_level: int | None = Field(
        default=None,
        ge=1,
        description="Accepted traces of each level (of each dimension) in the `splits` that are sampled, those of the "
        "`after` runs counted. By default that is all splits, though train_rater and refine_guideline learn from train "
        "alone: for so many traces that they can learn from, set splits = ['train']. Once a level has them, its units "
        "that have not begun end as over_quota, without a draw; those under way go on, so a level may end with some "
        "more. Which units these are depends on timing. A run with a higher quota `after` this one takes them up.",
    )


def count_accepted(traces: pa.Table, splits: Collection[str]) -> Counter[str]:
    """Count the accepted units of some splits by level, in a table of traces (columns COUNTED)."""
    is_ours = pc.and_(pc.equal(traces["outcome"], "accepted"), pc.is_in(traces["split"], pa.array(list(splits))))
    ours = traces.filter(is_ours)
    return Counter(map(name_level, ours["dimension"].to_pylist(), ours["target_label"].to_pylist()))


class LevelQuota:
    """What one worker knows of how full the levels are: its own accepted units at once, those of others as told."""

    def __init__(self, per_level: int | None):
        self._per_level = per_level
        self._own: Counter[str] = Counter()
        self._elsewhere: Mapping[str, int] = {}

    def note_accepted(self, level: str) -> None:
        """Count a unit that was accepted here."""
        self._own[level] += 1

    def hear(self, elsewhere: Mapping[str, int]) -> None:
        """Take what all others have committed by now: other workers, earlier calls, earlier runs."""
        self._elsewhere = elsewhere

    def is_full(self, level: str) -> bool:
        """Whether a level has its quota."""
        return self._per_level is not None and self._own[level] + self._elsewhere.get(level, 0) >= self._per_level
