"""The config of `prepare_corpus`. Imports no Ray."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.columns import ColumnsConfig
from judgetrace.config import STRICT
from judgetrace.guideline import GuidelineConfig
from judgetrace.labels import TargetConfig, check_rule
from judgetrace.scale import ScaleConfig
from judgetrace.session import RayConfig
from judgetrace.sources import SourceConfig
from judgetrace.splits import SplitConfig


class ShardsConfig(BaseModel):
    """How the corpus is cut."""

    model_config = STRICT

    units_per_shard: int = Field(default=1000, ge=1, description="Units in an item shard; a bucket's last has fewer.")
    buckets: int | None = Field(
        default=None,
        ge=1,
        description="Reduce tasks of the first run, kept by later ones: give more where much will be appended. null: "
        "by the input's size.",
    )


class LimitsConfig(BaseModel):
    """What bad input is borne."""

    model_config = STRICT

    max_quarantined_rate: float = Field(default=0.05, ge=0, le=1, description="Above this share of rows the job stops.")
    max_text_bytes: int = Field(default=1_000_000, ge=1, description="An item with more text than this is quarantined.")


class PrepareCorpusConfig(BaseModel):
    """Prepare a labelled corpus for the other jobs."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    corpus: str = Field(description="The output folder: a local path or any fsspec URL.")
    source: SourceConfig
    columns: ColumnsConfig
    scale: ScaleConfig
    guideline: GuidelineConfig
    target: TargetConfig = TargetConfig()
    split: SplitConfig = SplitConfig()
    shards: ShardsConfig = ShardsConfig()
    limits: LimitsConfig = LimitsConfig()
    cluster: RayConfig = RayConfig()
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Check config and input without a cluster, show one unit, and end.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="A pilot: only the first N rows, in order of files. It can't be appended to."
    )

    @model_validator(mode="after")
    def _check_sections(self) -> PrepareCorpusConfig:
        check_rule(self.target, self.scale)
        wide = self.source.layout == "wide"
        if wide != (self.columns.labels is not None):
            raise ValueError(f"source.layout {self.source.layout} goes with columns.{'labels' if wide else 'label'}")
        if self.target.rule == "per_annotator" and not wide and self.columns.annotator_id is None:
            raise ValueError("target.rule per_annotator needs columns.annotator_id")
        if self.guideline.by_section and self.columns.dimension is None:
            raise ValueError("guideline.by_section needs columns.dimension")
        return self
