import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from judgetrace.refining.racing import Race, RaceConfig, advance_race, compare, start_race

SCORES = dict[str, np.ndarray]


def run_race(race: Race, scores: SCORES, watch: Callable[[Race], None] = lambda _: None) -> Race:
    while race.challenger is None:
        items = list(race.next_items())
        race = advance_race(race, {name: scores[name][items] for name in race.remaining})
        watch(race)
    return race


def draw_scores(rng: np.random.Generator, qualities: dict[str, float], num_items: int) -> SCORES:
    return {name: (rng.random(num_items) < quality).astype(float) for name, quality in qualities.items()}


def name_items(number: int) -> list[str]:
    return [str(item) for item in range(number)]


def test_looks_take_every_item_once_and_keep_groups_whole() -> None:
    groups = [str(n // 3) for n in range(900)]
    race = start_race(["original", "a"], groups, RaceConfig(first_look=50, growth=2), seed=0)

    assert [len(look) for look in race.looks] == [150, 150, 300, 300]
    assert sorted(item for look in race.looks for item in look) == list(range(900))
    assert all(len({groups[item] for item in look}) * 3 == len(look) for look in race.looks)


def test_the_order_of_groups_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    groups = name_items(200)
    forwards, backwards, other = (
        [{names[item] for item in look} for look in start_race(["o", "a"], names, RaceConfig(), seed).looks]
        for names, seed in ((groups, 1), (groups[::-1], 1), (groups, 2))
    )

    assert forwards == backwards
    assert forwards != other


def test_a_candidate_clearly_behind_gets_no_more_calls_and_the_leader_wins() -> None:
    scores = draw_scores(np.random.default_rng(0), {"original": 0.3, "good": 0.8, "bad": 0.2, "fair": 0.6}, 2000)
    race = run_race(start_race(list(scores), name_items(2000), RaceConfig(indifference=0), 0), scores)

    assert (race.challenger, race.verdict) == ("good", "leads")
    assert set(race.out) == {"bad", "fair"}
    assert race.out["bad"].behind == "good"
    assert race.out["bad"].lower > 0
    assert len(race.scores["bad"]) == race.out["bad"].num_items == 50
    assert len(race.scores["fair"]) < len(race.scores["good"]) + 1 < 2001


def test_the_original_is_asked_to_the_end_however_far_behind() -> None:
    scores = draw_scores(np.random.default_rng(1), {"original": 0.05, "a": 0.7, "b": 0.7}, 400)
    race = run_race(start_race(list(scores), name_items(400), RaceConfig(), 0), scores)

    assert race.verdict == "no_items_left"
    assert len(race.scores["original"]) == 400


def test_the_original_stands_where_all_others_are_behind_it() -> None:
    scores = draw_scores(np.random.default_rng(2), {"original": 0.8, "a": 0.2, "b": 0.3}, 1000)
    race = run_race(start_race(list(scores), name_items(1000), RaceConfig(), 0), scores)

    assert (race.challenger, race.verdict) == ("original", "original_stands")


def test_near_ties_end_the_race_for_the_first_of_them() -> None:
    # "b" and "c" differ in few items; "b" is named first and wins, although "c" has the better mean.
    rng = np.random.default_rng(3)
    base = (rng.random(3000) < 0.7).astype(float)
    better = np.where(rng.random(3000) < 0.01, 1.0, base)
    scores = {"original": (rng.random(3000) < 0.3).astype(float), "b": base, "c": better}
    race = run_race(start_race(list(scores), name_items(3000), RaceConfig(indifference=0.05), 0), scores)

    assert (race.challenger, race.verdict) == ("b", "none_better")
    assert race.num_scores < 3 * 2000
    assert race.scores["c"].mean() >= race.scores["b"].mean()


def test_equal_scores_at_the_first_look_prove_no_tie() -> None:
    scores = {name: np.ones(5000) for name in ("original", "a", "b")}
    seen: list[Race] = []
    race = run_race(start_race(list(scores), name_items(5000), RaceConfig(), 0), scores, seen.append)

    assert seen[0].challenger is None
    assert (race.challenger, race.verdict) == ("original", "none_better")


def test_the_bound_is_the_t_bound_of_a_paired_mean_with_two_items_made_up() -> None:
    # By hand: differences of 100 items and two more, +1 and -1, whose variance is about the mean of the 100.
    rng = np.random.default_rng(4)
    scores = draw_scores(rng, {"original": 0.5, "a": 0.5, "b": 0.6}, 100)
    config = RaceConfig(first_look=100, alpha=0.05, indifference=0)
    race = run_race(start_race(list(scores), name_items(100), config, 0), scores)
    apart = scores["b"] - scores["a"]
    squares = ((apart - apart.mean()) ** 2).sum() + 2
    width = stats.t.ppf(1 - 0.05 / 2 / 2, 99) * math.sqrt(squares / 101 / 102)

    assert compare(race, "b", "a") == pytest.approx((apart.mean(), width))


def test_repeated_items_of_a_group_are_no_further_evidence() -> None:
    # Ten equal copies of each item in its group: means and bounds are those of the single items.
    single = draw_scores(np.random.default_rng(5), {"original": 0.5, "a": 0.5, "b": 0.6}, 120)
    copied = {name: np.repeat(found, 10) for name, found in single.items()}
    config = RaceConfig(first_look=120)
    alone = start_race(list(single), name_items(120), config, 0)
    grouped = start_race(list(single), [str(n // 10) for n in range(1200)], config, 0)

    found = [compare(run_race(race, scores), "b", "a") for race, scores in ((alone, single), (grouped, copied))]

    assert found[0] == pytest.approx(found[1])


def test_one_group_decides_nothing_before_the_items_end() -> None:
    scores = draw_scores(np.random.default_rng(6), {"original": 0.1, "a": 0.9, "b": 0.1}, 60)
    race = run_race(start_race(list(scores), ["only"] * 60, RaceConfig(), 0), scores)

    assert (race.challenger, race.verdict, race.out) == ("a", "no_items_left", {})


def test_the_race_is_the_same_state_again_from_recorded_scores_and_changes_none_of_its_input() -> None:
    scores = draw_scores(np.random.default_rng(7), {"original": 0.5, "a": 0.6, "b": 0.4}, 500)
    before = {name: found.copy() for name, found in scores.items()}
    start = start_race(list(scores), name_items(500), RaceConfig(), 0)
    first, second = run_race(start, scores), run_race(start, scores)

    assert (first.challenger, first.out, first.num_scores) == (second.challenger, second.out, second.num_scores)
    assert (start.look, dict(start.scores)) == (0, {})
    assert all((scores[name] == before[name]).all() for name in scores)


def test_a_true_best_is_thrown_out_no_more_often_than_stated() -> None:
    # All equal, so every candidate is a best one: each may be thrown out in alpha / 2 of races. At alpha = .4, 300
    # races and the bound .2, four binomial standard errors are .092; Bonferroni over candidates makes it fewer.
    rng = np.random.default_rng(8)
    config = RaceConfig(alpha=0.4, indifference=0, first_look=50, growth=2)
    qualities = dict.fromkeys(("original", "a", "b", "c", "d", "e"), 0.7)
    lost = 0
    for seed in range(300):
        scores = draw_scores(rng, qualities, 400)
        lost += "a" in run_race(start_race(list(scores), name_items(400), config, seed), scores).out

    assert 0 < lost / 300 < 0.2


def test_a_candidate_worse_than_indifference_is_seldom_named_early() -> None:
    # "a" is .06 behind: an early end at "a", with an indifference of .05, is an error.
    rng = np.random.default_rng(9)
    config = RaceConfig(alpha=0.2, indifference=0.05, growth=1.5)
    errors = 0
    for seed in range(200):
        scores = draw_scores(rng, {"original": 0.2, "a": 0.64, "b": 0.7}, 1500)
        race = run_race(start_race(list(scores), name_items(1500), config, seed), scores)
        errors += race.challenger == "a" and race.verdict != "no_items_left"

    assert errors / 200 <= 0.2


@pytest.mark.parametrize("candidates", [["original"], ["original", "original"]])
def test_a_race_needs_distinct_candidates(candidates: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct candidates"):
        start_race(candidates, ["1"], RaceConfig(), 0)


def test_a_race_needs_items() -> None:
    with pytest.raises(ValueError, match="needs items"):
        start_race(["original", "a"], [], RaceConfig(), 0)


def test_what_does_not_matter_of_squared_scores_is_a_part_of_a_step_whatever_the_number_of_levels() -> None:
    # The score of an item that is one of L - 1 steps off is 1 - 1 / (L - 1)^2.
    config = RaceConfig(indifference=0.01, indifference_mse=0.05)
    assert config.for_scores("squared", 5).indifference == pytest.approx(0.05 / 16)
    assert config.for_scores("squared", 9).indifference == pytest.approx(0.05 / 64)
    # Of two levels squares are exactness: what is stated of it holds, too.
    assert config.for_scores("squared", 2).indifference == 0.01
    assert config.for_scores("exact", 5) == config
