"""The config of `infer_traces`, and what of it the rows of a run depend on. Imports neither Ray nor vLLM."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.config import STRICT
from judgetrace.decisions import TraceDecider
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.run_config import check_asking, make_contract
from judgetrace.sampling import SamplingConfig
from judgetrace.session import RayConfig


class LedgerConfig(BaseModel):
    """How decisions are kept."""

    model_config = STRICT

    commit_every_s: float = Field(default=20.0, gt=0, description="Decided units are committed at most so late.")
    keep_rejected_text: bool = Field(default=False, description="Keep the text of rejected draws too.")
    drain_s: float = Field(
        default=20.0, ge=0, description="Time for draws in flight to end when the job is told to stop."
    )


class InferTracesConfig(BaseModel):
    """Infer thinking traces for a corpus: sample reasoning and a rating, keep the trace whose rating matches the label.

    Reads CORPUS/items (written by prepare_corpus), writes RUN/traces: a row a unit. Run the same command again after
    any end: it goes on where it stopped.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    run: str = Field(description="The run folder; may be on another filesystem.")
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    model: ModelConfig = Field(description="The generator.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The pool of engines.")
    endpoint: EndpointConfig | None = Field(
        default=None, description="An endpoint that has the model, in place of vLLM."
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How a unit becomes a prompt.")
    thinking: ThinkingConfig = Field(default_factory=ThinkingConfig, description="How thinking and rating are written.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How draws are sampled.")
    acceptance: AcceptanceConfig = Field(default_factory=AcceptanceConfig, description="Which ratings match.")
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="How decisions are kept.")
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="When the job ends early.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    limit: int | None = Field(default=None, ge=1, description="A pilot: only the first so many units.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster, print the resolved config and one rendered prompt.",
    )

    @model_validator(mode="after")
    def _check(self) -> InferTracesConfig:
        if self.thinking.format == "none":
            raise ValueError("thinking.format = 'none' leaves no trace to infer; use plain, tags or parser")
        check_asking(self.engine, self.thinking, self.endpoint, self.sampling, self.limits, prompt=self.prompt)
        if self.sampling.keep > self.sampling.max_draws:
            raise ValueError(f"sampling.keep {self.sampling.keep} is more than max_draws {self.sampling.max_draws}")
        return self

    def decider(self) -> TraceDecider:
        """Return what decides units."""
        return TraceDecider(self.sampling, self.acceptance, self.ledger.keep_rejected_text)

    def contract(self, **texts: str) -> dict[str, Any]:
        """Collect what the rows of a run depend on; see run_config.make_contract."""
        sections = {"sampling": self.sampling, "thinking": self.thinking, "acceptance": self.acceptance}
        return make_contract(sections, self.model, self.engine, self.endpoint, self.prompt, **texts)
