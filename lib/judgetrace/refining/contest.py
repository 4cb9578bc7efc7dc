"""From scores to a verdict: race the candidates on one half of the items, confirm the winner on the other.

Pure but for `Score`, which asks the raters. Scores are those of `judgetrace.refining.scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from judgetrace.refining.confirm import Confirmation, ConfirmConfig, confirm_challenger, keep_original
from judgetrace.refining.held_items import HeldItems, Part
from judgetrace.refining.racing import Race, RaceConfig, advance_race, start_race

Score = Callable[[str, Sequence[str], Part, Sequence[int]], Mapping[str, np.ndarray]]
"""(stage, candidates, part, positions of its items) -> the items' scores [N] of each candidate."""


@dataclass(frozen=True)
class Contest:
    """How the candidates fared."""

    original: str
    race: Race | None
    """None where there was nothing to race: no other candidate, or no items."""
    confirmation: Confirmation
    why_not_raced: str | None = None

    @property
    def challenger(self) -> str | None:
        """The candidate that came out of the race ahead of the original; None where none did."""
        found = None if self.race is None else self.race.challenger
        return None if found == self.original else found

    @property
    def winner(self) -> str:
        """The candidate that is returned."""
        return self.challenger if self.challenger and self.confirmation.is_replaced else self.original


def hold_contest(
    candidates: Sequence[str],
    items: HeldItems,
    score: Score,
    *,
    race_config: RaceConfig,
    confirm_config: ConfirmConfig,
    seed: int,
    number_look: Callable[[str], int] = lambda challenger: 1,
) -> Contest:
    """Race candidates, the original first and the others by preference among near ties, and confirm who wins.

    `number_look` tells which look at the confirming half this one of a challenger is, counted from 1.
    """
    original = candidates[0]
    if len(candidates) < 2:
        return Contest(original, None, keep_original(), "no candidate besides the original is sound")
    if not items.rows["race"]:
        return Contest(original, None, keep_original(), "the racing half of the validation split has no items")
    race = run_race(candidates, [row["group"] for row in items.rows["race"]], score, race_config, seed)
    challenger = race.challenger
    if challenger is None or challenger == original:
        return Contest(original, race, keep_original())
    positions = range(len(items.rows["confirm"]))
    scores = score(f"confirm {challenger}", [original, challenger], "confirm", positions)
    groups = [row["group"] for row in items.rows["confirm"]]
    confirmation = confirm_challenger(
        scores[challenger], scores[original], groups, confirm_config, seed, look=number_look(challenger)
    )
    return Contest(original, race, confirmation)


def run_race(candidates: Sequence[str], groups: Sequence[str], score: Score, config: RaceConfig, seed: int) -> Race:
    """Run a race to its end."""
    race = start_race(candidates, groups, config, seed)
    while race.challenger is None:
        stage = f"race, look {race.look + 1} of {len(race.looks)}, {len(race.remaining)} candidates"
        race = advance_race(race, score(stage, race.remaining, "race", race.next_items()))
    return race
