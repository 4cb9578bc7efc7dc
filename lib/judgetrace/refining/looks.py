"""Plan the looks of a race, and the level of the test at each so that all looks together err as often as stated.

A mean looked at after 50, 62, 78, ... groups hardly changes from look to look; dividing the error by the number of
looks would pay for them as if they were independent. The means at all looks are, up to their scale, a Brownian motion
at times that go as the number of groups, and Pocock's rule, the same nominal level at each look, has the level at which
that motion crosses its bound with the stated probability. A t test takes the nominal level as it would take its own.

Sources: Pocock, "Group sequential methods in the design and analysis of clinical trials" (1977); Armitage, McPherson
and Rowe, "Repeated significance tests on accumulating data" (1969), for the recursion; Jennison and Turnbull, "Group
sequential methods" (1999), for t tests at the nominal level and the numerical side.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

NODES = 200
FARTHEST = 9.0
"""Standard deviations below 0 at which the motion is cut off."""


def plan_looks(num_groups: int, first: int, growth: float) -> tuple[int, ...]:
    """Plan how many groups have been asked at each look, the last of them all; none is close before the last."""
    sizes: list[int] = []
    size = float(first)
    while size * math.sqrt(growth) < num_groups:
        if not sizes or int(size) > sizes[-1]:
            sizes.append(int(size))
        size *= growth
    return (*sizes, num_groups)


@lru_cache(maxsize=64)
def find_nominal_level(sizes: tuple[int, ...], error: float) -> float:
    """Find the one-sided level at each look for which some look rejects a true hypothesis with probability `error`.

    `sizes` ascend: the groups at each look. The result lies between error / looks and error.
    """
    if len(sizes) == 1:
        return error
    low, high = stats.norm.isf(error), stats.norm.isf(error / len(sizes))
    bound = optimize.brentq(lambda z: _cross(sizes, z) - error, low, high, xtol=1e-5)
    return float(stats.norm.sf(bound))


def _cross(sizes: tuple[int, ...], bound: float) -> float:
    """Compute how likely a standard Brownian motion at times `sizes` is above `bound` times its SD at one of them."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, masses = np.zeros(1), np.ones(1)
    crossed, before = 0.0, 0
    for size in sizes:
        step, deviation = math.sqrt(size - before), math.sqrt(size)
        crossed += float(masses @ stats.norm.sf((bound * deviation - places) / step))
        half = (bound + FARTHEST) * deviation / 2
        new = (bound * deviation - half) + half * nodes
        density = np.exp(-(((new[:, None] - places) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        places, masses, before = new, half * weights * (density @ masses), size
    return crossed
