"""When a run ends early: too many failures, or a budget of tokens, money or time is spent. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field

from judgetrace.config import STRICT
from judgetrace.control import WorkCounts
from judgetrace.endpoint_config import EndpointConfig

MIN_UNITS_FOR_FAILED_RATE = 50


class LimitsConfig(BaseModel):
    """When the job ends early. It can always be continued by the same command."""

    model_config = STRICT

    max_failed_rate: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Stop when more than this share of at least 50 units failed or were quarantined.",
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="Budget of output tokens for this call.")
    max_cost: float | None = Field(
        default=None,
        gt=0,
        description="Budget of money for this call, in the currency of the endpoint's prices. It is overdrawn by what "
        "is answered within the few seconds until all engines hear of its end. Answers are not streamed, so tokens of "
        "tries that timed out and of draws cancelled at the end can't be counted, though the server may bill them.",
    )
    max_seconds: float | None = Field(default=None, gt=0, description="Budget of time for this call.")
    early_status: int = Field(
        default=3,
        ge=0,
        le=125,
        description="Exit status of the job's process where a budget, the gate or a newer driver ends it early: 0 "
        "keeps what starts failed jobs again, as Kubernetes does, from spending a budget anew. Too many failures and "
        "signals stay 3; so does everything to a job that calls this one, as a study and plan_run do.",
    )


@dataclass(frozen=True)
class StopReason:
    """Why a run ends early."""

    text: str
    is_planned: bool = False
    """Whether it ends as it was told to (a budget, the gate, a newer driver): limits.early_status is for these."""


@dataclass(frozen=True)
class RunLimits:
    """The limits of a call, with the prices that a budget of money needs."""

    config: LimitsConfig
    endpoint: EndpointConfig | None = None

    def find_reason(self, done: WorkCounts, seconds: float) -> StopReason | None:
        """Find why the run should end now; None where it may go on."""
        failures = self._find_failures(done)
        if failures is not None:
            return StopReason(failures)
        spent = self._find_spent_budget(done, seconds)
        return None if spent is None else StopReason(spent, is_planned=True)

    def _find_failures(self, done: WorkCounts) -> str | None:
        failed = done.outcomes["failed"] + done.outcomes["quarantined"]
        asked = done.num_units - done.outcomes["over_quota"]
        if asked < MIN_UNITS_FOR_FAILED_RATE or failed <= self.config.max_failed_rate * asked:
            return None
        commonest = "; ".join(f"{error} ({count}x)" for error, count in done.errors.most_common(5))
        share = f"{failed} of {asked} units failed or were quarantined"
        return f"{share}, more than limits.max_failed_rate; commonest: {commonest}"

    def _find_spent_budget(self, done: WorkCounts, seconds: float) -> str | None:
        config, cost = self.config, self.cost(done)
        if config.max_output_tokens is not None and done.output_tokens >= config.max_output_tokens:
            return f"limits.max_output_tokens reached ({done.output_tokens} output tokens)"
        if config.max_cost is not None and cost >= config.max_cost:
            return f"limits.max_cost reached ({cost:.2f})"
        if config.max_seconds is not None and seconds >= config.max_seconds:
            return f"limits.max_seconds reached ({config.max_seconds:g} s)"
        return None

    def cost(self, done: WorkCounts) -> float:
        """Compute what the tokens cost at the endpoint's prices; nothing where the engine is our own."""
        return 0.0 if self.endpoint is None else self.endpoint.cost(done.prompt_tokens, done.output_tokens)
