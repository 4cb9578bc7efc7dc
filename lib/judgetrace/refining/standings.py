"""How all candidates of a race stand, one row each: what the table of candidates holds beside text and lint."""

from __future__ import annotations

import math

import pyarrow as pa
from scipy import stats

from judgetrace.refining.racing import Race, measure_difference

STANDINGS = pa.schema(
    [
        ("candidate", pa.string()),
        ("num_items", pa.int64()),  # items it was scored on; times the raters, its calls
        ("mean_score", pa.float64()),  # on those items; means of different items are not comparable
        ("minus_original", pa.float64()),  # paired, on those items; null for the original
        ("low", pa.float64()),  # two-sided t interval of `minus_original`, of this one comparison at the end:
        ("high", pa.float64()),  # not corrected for the number of candidates or looks; null without one
        ("out_at_look", pa.int64()),  # counted from 1; null for those that stayed in
        ("behind", pa.string()),  # the candidate that it was clearly behind; null likewise
        ("is_challenger", pa.bool_()),
    ]
)
"""One row a candidate, in their order."""


def list_standings(race: Race, level: float = 0.95) -> pa.Table:
    """List how the candidates of a race stand that has had a round, as STANDINGS."""
    return pa.Table.from_pylist([_describe(race, name, level) for name in race.candidates], STANDINGS)


def _describe(race: Race, name: str, level: float) -> dict[str, object]:
    loss = race.out.get(name)
    row: dict[str, object] = {
        "candidate": name,
        "num_items": len(race.scores[name]),
        "mean_score": float(race.scores[name].mean()),
        "out_at_look": loss.look if loss else None,
        "behind": loss.behind if loss else None,
        "is_challenger": name == race.challenger,
    }
    if name == race.original:
        return row
    mean, error, freedom = measure_difference(race, name, race.original)
    width = float(stats.t.isf((1 - level) / 2, freedom) * error)
    ends = {} if math.isnan(width) else {"low": mean - width, "high": mean + width}
    return {**row, "minus_original": mean, **ends}
