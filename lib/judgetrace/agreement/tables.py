"""Which tables of counts there are: who is compared with whom, by slice, of units that are kept or dropped.

Tables of the same key add up over buckets. All that is measured later is a function of these sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from judgetrace.agreement.counts import Clusters, Counts

EACH_ANNOTATOR = "each annotator"
REST = "the other annotators"
TARGET = "target label"
ALL_ANNOTATORS = "all annotators"
ALL_RATERS = "all raters"
PANEL_TIMES = ("rater_before", "rater_after")
"""Beginnings of the kinds of tables of raters before and after, on the units that all of them rated."""


class TableKey(NamedTuple):
    """What a table of counts is about."""

    dimension: str
    slice_by: str  # "" for all units
    slice: str
    kind: str  # units, a panel (human_panel, rater_complete, ...), or a comparison of two
    who: str
    with_whom: str
    kept: bool  # units that the target rule keeps, or those that it drops


def name_panel(raters: Sequence[str]) -> str:
    """Name a panel by its raters."""
    return ", ".join(raters)


def list_expected(raters: Sequence[str], panel: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str, str]]:
    """List (kind, who, with whom) that a dimension has figures of, even where nothing was counted.

    `raters` were asked about it; `panel` are those before and after, none or several.
    """
    found = [("human_panel", ALL_ANNOTATORS, ""), ("human_ceiling", EACH_ANNOTATOR, REST)]
    for rater in raters:
        found += [("rater_target", rater, TARGET), ("rater_annotator", rater, EACH_ANNOTATOR)]
        found += [("rater_rest", rater, REST), ("ceiling_beside", rater, REST)]
    for first, second in combinations(raters, 2):
        found += [("rater_rater", first, second), ("paired", first, second), ("paired", second, first)]
    if panel:
        names = zip(*panel, strict=True)
        found += [(f"{kind}_panel", name_panel(own), "") for kind, own in zip(PANEL_TIMES, names, strict=True)]
    return [*found, *([("rater_panel", ALL_RATERS, "")] if len(raters) > 1 else [])]


TestSums = dict[tuple[str, str, bool], dict[str, np.ndarray]]
"""(dimension, rater, kept) -> annotator -> [items, annotator closer, rater closer]."""


@dataclass
class BucketCounts:
    """What a reduce task hands back: counts only."""

    tables: dict[TableKey, Counts] = field(default_factory=dict)
    tests: TestSums = field(default_factory=dict)
    clusters: Clusters = field(default_factory=Clusters)
    num_units: int = 0
    num_duplicates: int = 0
