from collections.abc import Mapping, Sequence

import numpy as np

from judgetrace.refining.confirm import ConfirmConfig
from judgetrace.refining.contest import Contest, hold_contest
from judgetrace.refining.held_items import HeldItems, ItemRule
from judgetrace.refining.racing import RaceConfig


def make_held(num_race: int, num_confirm: int) -> HeldItems:
    def rows(name: str, num: int) -> tuple[dict[str, str], ...]:
        return tuple({"group": f"{name} {item}", "item_id": f"{name} {item}"} for item in range(num))

    parts = {"race": rows("race", num_race), "confirm": rows("confirm", num_confirm), "test": ()}
    return HeldItems(ItemRule("", 0), parts)


class Quality:
    """Scores of candidates with known qualities: right in that share of the items of each part, others in each."""

    def __init__(self, race: Mapping[str, float], confirm: Mapping[str, float] | None = None):
        self._by_part = {"race": race, "confirm": confirm or race}
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, stage: str, names: Sequence[str], part: str, places: Sequence[int]) -> dict[str, np.ndarray]:
        difficulty = np.random.default_rng(len(part)).random(10_000)[list(places)]
        self.asked += [(part, name, len(places)) for name in names]
        return {name: (difficulty < self._by_part[part][name]).astype(float) for name in names}


def hold(names: Sequence[str], items: HeldItems, score: Quality) -> Contest:
    return hold_contest(
        names, items, score, race_config=RaceConfig(first_look=30), confirm_config=ConfirmConfig(), seed=0
    )


def test_a_candidate_that_wins_on_both_halves_is_returned() -> None:
    score = Quality({"original": 0.4, "a": 0.5, "b": 0.9})
    contest = hold(["original", "a", "b"], make_held(400, 200), score)

    assert (contest.challenger, contest.winner, contest.confirmation.reason) == ("b", "b", "better")
    assert [entry for entry in score.asked if entry[0] == "confirm"] == [
        ("confirm", "original", 200),
        ("confirm", "b", 200),
    ]


def test_a_candidate_that_wins_the_race_alone_is_not() -> None:
    score = Quality({"original": 0.4, "a": 0.9}, {"original": 0.6, "a": 0.6})
    contest = hold(["original", "a"], make_held(400, 200), score)

    assert (contest.challenger, contest.winner) == ("a", "original")
    assert contest.confirmation.reason == "not_shown_better"


def test_where_all_fall_behind_nothing_is_confirmed() -> None:
    score = Quality({"original": 0.9, "a": 0.5, "b": 0.4})
    contest = hold(["original", "a", "b"], make_held(400, 200), score)

    assert (contest.challenger, contest.winner, contest.confirmation.reason) == (None, "original", "no_challenger")
    assert {part for part, _, _ in score.asked} == {"race"}


def test_without_candidates_or_items_nothing_is_asked() -> None:
    score = Quality({"original": 0.9, "a": 0.5})
    alone = hold(["original"], make_held(400, 200), score)
    empty = hold(["original", "a"], make_held(0, 200), score)

    assert (alone.winner, alone.why_not_raced) == ("original", "no candidate besides the original is sound")
    assert (empty.winner, empty.why_not_raced) == (
        "original",
        "the racing half of the validation split has no items",
    )
    assert score.asked == []


def test_too_few_items_to_confirm_keep_the_original() -> None:
    contest = hold(["original", "a"], make_held(400, 10), Quality({"original": 0.1, "a": 0.9}))

    assert (contest.winner, contest.confirmation.reason) == ("original", "too_few_groups")
