"""The config of `infer_traces`, and what of it the rows of a run depend on. Imports neither Ray nor vLLM."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.config import STRICT, OneOrMore
from judgetrace.decisions import TraceDecider
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.gate import GateConfig
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.quota import QuotaConfig
from judgetrace.run_config import check_asking, check_cost_limit, make_contract
from judgetrace.sampling import SamplingConfig
from judgetrace.schema import FIRST_PROPOSAL
from judgetrace.session import RayConfig


class LedgerConfig(BaseModel):
    """How decisions are kept."""

    model_config = STRICT

    commit_every_s: float = Field(default=20.0, gt=0, description="Decided units are committed at most so late.")
    keep_rejected_text: bool = Field(default=False, description="Keep the text of rejected draws too.")
    drain_s: float = Field(
        default=20.0, ge=0, description="Time for draws in flight to end when the job is told to stop."
    )


class HintConfig(BaseModel):
    """Whether the prompt tells the target label."""

    model_config = STRICT

    enabled: bool = Field(
        default=False,
        description="Tell the target label and ask for the reasoning of someone who would give it: a last resort for "
        "units that no other proposal reaches. Their traces argue for a label instead of finding it; they are tagged "
        "`hinted`, and train_rater takes them only where a second model recovers the label from them (verify_traces).",
    )


class InferTracesConfig(BaseModel):
    """Infer thinking traces for a corpus: sample reasoning and a rating, keep the trace whose rating matches the label.

    Reads CORPUS/items (written by prepare_corpus), writes RUN/traces: a row a unit. Run the same command again after
    any end: it goes on where it stopped.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    run: str = Field(description="The run folder; may be on another filesystem.")
    proposal: str = Field(
        default=FIRST_PROPOSAL, min_length=1, description="A name for this way of sampling, kept with every trace."
    )
    after: OneOrMore = Field(
        default=(),
        description="Complete runs of infer_traces over the same corpus: sample only units that they left without an "
        "accepted draw (exhausted or over quota; not those they quarantined).",
    )
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        default=(),
        description="Sample only the units of these splits; all by default. Others have no row. train_rater and "
        "refine_guideline learn from train alone.",
    )
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
    hint: HintConfig = Field(default_factory=HintConfig, description="Whether the prompt tells the target label.")
    quota: QuotaConfig = Field(default_factory=QuotaConfig, description="How many traces of a level are enough.")
    gate: GateConfig = Field(default_factory=GateConfig, description="When too few of a level are accepted.")
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
        check_asking(self.engine, self.thinking, self.endpoint, self.sampling, prompt=self.prompt)
        check_cost_limit(self.limits, self.endpoint)
        if self.sampling.keep > self.sampling.max_draws:
            raise ValueError(f"sampling.keep {self.sampling.keep} is more than max_draws {self.sampling.max_draws}")
        if self.hint.enabled:
            self._check_hint()
        if self.run.rstrip("/") in {run.rstrip("/") for run in self.after}:
            raise ValueError("after: names `run` itself; give another run folder to the next proposal")
        return self

    def _check_hint(self) -> None:
        if self.proposal == FIRST_PROPOSAL:
            raise ValueError(f"hint.enabled needs a proposal name of its own, not {FIRST_PROPOSAL!r}: set `proposal`")
        if self.acceptance.rule != "exact":
            raise ValueError(
                f"acceptance.rule = '{self.acceptance.rule}': a hinted draw argues for the one label that it was told; "
                "use 'exact'"
            )

    def decider(self) -> TraceDecider:
        """Return what decides units."""
        return TraceDecider(
            self.sampling,
            self.acceptance,
            self.ledger.keep_rejected_text,
            proposal=self.proposal,
            hinted=self.hint.enabled,
            earlier_runs=self.after,
            splits=self.splits,
        )

    def contract(self, **texts: str) -> dict[str, Any]:
        """Collect what the rows of a run depend on; see run_config.make_contract."""
        sections = {"sampling": self.sampling, "thinking": self.thinking, "acceptance": self.acceptance}
        contract = make_contract(sections, self.model, self.engine, self.endpoint, self.prompt, **texts)
        # Null where it is what runs were that began before there was a choice.
        contract["proposal"] = None if self.proposal == FIRST_PROPOSAL else self.proposal
        contract["splits"] = sorted(set(self.splits)) or None
        return contract | {"hint.enabled": self.hint.enabled or None, "quota.per_level": self.quota.per_level}
