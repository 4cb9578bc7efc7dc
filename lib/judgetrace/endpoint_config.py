"""The config of an engine that is a server: where it is, what it understands, what it costs.

Pure but for one variable of the environment that may say where the server is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from judgetrace.config import STRICT

_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
_PLAIN_URL = r"^https?://[^/?#@\s]+(/[^?#@\s]*)?$"
OPENAI_URL = "https://api.openai.com/v1"
URL_VARIABLE = "OPENAI_BASE_URL"
HIDDEN = "a text that is not shown: it may be a key"


def _hide_unless(pattern: str) -> BeforeValidator:
    """Hide a text that does not fit before the error says what was found: people paste keys into the wrong field."""
    return BeforeValidator(lambda text: HIDDEN if isinstance(text, str) and not re.match(pattern, text) else text)


VariableName = Annotated[str, _hide_unless(_NAME), Field(pattern=_NAME)]
PlainUrl = Annotated[str, _hide_unless(_PLAIN_URL), Field(pattern=_PLAIN_URL)]


class EndpointConfig(BaseModel):
    """An OpenAI-compatible server. `model.path` is the model's name there."""

    model_config = STRICT

    base_url: PlainUrl | None = Field(
        default=None,
        description="Where the server is, e.g. http://host:8000/v1, without user and query; nothing: OPENAI_BASE_URL, "
        "or OpenAI.",
    )
    api_key_env: VariableName | None = Field(
        default=None,
        description="Name of the environment variable that holds the key, never the key. By default OPENAI_API_KEY "
        "without a base_url, and no key with one, so that no other server is told OpenAI's key.",
    )
    dialect: Literal["openai", "vllm"] = Field(
        default="openai",
        description="vllm: the server is vLLM's own, which can also continue an answer, constrain it, score levels "
        "exactly and knows top_k.",
    )
    timeout_s: float = Field(default=600.0, gt=0, description="Time for one answer; a request is tried again then.")
    max_tries: int = Field(default=8, ge=1, description="Tries of a request that fails for a passing reason.")
    longest_wait_s: float = Field(
        default=600.0, ge=0, description="A server that asks to wait longer is not waited for: the request fails."
    )
    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] | None = Field(
        default=None, description="What the server calls the limit of output tokens; nothing: found out at the start."
    )
    omit: tuple[Literal["temperature", "top_p", "seed"], ...] = Field(
        default=(), description="Parameters that the server does not take, as some reasoning models' do not."
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description='Further fields of every chat request, such as { reasoning_effort = "low" }; never a key.',
    )
    special_tokens: tuple[str, ...] = Field(
        default=(),
        description="Texts in items that the server's tokenizer would turn into control tokens, such as <|im_end|>; "
        "neutralised as with a local engine, which knows them itself.",
    )
    input_price: float = Field(default=0.0, ge=0, description="Price of a million prompt tokens.")
    output_price: float = Field(default=0.0, ge=0, description="Price of a million output tokens, reasoning included.")

    @property
    def key_variable(self) -> str | None:
        """Name the environment variable of the key; None for a server that is told none."""
        return self.api_key_env or ("OPENAI_API_KEY" if self.base_url is None else None)

    def address(self) -> str | None:
        """Find where the server is: base_url, else OPENAI_BASE_URL; None for OpenAI. Ends with no slash.

        Raises ValueError, which does not repeat it, for an OPENAI_BASE_URL with user or query, or that is none.
        """
        url = self.base_url or os.environ.get(URL_VARIABLE, "").strip() or None
        if url is not None and not re.match(_PLAIN_URL, url):
            raise ValueError(f"{URL_VARIABLE} is {HIDDEN}; expected a URL without user and query, as endpoint.base_url")
        return None if url is None else url.rstrip("/")

    def resolve(self) -> EndpointConfig:
        """Return it with the address that it has here and now, whatever another process's environment says."""
        return self.model_copy(update={"base_url": self.address() or OPENAI_URL, "api_key_env": self.key_variable})

    def cost(self, prompt_tokens: int, output_tokens: int) -> float:
        """Compute what tokens cost."""
        return (prompt_tokens * self.input_price + output_tokens * self.output_price) / 1e6

    def find_conflict(
        self,
        engine_env: Mapping[str, str],
        *,
        engine_args: Mapping[str, Any],
        template_args: Mapping[str, object],
        constrained: bool,
        top_k: int,
    ) -> str | None:
        """Find what a run wants and this endpoint can't do; None where there is nothing.

        engine_env     engine.env of the run
        engine_args    engine.args of the run
        template_args  prompt.chat_template_args
        constrained    whether thinking.constrained_rating is other than never
        top_k          sampling.top_k
        """
        return (
            self._find_misplaced(engine_env)
            or (ARGS_CONFLICT if engine_args else None)
            or (None if self.dialect == "vllm" else _find_beyond_openai(template_args, constrained, top_k))
        )

    def _find_misplaced(self, engine_env: Mapping[str, str]) -> str | None:
        """Find what of key and address is in the wrong place, or no address."""
        if self.key_variable in engine_env:
            return f"engine.env.{self.key_variable} would be written to manifests: set it in the workers' environment"
        if self.base_url is None and URL_VARIABLE in engine_env:
            return f"engine.env.{URL_VARIABLE}: the driver would not see it; set endpoint.base_url"
        try:
            self.address()
        except ValueError as error:
            return str(error)
        return None


def _find_beyond_openai(template_args: Mapping[str, object], constrained: bool, top_k: int) -> str | None:
    if template_args:
        return "prompt.chat_template_args need endpoint.dialect = 'vllm'"
    if constrained:
        return CONSTRAINED_CONFLICT
    return TOP_K_CONFLICT if top_k else None


ARGS_CONFLICT = "engine.args are arguments of a local engine; a server's are endpoint.extra_body"
CONSTRAINED_CONFLICT = (
    "endpoint.dialect = 'openai' can neither continue an answer nor constrain it: set "
    "thinking.constrained_rating = 'never' (for decoding.rating = 'expected' thinking.format = 'none', too), or "
    "dialect = 'vllm' where the server is vLLM's"
)
TOP_K_CONFLICT = (
    "endpoint.dialect = 'openai' knows no top_k: set top_k = 0, or dialect = 'vllm' where the server is vLLM's"
)
