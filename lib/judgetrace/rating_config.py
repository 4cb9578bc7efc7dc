"""The config of a rater, and of `rate_items`. Imports neither Ray nor vLLM."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT, OneOrMore, UserError
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.fingerprints import hash_text
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.run_config import check_asking, check_cost_limit, make_contract
from judgetrace.scale import ScaleConfig
from judgetrace.session import RayConfig


class RatingLedgerConfig(BaseModel):
    """How ratings are kept."""

    model_config = STRICT

    commit_every_s: float = Field(default=20.0, gt=0, description="Rated items are committed at most so late.")
    keep_text: bool = Field(
        default=False,
        description="Keep what the rater wrote: text and thinking of every sample. Without it a row holds its ratings, "
        "reasons and token counts only.",
    )
    drain_s: float = Field(
        default=20.0, ge=0, description="Time for samples in flight to end when the job is told to stop."
    )


class RaterConfig(BaseModel):
    """A rater: any vLLM model, with or without an adapter, or any OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    rater_id: str | None = Field(
        default=None,
        description="What the rater is called in its annotations; by default the name of model or adapter.",
    )
    model: ModelConfig = Field(description="The rater's model.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The pool of engines.")
    endpoint: EndpointConfig | None = Field(
        default=None, description="An endpoint that has the model, in place of vLLM."
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How an item becomes a prompt.")
    thinking: ThinkingConfig = Field(default_factory=ThinkingConfig, description="How thinking and rating are written.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, description="How the rating is read off the model."
    )

    @model_validator(mode="after")
    def _check_rater(self) -> Self:
        scores_levels, sampling = self.decoding.rating == "expected", self.decoding.sampling()
        check_asking(
            self.engine,
            self.thinking,
            self.endpoint,
            sampling,
            prompt=self.prompt,
            scores_levels=scores_levels,
            section="decoding",
        )
        if scores_levels and self.thinking.format == "none" and self.decoding.samples > 1:
            raise ValueError(
                f"decoding.samples {self.decoding.samples}: without thinking the expected rating is the same "
                "every time; use 1"
            )
        return self

    @property
    def rater(self) -> str:
        """What the rater is called."""
        return self.rater_id or PurePosixPath(self.model.adapter or self.model.path).name

    def decider(self) -> RatingDecider:
        """Return what decides units."""
        return RatingDecider(self.rater, self.decoding)

    def contract(self, **texts: str) -> dict[str, Any]:
        """Collect what a rating depends on; see run_config.make_contract."""
        sections = {"decoding": self.decoding, "thinking": self.thinking}
        return make_contract(sections, self.model, self.engine, self.endpoint, self.prompt, **texts)

    def fingerprint(self, **texts: str) -> str:
        """Fingerprint the contract."""
        return hash_text(json.dumps(self.contract(**texts), sort_keys=True))


class RateItemsConfig(RaterConfig):
    """Let a rater label a corpus: any vLLM model, with or without an adapter, or any OpenAI-compatible endpoint.

    Reads CORPUS/items (written by prepare_corpus), writes RUN/annotations: a row an item and dimension. Run the same
    command again after any end: it goes on where it stopped.
    """

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    run: str = Field(description="The run folder; may be on another filesystem.")
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        default=(), description="Rate only the items of these splits; all by default."
    )
    dimensions: OneOrMore = Field(default=(), description="Rate only these dimensions; all by default.")
    dropped: bool = Field(
        default=False,
        description="Rate the items that the target rule dropped too, so that measure_agreement can tell how far the "
        "filtered figures flatter.",
    )
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    ledger: RatingLedgerConfig = Field(default_factory=RatingLedgerConfig, description="How ratings are kept.")
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="When the job ends early.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    limit: int | None = Field(default=None, ge=1, description="A pilot: only the first so many items.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster, print the resolved config and one rendered prompt.",
    )

    @model_validator(mode="after")
    def _check_limits(self) -> RateItemsConfig:
        check_cost_limit(self.limits, self.endpoint)
        return self

    def decider(self) -> RatingDecider:
        """Return what decides units."""
        return RatingDecider(
            self.rater, self.decoding, self.splits, self.dropped, self.ledger.keep_text, dimensions=self.dimensions
        )

    def contract(self, **texts: str) -> dict[str, Any]:
        """Collect what the rows of a run depend on; see run_config.make_contract."""
        rows = {"rater_id": self.rater, "splits": list(self.splits), "dropped": self.dropped}
        # Null rather than none of them, as of runs that began before there was a choice.
        return super().contract(**texts) | rows | {"dimensions": sorted(self.dimensions) or None}


def check_scales(decoding: DecodingConfig, scales: ScaleConfig) -> None:
    """Raise UserError where a nominal scale is asked for a mean or an expectation."""
    nominal = scales.list_nominal()
    if nominal and (decoding.rating == "expected" or (decoding.samples > 1 and decoding.combine == "mean")):
        raise UserError(
            f"decoding: the scale of {nominal[:5]} is nominal and has no mean\n"
            "expected: decoding.rating = 'sampled', and combine = 'majority' where samples is more than 1"
        )
