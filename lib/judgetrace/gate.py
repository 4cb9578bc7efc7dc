"""Hold acceptance by target label against a floor, while a run goes on and at its end. Pure.

Rejection selects by the generator's severity: a level that it hardly ever gives is hardly ever learned. A unit counts
when it was accepted or had all its draws. While a run goes on, accepted units are counted earlier than exhausted ones,
which take more draws: the share begins too high, so the gate may speak late but not without cause. At the end it is
held once more, against all that was committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from judgetrace.accounting import split_key
from judgetrace.config import STRICT

GATE = "gate.min_level_acceptance"
_PROPOSAL = "a further proposal `after` it (prompt.severity, another model)"
ADVICE = {
    "warn": f"What may help: once this run is complete, {_PROPOSAL}",
    # `after` takes complete runs alone, which this one is not while its gate stops it.
    "stop": "While a level is below its gate the same command stops again, and writes no manifest. To accept it set "
    f"gate.on_breach = 'warn', or lower the gate: then the run goes on to its end, and {_PROPOSAL} may reach what it "
    "left. Or sample otherwise in another `run` folder",
}
"""What can be done about a breach, by what the gate does about it."""


class GateConfig(BaseModel):
    """When acceptance by target label is too low."""

    model_config = STRICT

    min_level_acceptance: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of a level's decided units that must be accepted; off by default. A run with `after` is "
        "judged by the units that it asks itself, not by what all its proposals reached: earlier runs left the hard "
        "ones, so give it a lower gate.",
    )
    on_breach: Literal["warn", "stop"] = Field(
        default="warn",
        description="What to do about a level below it. stop: the call ends early, and the run, even with all its "
        "units decided, is not complete until a call with a lower gate or with warn. A run that is complete already "
        "stays so.",
    )
    min_units: int = Field(default=50, ge=1, description="Decided units of a level before it is judged.")


@dataclass(frozen=True)
class LevelShare:
    """A level's accepted units, and those that were accepted or had all their draws."""

    dimension: str
    label: str
    accepted: int
    decided: int

    @property
    def share(self) -> float:
        """The share accepted."""
        return self.accepted / self.decided


def share_levels(units: Mapping[str, int]) -> list[LevelShare]:
    """Compute the shares of counts by dimension, target label and outcome (accounting.Tally.units)."""
    accepted: Counter[tuple[str, str]] = Counter()
    decided: Counter[tuple[str, str]] = Counter()
    for key, count in units.items():
        dimension, label, outcome = split_key(key)
        if outcome in ("accepted", "exhausted"):
            decided[dimension, label] += count
            accepted[dimension, label] += count * (outcome == "accepted")
    return [LevelShare(*level, accepted[level], count) for level, count in sorted(decided.items())]


def find_breaches(units: Mapping[str, int], config: GateConfig) -> list[LevelShare]:
    """Find the levels with enough decided units of which too few are accepted."""
    if config.min_level_acceptance is None:
        return []
    judged = (level for level in share_levels(units) if level.decided >= config.min_units)
    return [level for level in judged if level.share < config.min_level_acceptance]


def describe_level(level: LevelShare) -> str:
    """Say how a level stands."""
    name = f"{level.dimension} {level.label}".strip()
    return f"label {name}: {level.accepted:,} of {level.decided:,} decided units accepted ({level.share:.1%})"


def describe_breach(breaches: list[LevelShare], config: GateConfig) -> str:
    """Say which levels are below the gate, and what can be done."""
    levels = "; ".join(map(describe_level, breaches[:5])) + ("; ..." if len(breaches) > 5 else "")
    return f"{GATE} {config.min_level_acceptance:g}: {levels}. {ADVICE[config.on_breach]}"


def find_stop(units: Mapping[str, int], config: GateConfig) -> str | None:
    """Say why the gate stops a run that stands so, and what can be done; None where it does not stop it."""
    breaches = find_breaches(units, config) if config.on_breach == "stop" else []
    return describe_breach(breaches, config) if breaches else None


def summarise_gate(units: Mapping[str, int], config: GateConfig) -> dict[str, Any] | None:
    """Collect for manifest and report how the levels stand; None where there is no gate."""
    if config.min_level_acceptance is None:
        return None
    levels = share_levels(units)
    return {
        "min_level_acceptance": config.min_level_acceptance,
        "min_units": config.min_units,
        "breaches": [asdict(level) for level in find_breaches(units, config)],
        "too_few_units": [asdict(level) for level in levels if level.decided < config.min_units],
    }
