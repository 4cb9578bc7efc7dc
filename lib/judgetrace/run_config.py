"""What the configs of all jobs that ask units share, and what of a config the rows of a run depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from judgetrace.draws import CONSTRAINED_RATING_TOKENS
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import ENDPOINT_ENGINE, EngineConfig, ModelConfig
from judgetrace.fingerprints import hash_text
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.sampling import SamplingConfig

RESUMABLE_ENGINE_ARGS = frozenset(
    {"gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "swap_space", "enable_prefix_caching"}
)
"""vLLM arguments that may change between the runs of one run folder: they alter speed, not what is sampled."""
_LOOKS_SECRET = re.compile(r"(^|_)(api_?key|access_key|token|secret|password)$", re.IGNORECASE)


def check_asking(
    engine: EngineConfig,
    thinking: ThinkingConfig,
    endpoint: EndpointConfig | None,
    sampling: SamplingConfig,
    *,
    prompt: PromptConfig,
    scores_levels: bool = False,
    section: str = "sampling",
) -> None:
    """Raise ValueError for sections that contradict each other.

    `section` is what `sampling` is called in the config.
    """
    # An endpoint may split off the thinking by itself.
    splits = thinking.parser is not None or (endpoint is not None and thinking.format == "parser")
    if (thinking.format == "parser") != splits:
        raise ValueError("thinking.format = 'parser' and thinking.parser = NAME go together")
    secrets = sorted(name for name in (*engine.env, *engine.args) if _LOOKS_SECRET.search(name))
    if secrets:
        raise ValueError(
            f"engine.env and engine.args are written to manifests, and {secrets} look like secrets: set them in the "
            "environment of the workers"
        )
    if engine.min_replicas > engine.max_replicas:
        raise ValueError(f"engine.min_replicas {engine.min_replicas} is more than max_replicas {engine.max_replicas}")
    max_tokens, tokens_key = sampling.max_tokens, f"{section}.max_tokens"
    # Scored levels alone take no sampled tokens.
    only_scores = scores_levels and thinking.format == "none"
    rates_apart = scores_levels or thinking.constrained_rating != "never"
    if rates_apart and not only_scores and max_tokens <= CONSTRAINED_RATING_TOKENS:
        raise ValueError(
            f"{tokens_key} {max_tokens} leaves no room for thinking beside the {CONSTRAINED_RATING_TOKENS} tokens of a "
            "constrained rating"
        )
    num_gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if num_gpus > 1 and 0 < engine.num_gpus < num_gpus and "distributed_executor_backend" not in engine.args:
        raise ValueError(
            f"engine.num_gpus {engine.num_gpus:g} is less than tensor_parallel_size * pipeline_parallel_size "
            f"= {num_gpus}"
        )
    limit = engine.args.get("max_model_len")
    if limit is not None and max_tokens >= int(limit):
        raise ValueError(f"{tokens_key} {max_tokens} leaves no room for a prompt in engine.args.max_model_len {limit}")
    if endpoint is not None:
        if prompt.on_overlong == "shorten":
            raise ValueError(
                "prompt.on_overlong = 'shorten' needs an engine that counts tokens, and an endpoint's are estimated: "
                "use 'quarantine', which leaves to the server what is too long"
            )
        continues = thinking.constrained_rating != "never" or (scores_levels and thinking.format != "none")
        conflict = endpoint.find_conflict(
            engine.env,
            # An engine of the user's own may have arguments besides.
            engine_args=engine.args if engine.kind in (None, ENDPOINT_ENGINE) else {},
            template_args=prompt.chat_template_args,
            constrained=continues,
            top_k=sampling.top_k,
        )
        if conflict is not None:
            raise ValueError(conflict)


def check_cost_limit(limits: LimitsConfig, *endpoints: EndpointConfig | None) -> None:
    """Raise ValueError for a limit of money where none of the endpoints has a price."""
    priced = any(endpoint and (endpoint.input_price or endpoint.output_price) for endpoint in endpoints)
    if limits.max_cost is not None and not priced:
        raise ValueError(
            "limits.max_cost needs endpoint.input_price or endpoint.output_price: without them it never ends"
        )


def make_contract(
    sections: Mapping[str, BaseModel],
    model: ModelConfig,
    engine: EngineConfig,
    endpoint: EndpointConfig | None,
    prompt: PromptConfig,
    **texts: str,
) -> dict[str, Any]:
    """Collect what the rows of a run depend on: rows of different contracts must not mix.

    All fields of `sections` count. `texts` are fingerprints, and long texts, which are fingerprinted here.
    """
    contract = {
        f"{section}.{key}": value
        for section, fields in sections.items()
        for key, value in fields.model_dump(mode="json").items()
        if (section, key) != ("sampling", "mode")
    }
    contract |= {f"prompt.{k}": v for k, v in prompt.model_dump(mode="json").items() if k != "template"}
    contract |= {f"model.{key}": value for key, value in model.model_dump(mode="json").items()}
    contract["engine.kind"] = engine.kind
    contract["engine.args"] = {k: v for k, v in engine.args.items() if k not in RESUMABLE_ENGINE_ARGS}
    if endpoint is not None:
        asked = endpoint.model_dump(mode="json", include={"dialect", "omit", "extra_body"})
        contract |= {f"endpoint.{key}": value for key, value in asked.items()}
        # Null rather than none of them, as of runs that began before there were any.
        contract["endpoint.special_tokens"] = list(endpoint.special_tokens) or None
        # A variable may name the server: what counts is where it is.
        contract["endpoint.base_url"] = endpoint.address()
    hashed = {"guideline", "prompt.template"}
    return contract | {key: hash_text(text) if key in hashed else text for key, text in texts.items()}
