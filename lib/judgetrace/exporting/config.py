"""The config of `export_traces`. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from judgetrace.engine import ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.teachable_config import TeachableConfig

Format = Literal["trl", "llamafactory", "datasets", "argilla"]


class ExportTracesConfig(BaseModel):
    """Export traces for other tools: chat messages, preference pairs, a dataset folder, records for review."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    traces: list[str] = Field(min_length=1, description="Run folders of infer_traces over this corpus.")
    output: str = Field(description="The folder to write into; a folder in it for each format.")
    formats: list[Format] = Field(
        default=["trl", "llamafactory", "datasets", "argilla"],
        min_length=1,
        description="trl: chat messages and preference pairs as JSONL. llamafactory: the same, with dataset_info.json. "
        "datasets: Parquet by split with a card, for Hugging Face datasets. argilla: records for human review.",
    )
    split: Literal["train", "validation", "test"] = Field(
        default="train", description="Chat messages and pairs are made of this split alone."
    )
    selection: TeachableConfig = Field(
        default_factory=TeachableConfig,
        description="Which traces chat messages and pairs are made of, as `data` of train_rater says it.",
    )
    max_pairs: int = Field(
        default=1, ge=0, description="Preference pairs of a unit at most: its accepted draw against as many rejected."
    )
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    model: ModelConfig | None = Field(
        default=None,
        description="The base that will be tuned: what acts as a special token of it is taken out of texts, and an "
        "opened thinking tag of its chat template is not written twice, as in train_rater. Null: neither.",
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How a unit becomes a prompt.")
    thinking: ThinkingConfig = Field(
        default_factory=ThinkingConfig, description="How the rater is to write thinking and rating: plain or tags."
    )
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Check the config and the inputs, show one conversation, and end.",
    )
