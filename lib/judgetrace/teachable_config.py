"""Which accepted traces may teach, as configs say it. Imports neither Ray nor vLLM."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from judgetrace.config import STRICT, OneOrMore


class TeachableConfig(BaseModel):
    """What is asked of a trace before a rater or a guideline learns from it; see teachable.py."""

    model_config = STRICT

    verification: OneOrMore = Field(
        default=(), description="Run folders of verify_traces over the runs that the traces are of."
    )
    verified: bool = Field(
        default=False, description="Take only traces whose rating a second model recovered (needs `verification`)."
    )
    max_hinted_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Hinted traces among all that are taken at most. They are taken only where `verification` says "
        "that the label was recovered, that no level is still named, and that the trace does not say it was told.",
    )

    @model_validator(mode="after")
    def _check_verified(self) -> Self:
        if self.verified and not self.verification:
            raise ValueError("verified = true needs `verification`: the run folders of verify_traces")
        return self
