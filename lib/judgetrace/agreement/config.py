"""The config of `measure_agreement`."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT
from judgetrace.labels import TargetConfig
from judgetrace.scale import ScaleConfig
from judgetrace.session import RayConfig


class TableConfig(BaseModel):
    """A long table of annotations: a row is what one annotator or rater says of one item."""

    model_config = STRICT

    paths: list[str] = Field(min_length=1, description="Parquet files, folders or globs; local paths or URLs.")
    kind: Literal["human", "rater"] = Field(description="Whose labels they are: people's or a model's.")
    item_id: str = Field(default="item_id", description="The column that names the item.")
    annotator_id: str | None = Field(
        default="annotator_id", description="The column that names the annotator or rater; null: nobody is named."
    )
    label: str = Field(
        default="label",
        description="The column of labels, or of numbers where the levels are numbers; null in it: no rating, which "
        "lowers coverage.",
    )
    dimension: str | None = Field(default=None, description="The column of dimensions, where there are several.")
    group: str | None = Field(
        default=None,
        description="The column that groups items: prompt, document or author; blank: the item alone. For intervals; "
        "splits are the corpus' own.",
    )
    name: str | None = Field(default=None, description="What to call the one rater of a table that names none.")


class IntervalsConfig(BaseModel):
    """How intervals and p-values are made: a bootstrap over items or groups."""

    model_config = STRICT

    replicates: int = Field(default=1000, ge=0, le=100_000, description="Bootstrap replicates; 0: no intervals.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Coverage of the intervals.")
    seed: int = Field(default=0, ge=0, description="Another seed draws other replicates.")
    over: Literal["auto", "item", "group"] = Field(
        default="auto", description="What is resampled whole; auto: groups where the input has a group column."
    )


class SlicesConfig(BaseModel):
    """What the figures are broken down by, besides dimension and annotator."""

    model_config = STRICT

    label: bool = Field(default=True, description="By target label.")
    columns: list[str] = Field(
        default_factory=list,
        description="By columns: keys of the corpus' `extra`, columns of the tables, `split` or `group` of the corpus.",
    )
    max_values: int = Field(default=50, ge=1, description="A column with more values than this is no slice.")


class PanelPairConfig(BaseModel):
    """A rater before and after: two rater_ids of one model, asked by two guidelines."""

    model_config = STRICT

    before: str = Field(description="A rater_id: asked by the original guideline.")
    after: str = Field(description="A rater_id: asked by the other one.")
    optional: bool = Field(default=False, description="Whether it is left out where one of them did not rate.")

    @property
    def names(self) -> tuple[str, str]:
        """Both, before and after."""
        return self.before, self.after


class AlternativeConfig(BaseModel):
    """The alternative-annotator test."""

    model_config = STRICT

    eps: float = Field(
        default=0.2, ge=0, le=1, description="What a rater's lower cost is worth: .2 experts, .15 skilled, .1 crowd."
    )


class MeasureAgreementConfig(BaseModel):
    """Measure how far annotators and raters agree, among themselves and with each other.

    Give a corpus (of prepare_corpus), runs of rate_items over it, long tables, or any of these together.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    output: str = Field(description="The folder to write agreement.parquet, agreement.json and report.md into.")
    corpus: str | None = Field(
        default=None, description="A corpus of prepare_corpus: its annotations, scale, target rule, groups and splits."
    )
    raters: list[str] = Field(default_factory=list, description="Run folders of rate_items.")
    tables: list[TableConfig] = Field(default_factory=list, description="Further long tables.")
    scale: ScaleConfig | None = Field(default=None, description="The scale, where there is no corpus.")
    target: TargetConfig | None = Field(
        default=None, description="How people's labels become a target label; the corpus' rule by default."
    )
    split: Literal["train", "validation", "test"] | None = Field(
        default=None, description="Only items of this split of the corpus; null: all."
    )
    intervals: IntervalsConfig = IntervalsConfig()
    slices: SlicesConfig = SlicesConfig()
    alternative_test: AlternativeConfig = AlternativeConfig()
    panel: list[PanelPairConfig] = Field(
        default_factory=list,
        description="Raters before and after, two pairs or more: how far those before and those after agree with each "
        "other, on the units that all of them rated, and the paired change.",
    )
    max_annotators: int = Field(
        default=10, ge=0, description="Figures for single annotators: the ones with most labels, in each dimension."
    )
    max_unusable_rate: float = Field(default=0.05, ge=0, le=1, description="Above this share of rows the job stops.")
    buckets: int | None = Field(default=None, ge=1, description="Reduce tasks; null: by the input's size.")
    cluster: RayConfig = RayConfig()
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Check config and input without a cluster, and end.",
    )

    @model_validator(mode="after")
    def _check_sources(self) -> MeasureAgreementConfig:
        if self.corpus is None and not self.tables:
            raise ValueError("nothing to measure: give corpus or tables")
        if self.corpus is None and self.scale is None:
            raise ValueError("without a corpus give scale.values (and scale.type)")
        if self.corpus is not None and self.scale is not None:
            raise ValueError("the corpus has a scale; drop the section scale")
        if self.corpus is None and self.split is not None:
            raise ValueError("split needs a corpus")
        return self
