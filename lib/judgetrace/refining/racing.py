"""Race guideline candidates: items are asked in rounds, and a candidate clearly behind gets no more calls.

Pure: a race goes in with the scores of a round, a race with the next decisions comes out; the caller asks the raters.
Candidates are scored by items (`judgetrace.refining.scores`), and two are compared by the mean over items of the
difference of their scores, with the standard error of whole groups of items, as groups are what is independent.

Rules, at each look of a plan made before the race, with one-sided t bounds:
  behind        the lower bound of "best of those left minus this one" is above 0: out, no more calls. The original
                stays in whatever the bound says, to be compared to the end.
  leads         one candidate besides the original is left: it is the challenger. None is left: the original stands.
  none better   the upper bound of "any other of those left minus this one" is below `indifference`: it is the
                challenger. Among near ties that is the first in the order of candidates, which are given cheapest
                first; the original, which costs nothing to adopt, is the first of all.
  no items left after the last look the one with the best mean is the challenger, and nothing is claimed about it.

Error rate: where the race ends before the items do, the truly best candidate is the challenger or better than it by at
most `indifference`, but with probability alpha at most. To go wrong, a bound between the truly best and one of the
K - 1 others must fail at some look: the other seems better (the best is thrown out), or seems less than `indifference`
worse. These are 2 (K - 1) events, each with probability alpha / 2 / (K - 1) over all looks together
(`judgetrace.refining.looks`), and Bonferroni adds them to alpha. Which two are compared and when the race stops is
chosen by the data; the sum is over all others and all looks, chosen or not, so it holds wherever the race stops. It
claims nothing for sample sizes between looks, hence looks are planned from the number of groups and never from scores.
The original is an exception: `leads` may leave a candidate that the original would beat, which the comparison on other
items decides.

Each bound is as exact as the mean of differences is normal. For that the first look has 50 groups by default, and two
made-up groups, at either end of what a difference can be, widen the error: fifty equal scores are no proof of a tie. A
bound without this assumption costs too much: where a gap of .05 and differences with a variance of .12 need 630 groups
by t at a level of .00015, they need 2,342 by empirical Bernstein.

Sources: Maron and Moore, "Hoeffding races" (1994), for racing and the union bound; Moore and Lee, "Efficient algorithms
for minimizing cross validation error" (1994), for paired races and indifference; Maurer and Pontil, "Empirical
Bernstein bounds" (2009), for the alternative; Cochran, "Sampling techniques" (1977), chapters 6 and 9A, for the error
of a ratio of group sums; Agresti and Coull, "Approximate is better than exact" (1998), for made-up observations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field
from scipy import stats

from judgetrace.config import STRICT
from judgetrace.refining.looks import find_nominal_level, plan_looks
from judgetrace.refining.scores import ScoreKind

Verdict = Literal["leads", "original_stands", "none_better", "no_items_left"]


class RaceConfig(BaseModel):
    """When a race drops a candidate and when it ends."""

    model_config = STRICT

    alpha: float = Field(
        default=0.05, gt=0, lt=1, description="Chance that an early end costs more than `indifference`."
    )
    indifference: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Differences of the mean score (0 to 1) that do not matter; of exact scores, or where it is less "
        "than indifference_mse.",
    )
    indifference_mse: float = Field(
        default=0.05,
        ge=0,
        description="Of squared scores: differences of the MSE that do not matter, in squared steps from one level to "
        "the next (range / (levels - 1)). A hundredth of the score would be .16 of the MSE on five levels.",
    )
    first_look: int = Field(default=50, ge=10, description="Groups of items asked before the first decision.")
    growth: float = Field(default=1.2, gt=1, le=4, description="Groups at a look, over those at the look before.")

    def for_scores(self, kind: ScoreKind, num_levels: int) -> RaceConfig:
        """Return it with the `indifference` of scores of this kind (`scores.ScoreKind`) on so many levels."""
        if kind == "exact":
            return self
        squared = self.indifference_mse / max(1, num_levels - 1) ** 2
        return self.model_copy(update={"indifference": min(self.indifference, squared)})


@dataclass(frozen=True)
class Loss:
    """Why and when a candidate went out."""

    look: int
    num_items: int
    behind: str
    difference: float
    """The best one's mean score minus its own."""
    lower: float
    """The lower bound of the difference."""


@dataclass(frozen=True)
class Race:
    """The state of a race; made by `start_race`, moved by `advance_race`."""

    config: RaceConfig
    candidates: tuple[str, ...]
    """All, in the order of preference among near ties; the original is the first."""
    looks: tuple[tuple[int, ...], ...]
    """Positions of the items that each round asks."""
    groups: np.ndarray
    """[N] the group of each item, as a number."""
    level: float
    """One-sided level of each bound at each look."""
    remaining: tuple[str, ...]
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By candidate, in the order of asking; shorter for those that are out."""
    look: int = 0
    out: Mapping[str, Loss] = field(default_factory=dict)
    challenger: str | None = None
    """Who won; None while the race goes on."""
    verdict: Verdict | None = None

    @property
    def original(self) -> str:
        """The guideline that all candidates are to beat."""
        return self.candidates[0]

    @property
    def num_scores(self) -> int:
        """Scores spent, of at most candidates x items; times the raters they are calls."""
        return sum(len(scores) for scores in self.scores.values())

    def next_items(self) -> tuple[int, ...]:
        """Return the positions of the items that all `remaining` are to rate next; empty when it is over."""
        return () if self.challenger is not None else self.looks[self.look]


def start_race(candidates: Sequence[str], groups: Sequence[str], config: RaceConfig, seed: int) -> Race:
    """Start a race over items, given the group of each; the original is the first candidate.

    The order of groups is a hash of the seed and their names. Raises ValueError for no items, or candidates that are
    less than two or not distinct.
    """
    if len(candidates) < 2 or len(set(candidates)) < len(candidates):
        raise ValueError(f"a race needs distinct candidates, the original and at least one more; found {candidates!r}")
    if not groups:
        raise ValueError("a race needs items, found none; make the validation split larger")
    names = sorted(set(groups), key=lambda group: (_hash_group(group, seed), group))
    place = {group: number for number, group in enumerate(names)}
    numbers = np.array([place[group] for group in groups])
    items = np.argsort(numbers, kind="stable")
    sizes = plan_looks(len(names), config.first_look, config.growth)
    ends = np.searchsorted(numbers[items], sizes)
    looks = tuple(tuple(part.tolist()) for part in np.split(items, ends[:-1]))
    level = find_nominal_level(sizes, config.alpha / 2 / (len(candidates) - 1))
    return Race(config, tuple(candidates), looks, numbers, level, tuple(candidates))


def _hash_group(group: str, seed: int) -> bytes:
    text = f"race\x1f{seed}\x1f{group}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def advance_race(race: Race, scores: Mapping[str, np.ndarray]) -> Race:
    """Take the scores of all remaining candidates for `next_items`, in that order, and decide. Scores are in [0, 1]."""
    num_items = len(race.next_items())
    assert set(scores) == set(race.remaining), (set(scores), race.remaining)
    assert all(len(found) == num_items for found in scores.values()), num_items
    assert all(((found >= 0) & (found <= 1)).all() for found in scores.values()), "scores outside of [0, 1]"
    known = {name: np.concatenate([race.scores.get(name, np.empty(0)), found]) for name, found in scores.items()}
    asked = replace(race, scores={**race.scores, **known}, look=race.look + 1)
    return _end_race(_drop_behind(asked))


def _drop_behind(race: Race) -> Race:
    best = _find_best(race)
    out = {}
    for name in race.remaining:
        difference, error = compare(race, best, name)
        if name not in {best, race.original} and difference - error > 0:
            out[name] = Loss(race.look, len(race.scores[name]), best, difference, difference - error)
    return replace(race, out={**race.out, **out}, remaining=tuple(n for n in race.remaining if n not in out))


def _find_best(race: Race) -> str:
    return max(race.remaining, key=lambda name: float(race.scores[name].mean()))


def _end_race(race: Race) -> Race:
    """End the race where a rule says so."""
    others = [name for name in race.remaining if name != race.original]
    if not others:
        return replace(race, challenger=race.original, verdict="original_stands")
    if len(others) == 1:
        return replace(race, challenger=others[0], verdict="leads")
    for name in race.remaining:
        if all(sum(compare(race, other, name)) < race.config.indifference for other in race.remaining if other != name):
            return replace(race, challenger=name, verdict="none_better")
    if race.look == len(race.looks):
        return replace(race, challenger=_find_best(race), verdict="no_items_left")
    return race


def compare(race: Race, first: str, second: str) -> tuple[float, float]:
    """Compare two candidates on the items that both rated: the mean of first minus second, and the t bound's width."""
    mean, error, freedom = measure_difference(race, first, second)
    return mean, float(stats.t.isf(race.level, freedom) * error)


def measure_difference(race: Race, first: str, second: str) -> tuple[float, float, int]:
    """Measure the mean of first minus second on the items that both rated, its standard error, its degrees of freedom.

    There are no degrees of freedom where there is a single group: a t bound is NaN then, and decides nothing.
    """
    num_items = min(len(race.scores[first]), len(race.scores[second]))
    apart = race.scores[first][:num_items] - race.scores[second][:num_items]
    asked = [item for look in race.looks for item in look][:num_items]
    _, groups = np.unique(race.groups[asked], return_inverse=True)
    totals, sizes = np.bincount(groups, weights=apart), np.bincount(groups).astype(float)
    mean = float(apart.mean())
    # Two made-up groups of the usual size, all their items at one end of what a difference can be, and at the other.
    end = float(sizes.mean()) * _find_reach(race)
    num_groups = len(sizes)
    squares = float(((totals - mean * sizes) ** 2).sum()) + 2 * end**2
    error = math.sqrt((num_groups + 2) / (num_groups + 1) * squares) / (num_items + 2 * float(sizes.mean()))
    return mean, error, num_groups - 1


def _find_reach(race: Race) -> float:
    """Find how far apart two scores have been; 1, the most there is, where all are equal."""
    lowest = min(float(found.min()) for found in race.scores.values())
    highest = max(float(found.max()) for found in race.scores.values())
    return highest - lowest or 1.0
