"""The config of `verify_traces`. Imports neither Ray nor vLLM."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.rating_config import RatingLedgerConfig
from judgetrace.run_config import check_asking, check_cost_limit, make_contract
from judgetrace.session import RayConfig
from judgetrace.stripping import RULES_VERSION
from judgetrace.verification import RecoveryConfig, VerificationDecider


class VerifyTracesConfig(BaseModel):
    """Let a second model recover the rating from each accepted trace, from which every mention of it was stripped.

    Reads TRACES/traces (written by infer_traces) and the corpus, writes RUN/verifications: a row an accepted unit. Run
    the same command again after any end: it goes on where it stopped.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    traces: str = Field(description="A complete run of infer_traces over this corpus.")
    run: str = Field(description="The run folder; not that of the traces.")
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    model: ModelConfig = Field(description="The second model; best of another family than the generator.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The pool of engines.")
    endpoint: EndpointConfig | None = Field(
        default=None, description="An endpoint that has the model, in place of vLLM."
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How a trace becomes a prompt.")
    thinking: ThinkingConfig = Field(default_factory=ThinkingConfig, description="How thinking and rating are written.")
    decoding: RecoveryConfig = Field(default_factory=RecoveryConfig, description="How the answer is sampled.")
    ledger: RatingLedgerConfig = Field(default_factory=RatingLedgerConfig, description="How verdicts are kept.")
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="When the job ends early.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    limit: int | None = Field(default=None, ge=1, description="A pilot: only the first so many traces.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster, print the resolved config and one rendered prompt.",
    )

    @model_validator(mode="after")
    def _check(self) -> VerifyTracesConfig:
        check_asking(
            self.engine,
            self.thinking,
            self.endpoint,
            self.decoding.sampling(),
            prompt=self.prompt,
            section="decoding",
        )
        check_cost_limit(self.limits, self.endpoint)
        if self.prompt.severity is not None:
            raise ValueError("prompt.severity: nobody rates here; leave it out")
        if self.run.rstrip("/") == self.traces.rstrip("/"):
            raise ValueError("run is the folder of the traces; give another one")
        return self

    def decider(self) -> VerificationDecider:
        """Return what decides units."""
        return VerificationDecider(self.traces, self.decoding, self.ledger.keep_text)

    def contract(self, **texts: str) -> dict[str, Any]:
        """Collect what the rows of a run depend on; see run_config.make_contract."""
        sections = {"decoding": self.decoding, "thinking": self.thinking}
        contract = make_contract(sections, self.model, self.engine, self.endpoint, self.prompt, **texts)
        return contract | {"stripping.version": RULES_VERSION}
