"""Suspected label noise: units that no draw of any proposal reaches. Pure.

Such a unit is hard or mislabelled; which of both only people can tell. What makes a wrong label likelier: many draws,
that agree with each other (share at the modal rating), far from the label. Draws of hinted proposals don't count: they
were told the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key

READ = (
    *UNIT_KEY,
    "target_label",
    "accepted_labels",
    "annotator_labels",
    "label_sd",
    "split",
    "fields",
    "outcome",
    "proposal",
    "hinted",
    "draws",
)
"""The columns of schema.TRACES that `find_suspects` reads."""

SUSPECTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),
        ("target_label", pa.string()),
        ("accepted_labels", pa.list_(pa.string())),
        ("annotator_labels", pa.list_(pa.string())),
        ("label_sd", pa.float64()),
        ("split", pa.string()),
        ("fields", pa.string()),
        ("proposals", pa.list_(pa.string())),  # whose draws are counted, in the order of the runs
        ("num_draws", pa.int32()),  # finished ones, with or without a rating
        ("num_rated", pa.int32()),  # with a rating; none of them matches
        ("ratings", pa.list_(pa.struct([("rating", pa.string()), ("count", pa.int32())]))),  # in the scale's order
        ("modal_rating", pa.string()),  # the most frequent; of equals the one farthest from the label, then the lowest
        ("modal_share", pa.float64()),  # its share of the draws with a rating
        ("distance", pa.float64()),  # of it from the label, in levels; 1 on a nominal scale
        # 95% upper bound of the chance that a draw matches, given that none of num_rated did: 1 - .05 ** (1 / n)
        ("reach_at_most", pa.float64()),
        ("reached_by_hint", pa.bool_()),  # a hinted proposal was accepted: it argues for what it was told
    ]
)
"""One row a unit that at least `min_draws` rated draws did not reach."""
MIN_DRAWS = 8
"""Draws with a rating that must have missed the label before it is suspected, where nobody says otherwise."""
_UNFINISHED = ("cancelled", "failed")


@dataclass
class Reach:
    """What the draws of a unit that were not told its label came to, in all runs that were added."""

    target_label: str
    accepted: bool = False
    ratings: Counter[str] = field(default_factory=Counter)
    """Of finished draws; those without a rating are not in it."""

    def add(self, outcome: str, drawn: Iterable[tuple[str, str | None]]) -> None:
        """Add the unit's row of a run that told it nothing: `drawn` is each draw's reason and rating."""
        self.accepted |= outcome == "accepted"
        self.ratings.update(said for reason, said in drawn if said is not None and reason not in _UNFINISHED)

    def merge(self, other: Reach) -> None:
        """Add what others of its runs came to."""
        self.accepted |= other.accepted
        self.ratings.update(other.ratings)

    def is_suspect(self, min_draws: int) -> bool:
        """Return whether at least `min_draws` draws with a rating missed the label, and none matched it."""
        missed = not self.accepted and not self.ratings[self.target_label]
        return missed and self.ratings.total() >= max(1, min_draws)

    def distance(self, rating: str, scale: Scale) -> float:
        """Return how far a rating is from the label, in levels; 1 on a nominal scale."""
        if scale.type == "nominal":
            return 1.0
        return float(abs(scale.values.index(rating) - scale.values.index(self.target_label)))

    def modal_rating(self, scale: Scale) -> str:
        """Return the most frequent rating; of equals the one farthest from the label, then the lowest."""
        order = scale.values.index
        return min(self.ratings, key=lambda said: (-self.ratings[said], -self.distance(said, scale), order(said)))

    def rank(self, scale: Scale) -> tuple[float, float, int]:
        """Return what suspects are sorted by: agreement of the draws, then distance, then their number."""
        modal = self.modal_rating(scale)
        num_rated = self.ratings.total()
        return -self.ratings[modal] / num_rated, -self.distance(modal, scale), -num_rated


def find_suspects(traces: Iterable[pa.Table], scales: ScaleConfig, min_draws: int) -> pa.Table:
    """Find the suspects (SUSPECTS) of a shard in the traces (columns READ) of each run over it, most suspect first."""
    units: dict[UnitKey, list[dict[str, Any]]] = {}
    for table in traces:
        for row in table.to_pylist():
            units.setdefault(unit_key(row), []).append(row)
    rows = [suspect for own in units.values() if (suspect := _judge_unit(own, scales, min_draws)) is not None]
    return pa.Table.from_pylist(sorted(rows, key=rank_suspect), schema=SUSPECTS)


def rank_suspect(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what suspects are sorted by: agreement of the draws, then distance, then their number, then the key."""
    return (-row["modal_share"], -row["distance"], -row["num_rated"], unit_key(row))


def _judge_unit(rows: Sequence[Mapping[str, Any]], scales: ScaleConfig, min_draws: int) -> dict[str, Any] | None:
    """Judge a unit by its rows of all runs; None where a draw reached it or too few tried."""
    told_nothing = [row for row in rows if not row["hinted"]]
    if not told_nothing:
        return None
    reach, first = Reach(told_nothing[0]["target_label"]), told_nothing[0]
    for row in told_nothing:
        reach.add(row["outcome"], [(draw["reason"], draw["rating"]) for draw in row["draws"]])
    if not reach.is_suspect(min_draws):
        return None
    scale = scales.of(first["dimension"])
    assert scale is not None, f"prepare_corpus lets no unit of dimension {first['dimension']!r} through"
    modal, num_rated = reach.modal_rating(scale), reach.ratings.total()
    finished = [draw for row in told_nothing for draw in row["draws"] if draw["reason"] not in _UNFINISHED]
    drawn = [row["proposal"] for row in told_nothing if row["draws"]]
    said = sorted(reach.ratings, key=scale.values.index)
    return {
        **{name: first[name] for name in SUSPECTS.names if name in READ},
        "proposals": list(dict.fromkeys(drawn)),
        "num_draws": len(finished),
        "num_rated": num_rated,
        "ratings": [{"rating": rating, "count": reach.ratings[rating]} for rating in said],
        "modal_rating": modal,
        "modal_share": reach.ratings[modal] / num_rated,
        "distance": reach.distance(modal, scale),
        "reach_at_most": 1 - 0.05 ** (1 / num_rated),
        "reached_by_hint": any(row["outcome"] == "accepted" for row in rows if row["hinted"]),
    }
