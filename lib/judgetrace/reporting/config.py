"""The config of `render_report`."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT, OneOrMore
from judgetrace.label_noise import MIN_DRAWS


class RationalesConfig(BaseModel):
    """People's own reasons, shown beside the inferred traces. A row is what one annotator wrote of one item."""

    model_config = STRICT

    paths: list[str] = Field(min_length=1, description="Parquet files, folders or globs; local paths or URLs.")
    item_id: str = Field(default="item_id", description="The column that names the item, as in the corpus.")
    dimension: str | None = Field(default=None, description="The column of dimensions, where there are several.")
    annotator_id: str | None = Field(default="annotator_id", description="Who wrote it; null: nobody is named.")
    label: str | None = Field(default="label", description="The label that it gives reasons for; null: none.")
    text: str = Field(default="rationale", description="The column of the reasons themselves.")


class BrowserConfig(BaseModel):
    """How much of the traces goes into the file."""

    model_config = STRICT

    max_items: int = Field(default=100_000, ge=0, description="Units at most; of more, a sample. 0: no trace browser.")
    max_megabytes: float = Field(
        default=24.0, gt=0, description="Size that embedded traces may have at most; of more, a sample."
    )
    max_text_chars: int = Field(
        default=20_000, ge=100, description="A longer text (item, thinking, rationale) is cut, and says so."
    )
    min_draws: int = Field(
        default=MIN_DRAWS, ge=1, description="As of list_noise: draws that must have missed a label to make it suspect."
    )
    seed: int = Field(default=0, ge=0, description="Another seed draws another sample, and another order.")


class ComparisonConfig(BaseModel):
    """Two raters of the agreement output to hold against each other."""

    model_config = STRICT

    before: str = Field(description="A rater_id: untuned, or asked with the original guideline.")
    after: str = Field(description="A rater_id: tuned, or asked with the refined guideline.")
    what: str = Field(default="", description="What lies between them, for the table.")
    optional: bool = Field(default=False, description="Whether it is left out where one of them was not measured.")


class RenderReportConfig(BaseModel):
    """Render what runs have come to as one self-contained page.

    Give a study of run_study, or single folders; a section appears when its input is there.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    output: str = Field(description="The file to write (NAME.html), or the folder to write report.html into.")
    title: str | None = Field(default=None, description="The page's title; null: after the corpus.")
    study: str | None = Field(
        default=None,
        description="A study folder: it gives all inputs that are not given here, and what its own report was told.",
    )
    corpus: str | None = Field(default=None, description="A corpus of prepare_corpus.")
    traces: list[str] = Field(default_factory=list, description="Runs of infer_traces, or outputs of decide_again.")
    training: list[str] = Field(default_factory=list, description="Runs of train_rater.")
    ratings: list[str] = Field(
        default_factory=list, description="Runs of rate_items, for what they cost; those of the agreement by default."
    )
    agreement: str | None = Field(default=None, description="An output of measure_agreement.")
    refinement: str | None = Field(default=None, description="A run of refine_guideline.")
    verification: OneOrMore = Field(default=(), description="Runs of verify_traces: one, or a list.")
    rationales: RationalesConfig | None = Field(default=None, description="People's own reasons.")
    comparisons: list[ComparisonConfig] = Field(
        default_factory=list,
        description="Raters before and after; by default each two, in the agreement's order, six pairs at most.",
    )
    remarks: list[str] = Field(
        default_factory=list,
        description="Sentences to be minded beside the figures of agreement; a study says here whether its test split "
        "was looked at before.",
    )
    currency: str = Field(default="", description="The currency of the endpoints' prices, for the page.")
    browser: BrowserConfig = BrowserConfig()
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Say what would be read, and end.",
    )

    @model_validator(mode="after")
    def _check_inputs(self) -> RenderReportConfig:
        given = (self.study, self.corpus, self.agreement, self.refinement, self.verification)
        if not any([*given, self.traces, self.training, self.ratings]):
            raise ValueError("nothing to show: give study, or corpus, traces, training, agreement, refinement, ...")
        return self
