"""The scale that labels and ratings are given on: its levels, their order and their distances.

Knows nothing of corpora, prompts or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ScaleType = Literal["nominal", "ordinal", "interval"]
HalfPointRule = Literal["floor", "ceil", "either"]


def _as_number(text: str) -> float | None:
    try:
        # Some models write a real minus.
        return float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None


class Scale(BaseModel):
    """Ordered levels and what may be computed with them.

    Levels are strings, as a rater writes them ("-4", "Yes"); an order is meaningless for a nominal scale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[str, ...] = Field(description="The levels, lowest first. Numbers may be written as numbers.")
    type: ScaleType = Field(
        default="ordinal",
        description="nominal (no order), ordinal (an order), interval (distances mean something; levels are numbers).",
    )

    @field_validator("values", mode="before")
    @classmethod
    def _levels_as_text(cls, values: object) -> object:
        return tuple(str(value).strip() for value in values) if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _check_levels(self) -> Scale:
        if len(self.values) < 2:
            raise ValueError(f"a scale needs at least two levels, found {list(self.values)}")
        if len(set(self.values)) != len(self.values) or "" in self.values:
            raise ValueError(f"the levels of a scale are distinct and not empty, found {list(self.values)}")
        numbers = [_as_number(value) for value in self.values]
        if self.type == "interval" and None in numbers:
            raise ValueError(f"an interval scale needs numbers as levels, found {list(self.values)}; use type ordinal")
        ascending = all(a < b for a, b in zip(self.numbers, self.numbers[1:], strict=False))
        if self.type != "nominal" and not ascending:
            raise ValueError(f"the levels of an {self.type} scale are listed lowest first, found {list(self.values)}")
        return self

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The levels as numbers: their own values where all are numbers, else their positions 0, 1, 2, ..."""
        numbers = [_as_number(value) for value in self.values]
        return tuple(n if n is not None and self.is_numeric else float(i) for i, n in enumerate(numbers))

    @cached_property
    def is_numeric(self) -> bool:
        """Whether all levels are numbers."""
        return all(_as_number(value) is not None for value in self.values)

    def find_level(self, text: object) -> int | None:
        """Find the position of a label or rating as written: exact text first, then the same number ("3.0" is "3").

        Returns None when it is not on the scale. Case and surrounding blanks do not matter.
        """
        written = str(text).strip()
        if written in self.values:
            return self.values.index(written)
        number = _as_number(written)
        for level, value in enumerate(self.values):
            if value.casefold() == written.casefold() or (number is not None and _as_number(value) == number):
                return level
        return None

    def snap(self, number: float, half_point: HalfPointRule) -> tuple[int, ...]:
        """Find the levels that a number stands for: the nearest, or by `half_point` where two are equally near.

        Returns one level, or two (lower first) for "either" at a half point. `number` is in units of `numbers`.
        """
        distances = [abs(number - level_number) for level_number in self.numbers]
        nearest = [level for level, distance in enumerate(distances) if distance - min(distances) < 1e-9]
        if len(nearest) == 1 or half_point == "floor":
            return (nearest[0],)
        return (nearest[-1],) if half_point == "ceil" else (nearest[0], nearest[-1])


def expect_rating(probabilities: Sequence[float], scale: Scale) -> float:
    """Compute the expectation over a scale's numbers under probabilities of its levels, made to sum to 1."""
    total = math.fsum(probabilities)
    return math.fsum(p * number for p, number in zip(probabilities, scale.numbers, strict=True)) / total


class ScaleConfig(BaseModel):
    """One scale for all dimensions, or one for each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[str, ...] | None = Field(default=None, description="The levels of every dimension not named below.")
    type: ScaleType = Field(default="ordinal", description="nominal, ordinal or interval.")
    dimensions: dict[str, Scale] = Field(default_factory=dict, description="Scales of single dimensions, by name.")

    @field_validator("values", mode="before")
    @classmethod
    def _levels_as_text(cls, values: object) -> object:
        return tuple(str(value).strip() for value in values) if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _check_default(self) -> ScaleConfig:
        if self.values is None and not self.dimensions:
            raise ValueError("no scale: give scale.values, or scale.dimensions.NAME.values for each dimension")
        if self.values is not None:
            Scale(values=self.values, type=self.type)
        return self

    def of(self, dimension: str) -> Scale | None:
        """Return the scale of a dimension, or None where the config has none for it."""
        return self.dimensions.get(dimension, self._default)

    def list_nominal(self) -> list[str]:
        """List the dimensions whose scale has no order; "(default)" for those without a scale of their own."""
        default = ["(default)"] if self.values is not None and self.type == "nominal" else []
        return [*(name for name, scale in self.dimensions.items() if scale.type == "nominal"), *default]

    @cached_property
    def _default(self) -> Scale | None:
        return None if self.values is None else Scale(values=self.values, type=self.type)
