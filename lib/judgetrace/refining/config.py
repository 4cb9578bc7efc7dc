"""The config of `refine_guideline`. Imports neither Ray nor vLLM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT, OneOrMore, UserError
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.limits import LimitsConfig
from judgetrace.rating_config import RaterConfig, check_scales
from judgetrace.refining.candidate_config import (
    EMBEDDER,
    GENERATOR,
    CandidatesConfig,
    EmbeddingConfig,
    GeneratorConfig,
    SelectionConfig,
)
from judgetrace.refining.confirm import ConfirmConfig
from judgetrace.refining.held_items import ItemRule
from judgetrace.refining.lint import LintConfig
from judgetrace.refining.racing import RaceConfig
from judgetrace.refining.scores import ScoreKind
from judgetrace.run_config import check_cost_limit
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.session import RayConfig

ItemLimit = Annotated[int, Field(ge=1)] | Literal["all"]
"""How many items at most. "all" is a word, since TOML has no null."""


class ScoringConfig(BaseModel):
    """What candidates are raced and confirmed on."""

    model_config = STRICT

    score: ScoreKind | None = Field(
        default=None,
        description="exact: whether a rating is the target label; squared: 1 - (rating - target)^2 / range^2. By "
        "default exact for nominal scales, squared for the others.",
    )
    max_items: ItemLimit = Field(
        default=1000,
        description="Items of each half of the validation split at most (whole groups are taken, so some more), or "
        "'all'.",
    )


class TestConfig(BaseModel):
    """The test split, which is rated once, when all is decided."""

    # pytest would take it for tests by its name.
    __test__ = False
    model_config = STRICT

    enabled: bool = Field(
        default=True,
        description="Rate the test split with the original and the refined guideline. Off where a study measures the "
        "test split itself: then agreement is measured on the confirming half of the validation split.",
    )
    max_items: ItemLimit = Field(
        default=1000,
        description="Items of it at most (whole groups are taken, so some more), or 'all', which the driver then "
        "holds.",
    )


class IntervalsConfig(BaseModel):
    """Intervals of agreement before, after and of the change."""

    model_config = STRICT

    replicates: int = Field(default=1000, ge=200, description="Bootstrap replicates.")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Level of the intervals.")


class CallLedgerConfig(BaseModel):
    """How calls and ratings are kept."""

    model_config = STRICT

    commit_every_s: float = Field(default=5.0, gt=0, description="What engines answered is committed at most so late.")
    drain_s: float = Field(default=20.0, ge=0, description="Time for calls in flight to end when the job is to stop.")


class RefineGuidelineConfig(BaseModel):
    """Write clearer guidelines from thinking traces, and find out whether raters agree better with people by one.

    Reads CORPUS/items and the traces of runs of infer_traces, writes RUN/guideline.md and what led to it. Run the same
    command again after any end: it goes on. Asked twice is at most what was in flight, and what a killed driver had not
    committed yet, the answers of ledger.commit_every_s.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    traces: OneOrMore = Field(description="Run folders of infer_traces on this corpus: one, or a list.")
    run: str = Field(description="The run folder; may be on another filesystem.")
    dimension: str | None = Field(
        default=None, description="Which dimension's guideline is refined; needed where the corpus has several."
    )
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    seed: int = Field(default=0, ge=0, description="Seed of halves, race and intervals.")
    selection: SelectionConfig = Field(
        default_factory=SelectionConfig, description="Which traces candidates are written from."
    )
    generator: GeneratorConfig = Field(description="The model that writes critiques and guidelines.")
    candidates: CandidatesConfig = Field(
        default_factory=CandidatesConfig, description="Which candidates are written, and from which prompts."
    )
    embedding: EmbeddingConfig = Field(
        default_factory=EmbeddingConfig, description="What turns critiques into vectors."
    )
    raters: tuple[RaterConfig, ...] = Field(
        min_length=1, description="The raters that candidates are scored by; two or more, of different families."
    )
    allow_one_rater: bool = Field(
        default=False, description="Score by a single rater: what makes it rate better may not help others."
    )
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="What candidates are scored on.")
    race: RaceConfig = Field(default_factory=RaceConfig, description="When the race drops candidates and ends.")
    confirm: ConfirmConfig = Field(default_factory=ConfirmConfig, description="What it takes to replace the original.")
    lint: LintConfig = Field(default_factory=LintConfig, description="What a candidate guideline may be.")
    test: TestConfig = Field(default_factory=TestConfig, description="The test split, rated once at the end.")
    intervals: IntervalsConfig = Field(default_factory=IntervalsConfig, description="Intervals of agreement.")
    ledger: CallLedgerConfig = Field(
        default_factory=CallLedgerConfig, description="How calls and ratings are kept while the job goes on."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="When the job ends early.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster; print the config, the calls that it takes and a prompt of each kind.",
    )

    @model_validator(mode="after")
    def _check(self) -> RefineGuidelineConfig:
        if not self.traces:
            raise ValueError("traces: give at least one run of infer_traces")
        if len(self.raters) < 2 and not self.allow_one_rater:
            raise ValueError(
                f"raters: {self.raters[0].rater!r} alone; what makes one rater rate better may not help others\n"
                "expected: two or more, of different families, or allow_one_rater = true"
            )
        names = [GENERATOR, EMBEDDER, *(rater.rater for rater in self.raters)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"raters: two are called {repeated[:5]}; give each a rater_id of its own, other than {GENERATOR!r} "
                f"and {EMBEDDER!r}"
            )
        check_cost_limit(self.limits, *self.endpoints().values())
        return self

    def endpoints(self) -> dict[str, EndpointConfig | None]:
        """Return the endpoint of every model that is asked, by the model's name in this run; None for one's own."""
        named = {GENERATOR: self.generator.endpoint, EMBEDDER: self.embedding.endpoint}
        return named | {rater.rater: rater.endpoint for rater in self.raters}

    def item_rule(self, dimension: str) -> ItemRule:
        """Return which items candidates are held against."""
        return ItemRule(
            dimension,
            self.seed,
            test="test" if self.test.enabled else None,
            max_items=None if self.scoring.max_items == "all" else self.scoring.max_items,
            max_test_items=None if self.test.max_items == "all" else self.test.max_items,
        )

    def score_kind(self, scale: Scale) -> ScoreKind:
        """Return how items are scored on a scale. Raises UserError for squares on a nominal one."""
        if scale.type == "nominal" and self.scoring.score == "squared":
            raise UserError("scoring.score = 'squared': the scale is nominal and has no distances; use 'exact'")
        kind: Literal["exact", "squared"] = "exact" if scale.type == "nominal" else "squared"
        return self.scoring.score or kind


def check_raters(config: RefineGuidelineConfig, scale: Scale) -> None:
    """Raise UserError where a rater's way to rate does not fit the scale."""
    for rater in config.raters:
        check_scales(rater.decoding, ScaleConfig(values=scale.values, type=scale.type))
