"""What judgetrace asks of an engine that runs a model. Knows no engine in particular.

An engine makes prompts of messages, completes them, and tells how probable the levels of a scale are. Everything else
(parsing, acceptance, the order of draws, the ledger) lies outside, so that another engine changes this one thing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from judgetrace.endpoint_config import EndpointConfig

VLLM_ENGINE = "judgetrace.vllm_engine:VllmEngine"
ENDPOINT_ENGINE = "judgetrace.endpoint_engine:EndpointEngine"


class ModelConfig(BaseModel):
    """The model that samples."""

    # pydantic reserves the prefix "model_" for itself; a section of that name needs no protection.
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    path: str = Field(
        description="A local folder; a folder by URL (s3:// or any fsspec URL), which every node that loads it fetches "
        "once into $JUDGETRACE_CACHE (one engine over several nodes needs that on a disk they share); or a name that "
        "the engine resolves."
    )
    revision: str | None = Field(default=None, description="Revision of a name.")
    adapter: str | None = Field(
        default=None, description="A LoRA adapter on top of it: a folder, local or by URL, as peft writes."
    )


class EngineConfig(BaseModel):
    """The pool of engines."""

    model_config = ConfigDict(extra="forbid")

    kind: str | None = Field(
        default=None, description="The engine's class, as module:name; vLLM, or the client of [endpoint], by default."
    )
    min_replicas: int = Field(default=1, ge=1, description="Engines to start with.")
    max_replicas: int = Field(default=1, ge=1, description="Engines to grow to, as the cluster gives resources.")
    num_cpus: float = Field(
        default=1.0,
        ge=0,
        description="CPUs of one engine, as Ray counts them. One without a GPU computes with all CPUs of its machine, "
        "shared with the engines that may run beside it; env.OMP_NUM_THREADS sets it otherwise, or where the model is "
        "split env.VLLM_CPU_OMP_THREADS_BIND.",
    )
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
    silent_s: float = Field(
        default=30.0,
        ge=5,
        description="Seconds without any sign of life (a token of any request, the end of one) after which an engine "
        "with requests waiting is replaced; 120 at least until its first one. Must exceed the longest prefill of one "
        "engine step. An endpoint has timeouts of its own. So long the worker's own event loop may stand still, too.",
    )
    start_s: float = Field(
        default=1800.0,
        ge=5,
        description="Seconds that an engine may take to start, its model's download included; the process of one that "
        "takes longer is ended, and Ray starts it anew. Time in which it waits for a CPU does not count.",
    )
    spot_notice: Literal["aws", "gcp"] | None = Field(
        default=None,
        description="The cloud whose instance metadata each engine's node asks, every 5 s, whether it is about to be "
        "taken away. Ray's own draining of a node is heeded in any case.",
    )
    max_deaths: int = Field(
        default=30, ge=0, description="How often a shard is taken up again after its engine died, in one run."
    )


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine is made from; can be pickled."""

    model: ModelConfig
    engine: EngineConfig
    reasoning_parser: str | None = None
    chat_template_args: Mapping[str, object] = field(default_factory=dict)
    endpoint: EndpointConfig | None = None
    """Where the engine is a server."""
    marks: Sequence[str] = ()
    """Tags that must stand in outputs, special tokens or not."""
    beside: int = 0
    """Engines that run at the same time and are not of this pool."""


class EngineDeadError(RuntimeError):
    """The engine can't answer any more; its process must be replaced.

    Unless it was ended `from_outside`, one of the units in flight may be to blame.
    """

    def __init__(self, message: str, from_outside: bool = False):
        super().__init__(message)
        self.from_outside = from_outside


class AccessRefusedError(EngineDeadError):
    """The engine's server refuses a request as forbidden or unknown: it may mean all requests, or this one's text."""

    def __init__(self, message: str):
        super().__init__(message, from_outside=True)


class EngineStartError(RuntimeError):
    """The engine can't start with this model and these arguments: trying again would not help."""


class RequestFailedError(RuntimeError):
    """The engine has tried as often as it should, or can't do this at all: the draw fails, the next run retries it."""


class PromptRefusedError(ValueError):
    """The engine can't take this prompt, now or ever: the unit is quarantined."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as its engine holds it: tokens where it tokenizes itself, else messages and how the answer begins."""

    num_tokens: int
    token_ids: Sequence[int] = ()
    messages: Sequence[Mapping[str, str]] = ()
    begun: str = ""
    is_estimated: bool = False
    """Whether only a server can count the tokens: then it, and no estimate, says what is too long."""


@dataclass(frozen=True)
class Request:
    """One completion to sample."""

    request_id: str
    prompt: Prompt
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
    """Thinking and answer apart, where a reasoning parser or a server split them."""
    prompt_tokens: int | None = None
    """As a server counted them; null where the prompt's own count is right."""
    error: str | None = None
    """Why this is no answer: the model refused one, or a filter stopped it. Another sample may be one."""


@dataclass(frozen=True)
class LevelScores:
    """How probable each level is as the next text of an answer."""

    log_probabilities: tuple[float, ...]
    """Natural logarithms, in the order of the levels asked for, of the model's own distribution (temperature 1, nothing
    cut off), not normalised over the levels; -inf where the engine can't see so improbable a level."""
    prompt_tokens: int | None
    """As a server counted them; null where the prompt's own count is right."""
    output_tokens: int
    error: str | None = None
    """Why no level was seen; null where one was."""


class Engine(Protocol):
    """Runs one model. `generate` may be called many times at once, on one event loop; cancelling it frees the slot.

    `make_prompts` and `continue_prompt` may be called from other threads.
    """

    max_model_tokens: int | None
    """Prompt and output together; null where only a server knows."""
    special_tokens: Sequence[str]
    """Texts that the tokenizer would turn into control tokens."""

    @property
    def num_beats(self) -> int | None:
        """Signs of life so far; grows with every token of any request.

        Null where none is seen before an answer, and requests have timeouts of their own.
        """

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        """Make prompts of chat messages, with the model's template, up to where its answer begins."""

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        """Let the answer begin with (or go on with) `text`."""

    async def generate(self, request: Request) -> Completion:
        """Sample a completion. Raises EngineDeadError, PromptRefusedError, RequestFailedError."""

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        """Score whole levels as what follows a prompt that ends with an opened rating tag ("1" is not "10").

        Raises EngineDeadError, PromptRefusedError.
        """

    def close(self) -> None:
        """End the engine and its processes."""


def apply_environment(settings: Mapping[str, str]) -> None:
    """Set environment variables of this process; an empty value removes one."""
    for name, value in settings.items():
        if value == "":
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def load_engine(spec: EngineSpec) -> Engine:
    """Make an engine of the class that `spec` names. Raises EngineStartError with the engine's own reason."""
    from importlib import import_module

    default = VLLM_ENGINE if spec.endpoint is None else ENDPOINT_ENGINE
    module, _, name = (spec.engine.kind or default).partition(":")
    try:
        engine: Engine = getattr(import_module(module), name)(spec)
    except Exception as error:
        raise EngineStartError(f"{type(error).__name__}: {error}") from error
    return engine
