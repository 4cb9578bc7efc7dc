"""What judgetrace asks of an engine that runs a model. Knows no engine in particular.

An engine tokenizes prompts and completes them. Everything else (parsing, acceptance, the order of draws, the ledger)
lies outside, so that another engine changes this one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """The model that samples."""

    # pydantic reserves the prefix "model_" for itself; a section of that name needs no protection.
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    path: str = Field(description="A local folder, or a name that the engine resolves.")
    revision: str | None = Field(default=None, description="Revision of a name.")


class EngineConfig(BaseModel):
    """The pool of engines."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(
        default="judgetrace.vllm_engine:VllmEngine", description="The engine's class, as module:name.", min_length=3
    )
    min_replicas: int = Field(default=1, ge=1, description="Engines to start with.")
    max_replicas: int = Field(default=1, ge=1, description="Engines to grow to, as the cluster gives resources.")
    num_cpus: float = Field(default=1.0, ge=0, description="CPUs of one engine, as Ray counts them.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of one engine.")
    resources: dict[str, float] = Field(default_factory=dict, description="Other Ray resources of one engine.")
    slots: int = Field(default=64, ge=1, description="Draws in flight in one engine (vLLM's max_num_seqs).")
    shards_at_once: int | None = Field(
        default=None, ge=1, description="Shards that feed one engine at once; by default enough to fill its slots."
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that hold one layer's parts.")
    pipeline_parallel_size: int = Field(default=1, ge=1, description="GPUs, or nodes, that hold the layers' stages.")
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="Further vLLM engine arguments, passed through; on the command line as a JSON object.",
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment of the engine's process.")
    max_deaths: int = Field(
        default=30, ge=0, description="How often a shard is taken up again after its engine died, in one run."
    )


class EngineDeadError(RuntimeError):
    """The engine can't answer any more; its process must be replaced. No unit is to blame."""


class EngineStartError(RuntimeError):
    """The engine can't start with this model and these arguments: trying again would not help."""


class PromptRefusedError(ValueError):
    """The engine can't take this prompt, now or ever: the unit is quarantined."""


@dataclass(frozen=True)
class Request:
    """One completion to sample."""

    request_id: str
    prompt_ids: Sequence[int]
    seed: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    """The output is exactly one of these."""
    on_tokens: Callable[[int], None] | None = None
    """Told the tokens so far while they come; only for requests that may be cancelled, since it costs time."""


@dataclass(frozen=True)
class Completion:
    """A finished completion. `text` holds the stop string where one ended it."""

    text: str
    finish_reason: Literal["stop", "length"]
    output_tokens: int
    reasoning: str | None = None
    content: str | None = None
    """Thinking and answer apart, where a reasoning parser split them."""


class Engine(Protocol):
    """Runs one model. `generate` may be called many times at once, on one event loop; cancelling it frees the slot."""

    max_model_tokens: int
    """Prompt and output together."""
    special_tokens: Sequence[str]
    """Texts that the tokenizer would turn into control tokens."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokenize chat messages with the model's template, up to where its answer begins."""

    def encode_text(self, text: str) -> list[int]:
        """Tokenize bare text, to be appended to a prompt."""

    async def generate(self, request: Request) -> Completion:
        """Sample a completion. Raises EngineDeadError, PromptRefusedError."""

    def close(self) -> None:
        """End the engine and its processes."""


def load_engine(kind: str, **arguments: Any) -> Engine:
    """Make an engine from the class named as module:name. Raises EngineStartError with the engine's own reason."""
    from importlib import import_module

    module, _, name = kind.partition(":")
    try:
        engine: Engine = getattr(import_module(module), name)(**arguments)
    except Exception as error:
        raise EngineStartError(f"{type(error).__name__}: {error}") from error
    return engine
