"""The sampling policy of one unit: which draw comes next, when the unit is decided, which draws are no longer needed.

Pure: no clock, no engine, no randomness. The accepted draws depend on the draws' results alone, never on the order in
which they finish: the lowest accepted indices win, and a unit is decided only when every lower index is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from judgetrace.config import STRICT

DrawReason = Literal["accepted", "disagrees", "rated", "unparsed", "truncated", "failed", "cancelled"]
MAX_FAILED_DRAWS = 3
"""A unit with this many failed draws is given up by this run; the next one retries it."""

Temperature = Annotated[float, Field(ge=0, description="Sampling temperature.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Nucleus sampling; 1 is off.")]
TopK = Annotated[int, Field(ge=0, description="Top-k sampling; 0 is off.")]


class SamplingConfig(BaseModel):
    """How draws are sampled."""

    model_config = STRICT

    mode: Literal["sequential", "fixed"] = Field(
        default="sequential",
        description="sequential: one draw at a time, until one is accepted; fixed: all max_draws, as the paper does. "
        "Both accept the same draws.",
    )
    max_draws: int = Field(default=16, ge=1, le=1024, description="Draws per unit at most (the paper's k).")
    keep: int = Field(default=1, ge=1, description="Accepted draws to stop at.")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    max_tokens: int = Field(default=4096, ge=1, description="Output tokens of a draw at most, thinking and rating.")
    seed: int = Field(default=0, description="Seed of the run; each draw's own seed is a hash of it, unit and index.")


def draw_seed(run_seed: int, unit_key: tuple[str, str, str], index: int) -> int:
    """Compute the seed of a draw, in [0, 2**63): a function of run seed, unit and index alone."""
    text = "\x1f".join((str(run_seed), *unit_key, str(index)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Draw:
    """One sampled completion and what became of it; see schema.DRAW."""

    index: int
    seed: int
    reason: DrawReason
    rating: str | None = None
    accepted_by: str | None = None
    expected: float | None = None
    level_probabilities: tuple[float, ...] | None = None
    constrained: bool = False
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str | None = None
    trace: str | None = None
    error: str | None = None


class UnitSampling:
    """The draws of one unit, and what follows from them.

    accepted    the accepted draws that count, lowest index first, at most `keep`
    num_needed  how many draws, from index 0 on, the outcome depends on
    is_decided  whether no further draw can change the outcome
    """

    def __init__(self, config: SamplingConfig, recorded: Iterable[Draw] = (), forget_failed: bool = True):
        """Start from recorded draws; failed ones are sampled again unless `forget_failed` is off."""
        self._config = config
        unknown = {"cancelled", "failed"} if forget_failed else {"cancelled"}
        self._known = {draw.index: draw for draw in recorded if draw.reason not in unknown}
        self._cancelled: dict[int, Draw] = {}
        self.in_flight: set[int] = set()
        self._num_failed = 0
        self._is_refused = False
        self._update()

    def refuse(self) -> None:
        """Note that the engine refuses the unit's prompt: it would refuse every further draw."""
        self._is_refused = True
        self._update()

    def _update(self) -> None:
        """Derive what the policy asks for often from the known draws."""
        hits = [draw for _, draw in sorted(self._known.items()) if draw.reason == "accepted"][: self._config.keep]
        stops_early = self._config.mode == "sequential" and len(hits) == self._config.keep
        self.accepted = hits
        self.num_needed = hits[-1].index + 1 if stops_early else self._config.max_draws
        self._gave_up = self._is_refused or self._num_failed >= min(MAX_FAILED_DRAWS, self._config.max_draws)
        self.is_decided = self._gave_up or all(index in self._known for index in range(self.num_needed))

    @property
    def draws(self) -> list[Draw]:
        """All draws by index; a cancelled one only where no finished one has its index."""
        return [draw for _, draw in sorted((self._cancelled | self._known).items())]

    @property
    def has_started(self) -> bool:
        """Whether any draw is known or in flight."""
        return bool(self._known or self.in_flight)

    def next_index(self) -> int | None:
        """Find the lowest index that is needed and neither known nor in flight."""
        if self._gave_up:
            return None
        needed = range(self.num_needed)
        return next((i for i in needed if i not in self._known and i not in self.in_flight), None)

    def start(self, index: int) -> None:
        """Note that a draw was sent to the engine."""
        self.in_flight.add(index)

    def finish(self, draw: Draw) -> set[int]:
        """Record a draw; returns the indices in flight that are no longer needed and should be cancelled."""
        self.in_flight.discard(draw.index)
        if draw.reason == "cancelled":
            self._cancelled[draw.index] = draw
        else:
            self._known[draw.index] = draw
            self._num_failed += draw.reason == "failed"
            self._update()
        return set(self.in_flight) if self._gave_up else {i for i in self.in_flight if i >= self.num_needed}
