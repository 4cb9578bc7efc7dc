"""The config of `recalibrate_rater`. Imports no Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.session import RayConfig

Split = Literal["train", "validation", "test"]


class RecalibrateRaterConfig(BaseModel):
    """Recalibrate a rater by isotonic regression on a split, as a rater of its own.

    Reads the annotations of a complete run of rate_items, writes RUN/annotations as rate_items does. Samples nothing.
    The map is monotone, so ranking stays (tau-b but for ties), and only calibration moves (MSE, weighted kappa).
    """

    model_config = ConfigDict(extra="forbid")

    corpus: str = Field(description="The corpus folder that was rated; local path, s3:// or any fsspec URL.")
    ratings: str = Field(description="The run folder of the rater: a complete run of rate_items.")
    run: str = Field(description="The run folder to write; measure_agreement takes it among its `raters`.")
    rater_id: str | None = Field(
        default=None,
        min_length=1,
        description="What the recalibrated rater is called; by default the rater's id and '-isotonic'.",
    )
    fit_split: Split = Field(default="validation", description="The split that the map is fitted on.")
    splits: tuple[Split, ...] = Field(
        default=(),
        description="The splits to recalibrate; by default all that the rater rated but the fit split. Figures on the "
        "fit split itself flatter.",
    )
    min_items: int = Field(
        default=30, ge=1, description="Fewer items to fit on, in any dimension, are an error: the map would be noise."
    )
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Check config and input without a cluster, and end.",
    )

    @model_validator(mode="after")
    def _check_folders(self) -> RecalibrateRaterConfig:
        if self.run.rstrip("/") == self.ratings.rstrip("/"):
            raise ValueError("run is the folder of ratings itself; give another one, so that the rater's own stay")
        return self
