"""Sums of the alternative-annotator test -> rows of agreement.parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from judgetrace.agreement.alternative_test import MIN_ITEMS, run_test
from judgetrace.agreement.tables import ALL_ANNOTATORS


def list_test_rows(
    about: Mapping[str, str], sums: Sequence[Mapping[str, np.ndarray]], eps: float
) -> list[dict[str, Any]]:
    """List the rows of a rater: winning rate and advantage probability, then the test of each annotator.

    `sums` has [items, annotator closer, rater closer] by annotator; several of them add up.
    """
    totals: dict[str, np.ndarray] = {}
    for part in sums:
        for annotator, numbers in part.items():
            totals[annotator] = totals.get(annotator, np.zeros(3, dtype=np.int64)) + numbers
    test = run_test({name: (int(n[0]), int(n[1]), int(n[2])) for name, n in totals.items()}, eps)
    reason = None if test.num_tested else f"no annotator has {MIN_ITEMS} items that others labelled, too"
    pooled: dict[str, Any] = {
        **about,
        "comparison": "alternative_test",
        "with_whom": ALL_ANNOTATORS,
        "undefined": reason,
    }
    pooled["num_compared"] = sum(one.num_items for one in test.annotators)
    figures = {"winning_rate": test.winning_rate, "advantage_probability": test.advantage_probability}
    rows = [
        {**pooled, "statistic": name, "value": None if math.isnan(value) else value} for name, value in figures.items()
    ]
    for one in test.annotators:
        single = {"with_whom": one.annotator, "statistic": "advantage_probability", "value": one.rater_advantage}
        tested = {"num_compared": one.num_items, "p_value": one.p_value, "p_adjusted": one.p_adjusted}
        rows.append({**pooled, **single, **tested, "undefined": None})
    return rows
