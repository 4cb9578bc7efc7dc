"""What an engine and training must do alike with a tokenizer: chat templates, special tokens, levels as tokens.

Knows no model; a tokenizer is one of transformers' kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from judgetrace.level_tree import LevelTree, find_within_tag
from judgetrace.parsing import RATING_CLOSE, RATING_OPEN

_LOOKS_LIKE_CONTROL = re.compile(r"^(<.+>|\[[A-Z_/ ]+\])$")


def list_special_tokens(tokenizer: Any) -> list[str]:
    """List what must not come from an item: special tokens, and added ones that look like control tokens.

    Other added tokens are plain text, such as runs of blanks.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {str(t) for t in added if getattr(t, "special", False) or _LOOKS_LIKE_CONTROL.match(str(t))}
    return sorted((t for t in {*tokenizer.all_special_tokens, *marks} if t.strip()), key=len, reverse=True)


def list_hidden_ids(tokenizer: Any) -> set[int]:
    """List the tokens that decoding leaves out where special tokens are skipped."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def list_mark_ids(tokenizer: Any, marks: Sequence[str]) -> set[int]:
    """List the tokens that are one of some marks as a whole."""
    found = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in marks]
    # Some tokenizers answer with the unknown token, others with none.
    return {number for mark, number in found if number is not None and tokenizer.convert_ids_to_tokens(number) == mark}


def render_chats(
    tokenizer: Any, conversations: Sequence[Sequence[Mapping[str, str]]], chat_template_args: Mapping[str, object]
) -> list[str]:
    """Render conversations with a tokenizer's chat template, up to where the answer begins."""
    return [
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **chat_template_args)
        for messages in conversations
    ]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize bare texts, without special tokens around them, in one call, which uses all cores."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def grow_level_tree(encode: Callable[[str], list[int]], levels: Sequence[str]) -> LevelTree:
    """Grow the tree of levels as they stand in a rating tag."""

    def within(text: str) -> list[int]:
        return find_within_tag(encode(RATING_OPEN), encode(RATING_OPEN + text), encode(text))

    return LevelTree.grow([(within(level), within(level + RATING_CLOSE)) for level in levels])
