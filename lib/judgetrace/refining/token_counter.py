"""Count tokens where prompts are planned: with the generator's tokenizer, or by length where only a server has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.config import UserError
from judgetrace.model_context import read_context
from judgetrace.model_store import fetch_folder
from judgetrace.refining.candidate_config import GeneratorConfig
from judgetrace.tokenization import encode_texts, list_special_tokens, render_chats

UNKNOWN_CONTEXT = 16_384
BYTES_PER_TOKEN = 3
"""English has about four; fewer, so that an estimate is rather too high."""
TOKENS_PER_MESSAGE = 8
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class TokenCounter:
    """How long texts are for a model, in tokens."""

    context: int
    """Prompt and output together."""
    special_tokens: tuple[str, ...]
    count: Callable[[str], int]
    count_chat: Callable[[Messages], int]


def load_counter(generator: GeneratorConfig) -> TokenCounter:
    """Make the counter of a generator; fetches no weights. Raises UserError for a model without a usable tokenizer."""
    if generator.endpoint is not None or generator.engine.kind is not None:
        known = generator.engine.args.get("max_model_len")
        special = generator.endpoint.special_tokens if generator.endpoint else ()
        return make_estimator(int(generator.context or known or UNKNOWN_CONTEXT), special)
    from transformers import AutoTokenizer

    path, revision = str(fetch_folder(generator.model.path, weights=False)), generator.model.revision
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    if not tokenizer.chat_template:
        raise UserError(
            f"generator.model.path = {generator.model.path}: its tokenizer has no chat template\nexpected: an "
            "instruction-tuned model"
        )
    context = generator.context or generator.engine.args.get("max_model_len")
    if context is None:
        context = read_context(generator.model) or UNKNOWN_CONTEXT
    return make_counter(tokenizer, int(context), generator.chat_template_args)


def make_counter(tokenizer: Any, context: int, chat_template_args: Mapping[str, object]) -> TokenCounter:
    """Make a counter of a tokenizer of transformers' kind."""

    def count(text: str) -> int:
        return len(encode_texts(tokenizer, [text])[0])

    def count_chat(messages: Messages) -> int:
        return count(render_chats(tokenizer, [messages], chat_template_args)[0])

    return TokenCounter(context, tuple(list_special_tokens(tokenizer)), count, count_chat)


def make_estimator(context: int, special_tokens: Sequence[str] = ()) -> TokenCounter:
    """Make a counter that goes by the length of texts."""

    def count(text: str) -> int:
        return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)

    def count_chat(messages: Messages) -> int:
        return sum(count(message["content"]) + TOKENS_PER_MESSAGE for message in messages)

    return TokenCounter(context, tuple(special_tokens), count, count_chat)
