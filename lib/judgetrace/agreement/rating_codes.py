"""Ratings as whole numbers, so that tables of them stay small and can be added exactly.

A code below the number of levels is that level. A rating that is no level (a mean, an expectation) goes to the nearest
point of a grid of 1/100 of a step, the smallest distance between neighbouring levels: codes from the number of levels
upwards. Where a statistic needs levels, a grid point counts as its nearest level, the lower of two equally near ones.
"""

from __future__ import annotations

import numpy as np

from judgetrace.scale import Scale

GRID_PER_STEP = 100
NO_RATING = -1
OFF_SCALE = -2
_TOLERANCE = 1e-9


class RatingCodes:
    """Codes of the ratings on one scale. Numbers are in units of `scale.numbers`."""

    def __init__(self, scale: Scale):
        self.scale = scale
        self.num_levels = len(scale.values)
        self._numbers = np.array(scale.numbers)
        ordered = np.sort(self._numbers)
        self._lowest, self._highest = ordered[0], ordered[-1]
        self.step = float(np.diff(ordered).min())
        self._unit = self.step / GRID_PER_STEP

    def encode_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """Encode ratings [N] as int64 codes; NO_RATING for NaN, OFF_SCALE outside the lowest and highest level."""
        codes = np.full(len(numbers), NO_RATING, dtype=np.int64)
        present = np.flatnonzero(~np.isnan(numbers))
        found = numbers[present]
        within = (found >= self._lowest - _TOLERANCE) & (found <= self._highest + _TOLERANCE)
        codes[present[~within]] = OFF_SCALE
        present, found = present[within], found[within]
        steps = np.rint((found - self._lowest) / self._unit).astype(np.int64)
        points = self._lowest + steps * self._unit
        nearest = self._find_nearest(points)
        # A level is its own code, though it may lie beside the grid; what rounds to a level is that level.
        exact = self._find_nearest(found)
        is_level = np.abs(self._numbers[exact] - found) < _TOLERANCE
        rounds_to_level = np.abs(self._numbers[nearest] - points) < _TOLERANCE
        codes[present] = np.where(
            is_level, exact, np.where(rounds_to_level, nearest, np.minimum(steps, 2**31 - 1 - self.num_levels))
        )
        between = ~is_level & ~rounds_to_level
        codes[present[between]] += self.num_levels
        return codes

    def encode_labels(self, labels: list[str]) -> np.ndarray:
        """Encode labels as written [N]; OFF_SCALE for what is no level."""
        found = [self.scale.find_level(label) for label in labels]
        return np.array([OFF_SCALE if level is None else level for level in found], dtype=np.int64)

    def read_numbers(self, codes: np.ndarray) -> np.ndarray:
        """Return the numbers [N] of codes >= 0."""
        points = self._lowest + (codes - self.num_levels) * self._unit
        return np.where(codes < self.num_levels, self._numbers[np.minimum(codes, self.num_levels - 1)], points)

    def read_levels(self, codes: np.ndarray) -> np.ndarray:
        """Return the (nearest) levels [N] of codes; negative codes stay as they are."""
        between = codes >= self.num_levels
        if not between.any():
            return codes
        levels = codes.copy()
        levels[between] = self._find_nearest(self.read_numbers(codes[between]))
        return levels

    def _find_nearest(self, numbers: np.ndarray) -> np.ndarray:
        """Find the nearest levels; a nominal scale's numbers may be in any order."""
        order = np.argsort(self._numbers, kind="stable")
        ordered = self._numbers[order]
        middles = (ordered[1:] + ordered[:-1]) / 2
        return np.asarray(order[np.searchsorted(middles + _TOLERANCE, numbers, side="left")])
