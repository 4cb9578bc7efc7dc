"""A guideline that might replace the original one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["original", "instructions", "rubric", "both"]


@dataclass(frozen=True)
class Candidate:
    """A candidate; one that can't be used is kept with its reason."""

    name: str
    """original, instructions-0, rubric-0, both-0, ..."""
    kind: Kind
    seed: int | None
    """Seed of the traces that it was written from; None for the original."""
    text: str | None
    """The whole guideline of the dimension; None where no text could be told from what the model wrote."""
    problems: tuple[str, ...] = ()
    """What the lint found."""
    error: str | None = None
    """Why a call failed that it needed."""

    @property
    def is_sound(self) -> bool:
        """Whether raters may be shown it."""
        return self.text is not None and not self.problems and self.error is None
