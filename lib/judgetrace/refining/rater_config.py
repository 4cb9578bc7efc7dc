"""The config of one of the raters that candidates are scored by: as a config of rate_items has it."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.fingerprints import hash_text
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.run_config import check_asking, make_contract


class RaterConfig(BaseModel):
    """A rater: a vLLM model, with or without an adapter, or an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    rater_id: str | None = Field(
        default=None, description="What the rater is called; by default the name of model or adapter."
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
    def _check(self) -> RaterConfig:
        check_asking(
            self.engine,
            self.thinking,
            self.endpoint,
            self.decoding.sampling(),
            LimitsConfig(),
            prompt=self.prompt,
            scores_levels=self.decoding.rating == "expected",
            section="decoding",
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
        """Collect what the rater's ratings depend on besides the guideline; see run_config.make_contract."""
        sections = {"decoding": self.decoding, "thinking": self.thinking}
        return make_contract(sections, self.model, self.engine, self.endpoint, self.prompt, **texts)

    def fingerprint(self, **texts: str) -> str:
        """Fingerprint the contract."""
        return hash_text(json.dumps(self.contract(**texts), sort_keys=True))
