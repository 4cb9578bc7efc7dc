"""Calls that a race of twelve guidelines saves, and how often it ends at the right one; scripted raters, no model.

Two raters answer once for each item and candidate, right with a chance that depends on both: over items it is
Beta-distributed with the candidate's known quality as mean (.55 for the best) and .93 as concentration, as the paper's
data utilisation suggests (.43 right at one draw, .80 at sixteen: most items are easy or hopeless). The places of an
item in two candidates' distributions are normal with correlation .9: guidelines differ in which items they help, too.
Answers are independent given the chance, as at temperature 1. The score is 1/0 agreement, the mean of both raters; the
differences of two candidates have an SD of about .39. An item is a group.

Three settings of 12 candidates, 1,000 items each, true qualities as gaps to the best:
  winner  one ahead by .05, three within .01 of each other (.05, .055, .06), eight further behind (.08 to .22)
  ties    one and three within .01 of it (0, .003, .006, .01), eight further behind (.05 to .19): the four are all right
  null    all equal: any is right; `best_lost_rate`, how often one named candidate is thrown out, is the rule's own
          error (alpha / 2 = .025 at most is what it states)
The original is the fifth by quality. `calls_ratio` (scores spent over candidates x items) and `win_rate` (the race
ended at a candidate within .01 of the truly best) are those of `winner`, with the others' beside them. The confirmation
on other items comes after the race and is no part of this. The rule was tuned on seeds from 100000 on.

Run: python -m tests.bench.racing [--seeds 200] [--items 1000] [--first-seed 0]
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from judgetrace.refining.racing import Race, RaceConfig, advance_race, start_race

BEST_QUALITY = 0.55
CONCENTRATION = 0.93
ITEM_CORRELATION = 0.9
RATERS = 2
SETTINGS = {
    "winner": (0.0, 0.05, 0.055, 0.06, *np.arange(0.08, 0.23, 0.02).round(3).tolist()),
    "ties": (0.0, 0.003, 0.006, 0.01, *np.arange(0.05, 0.20, 0.02).round(3).tolist()),
    "null": (0.0,) * 12,
}
ORIGINAL = 4
TOLERANCE = 0.01


@dataclass(frozen=True)
class Outcome:
    """How one race ended."""

    share: float
    is_right: bool
    lost_rate: float
    """Of the truly best candidates, without the original, those thrown out."""
    verdict: str


def draw_scores(quality: float, difficulty: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the scores [N] of a candidate; `difficulty` [N] is standard normal, and common to all candidates."""
    place = math.sqrt(ITEM_CORRELATION) * difficulty + math.sqrt(1 - ITEM_CORRELATION) * rng.normal(
        size=len(difficulty)
    )
    chances = special.betaincinv(quality * CONCENTRATION, (1 - quality) * CONCENTRATION, special.ndtr(place))
    return np.asarray((rng.random((RATERS, len(difficulty))) < chances).mean(axis=0))


def run_race(gaps: tuple[float, ...], num_items: int, seed: int) -> Outcome:
    """Run one race to its end; candidates stand in an order drawn by the seed, the original first."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=num_items)
    others = rng.permutation([number for number in range(len(gaps)) if number != ORIGINAL]).tolist()
    order = [str(number) for number in (ORIGINAL, *others)]
    scores = {name: draw_scores(BEST_QUALITY - gaps[int(name)], difficulty, rng) for name in order}
    race = start_race(order, [str(item) for item in range(num_items)], RaceConfig(), seed)
    while race.challenger is None:
        items = list(race.next_items())
        race = advance_race(race, {name: scores[name][items] for name in race.remaining})
    return judge_race(race, gaps, num_items)


def judge_race(race: Race, gaps: tuple[float, ...], num_items: int) -> Outcome:
    """Judge the end of a race by the true qualities."""
    assert race.challenger is not None
    best = [str(number) for number, gap in enumerate(gaps) if gap == 0 and number != ORIGINAL]
    return Outcome(
        share=race.num_scores / (len(gaps) * num_items),
        is_right=gaps[int(race.challenger)] <= TOLERANCE + 1e-9,
        lost_rate=sum(name in race.out for name in best) / len(best),
        verdict=str(race.verdict),
    )


def describe(outcomes: list[Outcome]) -> dict[str, object]:
    """Sum up the races of one setting."""
    wins = sum(outcome.is_right for outcome in outcomes)
    interval = stats.binomtest(wins, len(outcomes)).proportion_ci(method="wilson")
    return {
        "calls_ratio": round(math.fsum(outcome.share for outcome in outcomes) / len(outcomes), 4),
        "calls_ratio_highest": round(max(outcome.share for outcome in outcomes), 4),
        "win_rate": wins / len(outcomes),
        "win_rate_low": round(float(interval.low), 4),
        "best_lost_rate": round(sum(outcome.lost_rate for outcome in outcomes) / len(outcomes), 5),
        "verdicts": {
            verdict: sum(outcome.verdict == verdict for outcome in outcomes)
            for verdict in sorted({outcome.verdict for outcome in outcomes})
        },
    }


def main() -> None:
    """Run all settings; the last line is a JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found = {name: describe([run_race(gaps, options.items, seed) for seed in seeds]) for name, gaps in SETTINGS.items()}
    for name, figures in found.items():
        print(name, figures)
    headline = {key: found["winner"][key] for key in ("calls_ratio", "win_rate")}
    print(json.dumps({"benchmark": "racing", **headline, "seeds": len(seeds), "items": options.items, **found}))


if __name__ == "__main__":
    main()
