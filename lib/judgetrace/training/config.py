"""The config of `train_rater`. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT, OneOrMore
from judgetrace.engine import ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.session import RayConfig
from judgetrace.teachable_config import TeachableConfig

Target = Literal["traces", "label", "label_first", "first_draw", "shuffled_traces"]


class DataConfig(TeachableConfig):
    """What the rater learns, and in which order."""

    target: Target = Field(
        default="traces",
        description="traces: the accepted trace, then its rating; label: the human label alone (target_label), also "
        "where another rating was accepted; label_first: the accepted rating, then its trace (with thinking.format = "
        "'tags' between its tags); first_draw: the first draw with its own rating, whether or not it matches (needs "
        "traces sampled with ledger.keep_rejected_text); shuffled_traces: the trace of another item with the same "
        "rating. All but traces are controls: they tell what the traces themselves are worth.",
    )
    weights: Literal["none", "inverse_acceptance"] = Field(
        default="none",
        description="inverse_acceptance: an example counts 1 / (share of units with its label that were accepted), "
        "at most `weight_cap` times the lowest weight; where its rating was accepted for several labels, their mean. "
        "Rejection lets few hard levels through; this gives them their "
        "share again.",
    )
    weight_cap: float = Field(default=5.0, ge=1, description="Highest weight over the lowest one.")
    balance: bool = Field(
        default=False, description="Take as many examples of every label in an epoch as there are of the rarest."
    )
    split: Literal["train", "validation", "test"] = Field(default="train", description="Train on this split.")
    max_tokens: int = Field(
        default=4096, ge=8, description="Prompt, trace and rating at most; a longer example is skipped with a reason."
    )
    lanes: int = Field(
        default=32,
        ge=1,
        description="Streams that an epoch is dealt into, whatever the number of workers, which share them; at least "
        "as many as workers. Another number is another order.",
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.weights != "none" and self.target == "first_draw":
            raise ValueError(
                "target = 'first_draw' takes every unit's draw, so no label is learned from less often than it is "
                "drawn: leave out `weights`"
            )
        if self.weights != "none" and self.balance:
            raise ValueError("balance gives rare labels their share already: leave out `weights`, or `balance`")
        if self.verified and self.target == "first_draw":
            raise ValueError(
                "target = 'first_draw' learns draws that nobody verifies; leave out `verified`, or learn traces"
            )
        return self

    def find_changes(self) -> dict[str, Any]:
        """Collect what is not the default of the settings that earlier versions did not have; null otherwise."""
        names = tuple(TeachableConfig.model_fields)
        default = DataConfig()
        return {
            name: None if getattr(self, name) == getattr(default, name) else self.model_dump(mode="json")[name]
            for name in names
        }


class TrainingConfig(BaseModel):
    """The recipe; the defaults are the paper's."""

    model_config = STRICT

    batch: int = Field(default=128, ge=1, description="Examples in an optimizer step, over all workers.")
    micro_batch: int = Field(
        default=4, ge=1, description="Examples in one pass of a worker; the rest of its share is accumulated."
    )
    learning_rate: float = Field(default=5e-5, gt=0, description="Of AdamW, after warm-up; it stays there.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps in which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.01, ge=0, description="Of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    max_epochs: float = Field(default=10.0, gt=0, description="The end where early stopping does not come before.")
    max_steps: int | None = Field(default=None, ge=1, description="The end in optimizer steps, where that is earlier.")
    ordinal_loss: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the squared error of the expected rating, in level positions, beside the cross-entropy "
        "(TRACT). 0 is off.",
    )
    activation_checkpointing: bool = Field(
        default=False, description="Compute activations again in the backward pass instead of keeping them."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of examples, of adapters and of validation.")


class LoraConfig(BaseModel):
    """A low-rank adapter (peft) instead of all weights."""

    model_config = STRICT

    r: int = Field(default=16, ge=1, description="Rank.")
    alpha: int = Field(default=32, ge=1, description="Scale: the adapter counts alpha / r.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the adapter.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear", description="Names of the layers that get one; all linear ones but the output by default."
    )


class ValidationConfig(BaseModel):
    """How the rater is held against people while it learns."""

    model_config = STRICT

    every_steps: int = Field(default=20, ge=1, description="Validate, and save a checkpoint, every so many steps.")
    max_items: int = Field(
        default=256, ge=0, description="Items of the validation split at most, by a hash of the seed; 0 is off."
    )
    max_new_tokens: int = Field(
        default=512,
        ge=1,
        description="Tokens that the rater may write for an item. Thinking that is longer is cut and has no rating, "
        "which counts against the score.",
    )
    batch: int = Field(default=16, ge=1, description="Items that a worker asks at once.")
    patience_steps: int = Field(
        default=100,
        ge=1,
        description="Stop when the score has not risen for so many steps, counted from the first one that is defined, "
        "and not before warm-up has ended; the best is kept. The score is (tau + 1) * coverage - 1, a mean over "
        "dimensions: Kendall's tau where every "
        "item has a rating, -1 where none has. Of nominal scales kappa in place of tau.",
    )
    rating: Literal["sampled", "expected"] = Field(
        default="expected",
        description="Which rating is scored: the one that the rater writes (greedily), or the expectation over the "
        "scale after what it wrote. Both are logged.",
    )

    def find_changes(self) -> dict[str, Any]:
        """Collect what scores depend on, where it is not the default; null otherwise, as before it was collected."""
        names, default = ("max_items", "max_new_tokens", "rating"), ValidationConfig()
        return {name: None if getattr(self, name) == getattr(default, name) else getattr(self, name) for name in names}


class WorkersConfig(BaseModel):
    """The training workers."""

    model_config = STRICT

    num_workers: int = Field(default=1, ge=1, description="Workers; with max_workers, the fewest to go on with.")
    max_workers: int | None = Field(
        default=None, ge=1, description="Elastic training: workers to grow to, as the cluster gives resources."
    )
    num_cpus: float = Field(
        default=1.0,
        ge=0,
        description="CPUs of a worker, as Ray counts them. Without GPUs a machine's workers share all of its CPUs.",
    )
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of a worker; without any it trains in fp32.")
    resources: dict[str, float] = Field(default_factory=dict, description="Other Ray resources of a worker.")
    max_failures: int = Field(default=10, ge=0, description="How often lost workers are replaced, in one run.")


class OutputConfig(BaseModel):
    """What is left in the end."""

    model_config = STRICT

    form: Literal["merged", "adapter"] = Field(
        default="merged", description="merged: a whole model; adapter: the LoRA adapter alone."
    )
    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="Of the weights written.")
    base_license: str | None = Field(
        default=None, description="Licence of the base for the model card, where its own card does not say."
    )


class TrainRaterConfig(BaseModel):
    """Fine-tune a rater on traces with Ray Train and DeepSpeed.

    Reads TRACES/traces (written by infer_traces) and the validation split of the corpus, writes RUN/rater: a Hugging
    Face model folder. Run the same command again after any end: it goes on from the newest checkpoint.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    traces: OneOrMore = Field(min_length=1, description="Run folders of infer_traces over this corpus.")
    run: str = Field(description="The run folder: checkpoints, metrics, the rater. All nodes must reach it.")
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    model: ModelConfig = Field(description="The base that is tuned.")
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How a unit becomes a prompt.")
    thinking: ThinkingConfig = Field(
        default_factory=ThinkingConfig, description="How the rater is to write thinking and rating: plain or tags."
    )
    data: DataConfig = Field(default_factory=DataConfig, description="What the rater learns.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="The recipe.")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="The adapter.")
    full_weights: bool = Field(default=False, description="Train all weights instead of an adapter.")
    validation: ValidationConfig = Field(default_factory=ValidationConfig, description="Watching it learn.")
    workers: WorkersConfig = Field(default_factory=WorkersConfig, description="The training workers.")
    deepspeed: str = Field(
        default="cluster/deepspeed/zero1.json", description="DeepSpeed's own config: a JSON file, local or by URL."
    )
    output: OutputConfig = Field(default_factory=OutputConfig, description="What is left in the end.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster; print the config, one example, and what training would take.",
    )

    @model_validator(mode="after")
    def _check(self) -> TrainRaterConfig:
        if self.model.adapter is not None:
            raise ValueError("model.adapter: train on top of a merged model; give its folder as model.path")
        if self.thinking.format == "parser":
            raise ValueError(
                "thinking.format = 'parser' reads an output, and training writes one: use 'tags' (<think>...</think>, "
                "or thinking.tags)"
            )
        if self.thinking.format == "none" and self.data.target != "label":
            raise ValueError(
                f"thinking.format = 'none' leaves nothing of data.target = '{self.data.target}' but the label: use "
                "data.target = 'label', or thinking.format = 'plain' or 'tags'"
            )
        if self.output.form == "adapter" and self.full_weights:
            raise ValueError("output.form = 'adapter' needs an adapter: set full_weights = false")
        self._check_lanes()
        return self

    def _check_lanes(self) -> None:
        lanes, batch, most = self.num_lanes, self.training.batch, self.most_workers
        if batch % lanes:
            raise ValueError(
                f"training.batch {batch} is no multiple of data.lanes {lanes}: choose lanes that divide it"
            )
        if most > lanes:
            raise ValueError(
                f"workers {most} are more than the {lanes} lanes that they share: raise data.lanes (and training.batch)"
            )
        if most < self.workers.num_workers:
            raise ValueError(f"workers.max_workers {most} is less than num_workers {self.workers.num_workers}")

    @property
    def num_lanes(self) -> int:
        """How many lanes an epoch is dealt into: never more than a batch has examples."""
        return min(self.data.lanes, self.training.batch)

    @property
    def most_workers(self) -> int:
        """How many workers there may be."""
        return self.workers.max_workers or self.workers.num_workers

    @property
    def adapter(self) -> LoraConfig | None:
        """The adapter to train; None for all weights."""
        return None if self.full_weights else self.lora

    @property
    def thinks(self) -> bool:
        """Whether the rater reasons before it rates."""
        return self.data.target not in ("label", "label_first") and self.thinking.format != "none"

    def contract(self, **texts: Any) -> dict[str, Any]:
        """Collect what the checkpoints of a run depend on."""
        sections: dict[str, BaseModel] = {
            "model": self.model,
            "prompt": self.prompt,
            "data": self.data,
            "training": self.training,
        }
        free = {("prompt", "template"), ("training", "max_epochs"), ("training", "max_steps")}
        free |= {("training", "micro_batch"), ("training", "activation_checkpointing")}
        contract: dict[str, Any] = {
            f"{section}.{key}": value
            for section, fields in sections.items()
            for key, value in fields.model_dump(mode="json").items()
            if (section, key) not in free
        }
        contract |= {f"data.{name}": value for name, value in self.data.find_changes().items()}
        contract |= {f"validation.{name}": value for name, value in self.validation.find_changes().items()}
        contract |= {"thinking.format": self.thinking.format, "traces": list(self.traces)}
        contract["thinking.tags"] = None if self.thinking.tags is None else list(self.thinking.tags)
        contract["lora"] = None if self.adapter is None else self.adapter.model_dump(mode="json")
        return contract | texts
