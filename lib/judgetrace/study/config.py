"""The config of `run_study`: sections that stages share, and a section for each kind of stage. Imports no Ray.

What is in the sections is checked where stages are built of them (judgetrace.study.stages).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from judgetrace.config import UserError, describe_validation_error
from judgetrace.study.sections import read_sections

Section = dict[str, Any]


class StudyConfig(BaseModel):
    """A study: from a labelled corpus to tuned raters, a refined guideline, and how far all of them agree with people.

    A section at the top is shared by every stage whose job has a section of that name. A stage's own section overrides
    it, key by key; `false` drops what is shared. What stages read from and write into each other is wired by the study.
    """

    model_config = ConfigDict(extra="forbid")

    study: str = Field(description="The study's folder; local path, s3:// or any fsspec URL.")

    source: Section = Field(default={}, description="Of prepare_corpus: the labelled corpus.")
    columns: Section = Field(default={}, description="Of prepare_corpus: which column holds what.")
    scale: Section = Field(default={}, description="Of prepare_corpus: the levels.")
    guideline: Section = Field(default={}, description="Of prepare_corpus: what annotators were told.")
    target: Section = Field(default={}, description="Of prepare_corpus: how labels become a target label.")
    split: Section = Field(default={}, description="Of prepare_corpus: train, validation and test.")
    shards: Section = Field(default={}, description="Of prepare_corpus: how the corpus is cut.")
    model: Section = Field(default={}, description="The generator, the base to tune and the untuned rater, at once.")
    engine: Section = Field(default={}, description="The engines of infer and rate.")
    prompt: Section = Field(default={}, description="How an item becomes a prompt, in infer, train and rate.")
    thinking: Section = Field(default={}, description="How thinking and rating are written, in infer, train and rate.")
    intervals: Section = Field(default={}, description="Of measure_agreement: the bootstrap.")
    cluster: Section = Field(default={}, description="Where all stages run.")

    prepare: Section = Field(default={}, description="prepare_corpus. Always a stage.")
    infer: Section | None = Field(
        default=None,
        description="infer_traces. `runs` names several runs, with a section [infer.NAME] each for what differs: each "
        "takes the units that the runs before it left without a trace. Only the last may have a `limit`, and none with "
        "[verify]: a pilot is not complete.",
    )
    verify: Section | None = Field(
        default=None,
        description="verify_traces, of each run of infer; [verify.NAME] says what differs. Give it a [verify.model] of "
        "another family than the generator.",
    )
    train: Section | None = Field(
        default=None,
        description="train_rater: the arm `tuned`. `controls` names further arms, whose raters tell what the traces "
        "are worth: label, label_first, unrejected, shuffled, recalibrated (the untuned rater after a monotone map), "
        "or a name of your own with a section [train.NAME].",
    )
    rate: Section = Field(
        default={},
        description="rate_items. The raters are untuned, tuned, the controls, and those that `others` names; "
        "[rate.NAME] says what differs, and [rate.tuned] holds for all tuned raters that think. A tuned rater is asked "
        "as it was taught: its training's prompt, thinking.format and tags, guideline and (of an adapter) base hold, "
        "whatever [rate] says; [rate.NAME] may say otherwise, and [rate.tuned] of all that were taught as tuned was. "
        "`refined` names those that rate with the refined guideline, too, where refine.dimension is given that "
        "dimension alone: all but the controls by default.",
    )
    recalibrate: Section = Field(default={}, description="recalibrate_rater, for the control `recalibrated`.")
    refine: Section | None = Field(
        default=None,
        description="refine_guideline, of the corpus's own guideline. `raters` names the raters that score candidates: "
        "all that `rate.refined` names by default; [refine.rater] says what is different of all of them here, "
        "[refine.rater.NAME] of one.",
    )
    agreement: Section = Field(default={}, description="measure_agreement.")
    report: Section | None = Field(default=None, description="render_report.")


def load_study(file: Path, overrides: list[str]) -> StudyConfig:
    """Read a study; `overrides` are `--section.key=value`. Raises UserError."""
    try:
        return StudyConfig.model_validate(read_sections(file, overrides))
    except ValidationError as error:
        raise UserError(describe_validation_error(error, StudyConfig, f"{file} and the command line")) from error
