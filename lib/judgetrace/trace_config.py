"""The config of `infer_traces`, and what of it the rows of a run depend on. Imports neither Ray nor vLLM."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.config import STRICT, UserError
from judgetrace.draws import CONSTRAINED_RATING_TOKENS
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.sampling import SamplingConfig
from judgetrace.session import RayConfig

RESUMABLE_ENGINE_ARGS = frozenset(
    {"gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "swap_space", "enable_prefix_caching"}
)
"""vLLM arguments that may change between the runs of one run folder: they alter speed, not what is sampled."""


class LedgerConfig(BaseModel):
    """How decisions are kept."""

    model_config = STRICT

    commit_every_s: float = Field(default=20.0, gt=0, description="Decided units are committed at most so late.")
    keep_rejected_text: bool = Field(default=False, description="Keep the text of rejected draws too.")
    drain_s: float = Field(
        default=20.0, ge=0, description="Time for draws in flight to end when the job is told to stop."
    )


class LimitsConfig(BaseModel):
    """When the job ends early. It can always be continued by the same command."""

    model_config = STRICT

    max_failed_rate: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Stop when more than this share of at least 50 units failed or were quarantined.",
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="Budget of output tokens for this call.")
    max_seconds: float | None = Field(default=None, gt=0, description="Budget of time for this call.")


class InferTracesConfig(BaseModel):
    """Infer thinking traces for a corpus: sample reasoning and a rating, keep the trace whose rating matches the label.

    Reads CORPUS/items (written by prepare_corpus), writes RUN/traces: a row a unit. Run the same command again after
    any end: it goes on where it stopped.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    run: str = Field(description="The run folder; may be on another filesystem.")
    guideline: str | None = Field(default=None, description="A guideline to use instead of the corpus's own: a file.")
    model: ModelConfig = Field(description="The generator.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The pool of engines.")
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How a unit becomes a prompt.")
    thinking: ThinkingConfig = Field(default_factory=ThinkingConfig, description="How thinking and rating are written.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How draws are sampled.")
    acceptance: AcceptanceConfig = Field(default_factory=AcceptanceConfig, description="Which ratings match.")
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="How decisions are kept.")
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="When the job ends early.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")
    limit: int | None = Field(default=None, ge=1, description="A pilot: only the first so many units.")
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Validate without a cluster, print the resolved config and one rendered prompt.",
    )

    @model_validator(mode="after")
    def _check(self) -> InferTracesConfig:
        if (self.thinking.format == "parser") != (self.thinking.parser is not None):
            raise ValueError("thinking.format = 'parser' and thinking.parser = NAME go together")
        if self.engine.min_replicas > self.engine.max_replicas:
            raise ValueError(
                f"engine.min_replicas {self.engine.min_replicas} is more than max_replicas {self.engine.max_replicas}"
            )
        if self.thinking.constrained_rating != "never" and self.sampling.max_tokens <= CONSTRAINED_RATING_TOKENS:
            raise ValueError(
                f"sampling.max_tokens {self.sampling.max_tokens} leaves no room for thinking beside the "
                f"{CONSTRAINED_RATING_TOKENS} tokens of a constrained rating"
            )
        if self.sampling.keep > self.sampling.max_draws:
            raise ValueError(f"sampling.keep {self.sampling.keep} is more than max_draws {self.sampling.max_draws}")
        num_gpus = self.engine.tensor_parallel_size * self.engine.pipeline_parallel_size
        if (
            num_gpus > 1
            and 0 < self.engine.num_gpus < num_gpus
            and "distributed_executor_backend" not in self.engine.args
        ):
            raise ValueError(
                f"engine.num_gpus {self.engine.num_gpus:g} is less than tensor_parallel_size * pipeline_parallel_size "
                f"= {num_gpus}"
            )
        limit = self.engine.args.get("max_model_len")
        if limit is not None and self.sampling.max_tokens >= int(limit):
            raise ValueError(
                f"sampling.max_tokens {self.sampling.max_tokens} leaves no room for a prompt in "
                f"engine.args.max_model_len {limit}"
            )
        return self


def make_contract(
    config: InferTracesConfig, corpus_id: str, guideline: str, template: str, model_fingerprint: str
) -> dict[str, Any]:
    """Collect what the rows of a run depend on: rows of different contracts must not mix."""
    sampled = config.model_dump(include={"sampling", "thinking", "acceptance", "prompt"}, mode="json")
    contract = {
        f"{section}.{key}": value
        for section, fields in sampled.items()
        for key, value in fields.items()
        if (section, key) not in {("sampling", "mode"), ("prompt", "template")}
    }
    arguments = {k: v for k, v in config.engine.args.items() if k not in RESUMABLE_ENGINE_ARGS}
    return contract | {
        "corpus": corpus_id,
        "model.path": config.model.path,
        "model.revision": config.model.revision,
        "model.fingerprint": model_fingerprint,
        "engine.kind": config.engine.kind,
        "engine.args": arguments,
        "guideline": hash_text(guideline),
        "prompt.template": hash_text(template),
    }


def hash_text(text: str) -> str:
    """Fingerprint a text."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def fingerprint_model(model: ModelConfig) -> str:
    """Fingerprint a local model folder by its config, tokenizer and samples of its weights; a name by its revision.

    Raises UserError for a local path that holds no model.
    """
    folder = Path(model.path)
    if not folder.is_dir():
        if model.path.startswith((".", "/")) or model.path.count("/") != 1:
            raise UserError(
                f"model.path = {model.path}: no such folder\nexpected: a Hugging Face model folder (config.json, "
                "tokenizer, weights), or a name such as 'organisation/model'"
            )
        return f"name:{model.path}@{model.revision}"
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path = {model.path}: no config.json in it; expected a Hugging Face model folder")
    digest = hashlib.blake2b(digest_size=12)
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".jinja"}:
            digest.update(file.name.encode() + file.read_bytes())
        elif file.is_file():
            _update_with_sample(digest, file)
    return digest.hexdigest()


def _update_with_sample(digest: Any, file: Path) -> None:
    """Hash a large file by name, size and 64 pieces of it: weights that were tuned further have the same size."""
    size = file.stat().st_size
    digest.update(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for start in range(0, size, max(1, size // 64)):
            stream.seek(start)
            digest.update(stream.read(1 << 14))
