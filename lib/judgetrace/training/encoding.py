"""Turn examples into tokens: the rater's own prompt, with the tokenizer's chat template, and the answer it is to write.

The tokens are those that a rating engine makes of the same texts: prompt, what stands before the rating, and the rating
are tokenized apart, as they are when the engine goes on from an opened rating tag.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.guideline import parse_guideline
from judgetrace.level_tree import LevelTree, find_within_tag
from judgetrace.model_store import fetch_folder
from judgetrace.parsing import RATING_CLOSE, RATING_OPEN, THINK_TAGS, Tags
from judgetrace.prompts import PromptConfig, PromptRenderer, neutralise, shorten_fields
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.tokenization import (
    encode_texts,
    grow_level_tree,
    list_hidden_ids,
    list_mark_ids,
    list_special_tokens,
    render_chats,
)
from judgetrace.training.examples import AnswerText, write_answer

_PROBE = "judgetrace"
NOT_RENDERED = "not_rendered"
"""Why a unit has no prompt: the template needs what its item does not have."""


@dataclass(frozen=True)
class EncodingSpec:
    """All that the tokens of an example depend on besides the example; can be pickled."""

    model: ModelConfig
    prompt: PromptConfig
    template: str
    guideline: str
    by_section: bool
    scale: ScaleConfig
    form: str
    """thinking.format"""
    thinks: bool
    """Whether the prompt asks for thinking."""
    rating_first: bool
    max_tokens: int
    tags: Tags = THINK_TAGS
    """thinking.tags"""


@dataclass(frozen=True)
class Encoded:
    """An example as tokens, or `reason`, why it has none."""

    tokens: npt.NDArray[np.int32]
    num_prompt: int = 0
    """Tokens of the prompt, which are not learned."""
    rating_at: int = 0
    """Position of the rating's first token."""
    reason: str | None = None


class ExampleEncoder:
    """Encodes examples with one tokenizer."""

    def __init__(self, spec: EncodingSpec, tokenizer: Any):
        self._spec, self._tokenizer = spec, tokenizer
        self._special = list_special_tokens(tokenizer)
        self._renderer = PromptRenderer(
            spec.template, spec.prompt.system, self._special, thinks=spec.thinks, severity=spec.prompt.severity
        )
        self._guideline = parse_guideline(spec.guideline, spec.by_section)
        self._hidden = list_hidden_ids(tokenizer) - list_mark_ids(tokenizer, spec.tags)
        self._turn_end = find_turn_end(tokenizer, spec.prompt.chat_template_args)

    def encode_prompts(
        self, rows: Sequence[Mapping[str, Any]], rooms: Sequence[int]
    ) -> list[tuple[str, list[int]] | None]:
        """Encode the prompts of units (rows with dimension and fields), with their texts.

        With prompt.on_overlong = "shorten", an item whose prompt has more tokens than its room is shortened, as by a
        rating engine. None where there is no prompt, as `has_prompt` tells.
        """
        fitted = (self._fit(*parts) for parts in zip(rows, self._encode_whole(rows), rooms, strict=True))
        return [None if isinstance(prompt, str) else prompt for prompt in fitted]

    def has_prompt(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a unit has a prompt: its guideline has a section, and its item what the template needs."""
        return not isinstance(self._try_to_render(row), str)

    def _encode_whole(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[int]] | str]:
        """Encode the prompts of units whatever their length; the reason of a unit that has none."""
        messages = [self._try_to_render(row) for row in rows]
        known = [some for some in messages if not isinstance(some, str)]
        texts = render_chats(self._tokenizer, known, self._spec.prompt.chat_template_args)
        encoded = iter(zip(texts, encode_texts(self._tokenizer, texts), strict=True))
        return [some if isinstance(some, str) else next(encoded) for some in messages]

    def _fit(
        self, row: Mapping[str, Any], prompt: tuple[str, list[int]] | str, room: int
    ) -> tuple[str, list[int]] | str:
        if isinstance(prompt, str) or len(prompt[1]) <= room or self._spec.prompt.on_overlong != "shorten":
            return prompt

        def encode(fields: Mapping[str, str]) -> tuple[str, list[int]]:
            messages = self._render(row, fields)
            (text,) = render_chats(self._tokenizer, [messages], self._spec.prompt.chat_template_args)
            return text, self.encode_text(text)

        shorter = shorten_fields(json.loads(row["fields"]), lambda fields: len(encode(fields)[1]), room)
        return prompt if shorter is None else encode(shorter)

    def _try_to_render(self, row: Mapping[str, Any]) -> list[dict[str, str]] | str:
        """Render a unit's messages, or say why there are none.

        A row that lacks a field must not end training: infer_traces and rate_items quarantine it.
        """
        if self._guideline.guideline_for(row["dimension"]) is None:
            return "no_guideline_section"
        try:
            return self._render(row, json.loads(row["fields"]))
        except UserError as error:
            return f"{NOT_RENDERED}: {error}"

    def _render(self, row: Mapping[str, Any], fields: Mapping[str, str]) -> list[dict[str, str]]:
        guideline = self._guideline.guideline_for(row["dimension"])
        assert guideline is not None, f"no section for dimension {row['dimension']!r}"
        return self._renderer.render(fields, guideline, row["dimension"], self.scale_of(row["dimension"]))

    def scale_of(self, dimension: str) -> Scale:
        """Return the scale of a dimension."""
        scale = self._spec.scale.of(dimension)
        assert scale is not None, f"prepare_corpus lets no unit of dimension {dimension!r} through"
        return scale

    def encode(self, examples: Sequence[Mapping[str, Any]]) -> list[Encoded]:
        """Encode usable examples (rows of EXAMPLES)."""
        whole = self._encode_whole(examples)
        answers = [self._write_answer(row, prompt) for row, prompt in zip(examples, whole, strict=True)]
        before = encode_texts(self._tokenizer, [answer.before for answer in answers])
        after = self._encode_within_tag([answer.after for answer in answers])
        taken = (len(one) + len(other) + len(self._turn_end) for one, other in zip(before, after, strict=True))
        rooms = (self._spec.max_tokens - num_answer for num_answer in taken)
        prompts = [self._fit(*parts) for parts in zip(examples, whole, rooms, strict=True)]
        return [self._join(*parts) for parts in zip(prompts, before, after, strict=True)]

    def _encode_within_tag(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts as they stand behind an opened rating tag, as the levels of a rating engine's tree."""
        opening = self.encode_text(RATING_OPEN)
        whole = encode_texts(self._tokenizer, [RATING_OPEN + text for text in texts])
        alone = encode_texts(self._tokenizer, texts)
        return [find_within_tag(opening, *pair) for pair in zip(whole, alone, strict=True)]

    def count_rating_tokens(self) -> int:
        """Count the tokens of the longest rating on all scales, with its tags."""
        scale = self._spec.scale
        levels = [*(scale.values or ()), *(level for own in scale.dimensions.values() for level in own.values)]
        closed = self._encode_within_tag([level + RATING_CLOSE for level in levels])
        return len(self.encode_text(RATING_OPEN)) + max(map(len, closed))

    def _write_answer(self, row: Mapping[str, Any], prompt: tuple[str, list[int]] | str) -> AnswerText:
        opens = not isinstance(prompt, str) and prompt[0].rstrip().endswith(self._spec.tags[0])
        # What acts as a tag or a special token inside the thinking would end it, or the turn, too early.
        marks = [*self._special, *self._spec.tags]
        thinking = None if row["thinking"] is None else neutralise(row["thinking"], marks)
        spec = self._spec
        return write_answer(thinking, row["rating"], spec.form, spec.rating_first, opens, tags=spec.tags)

    def _join(self, prompt: tuple[str, list[int]] | str, before: list[int], after: list[int]) -> Encoded:
        if isinstance(prompt, str):
            return _skip(prompt)
        limit = self._spec.max_tokens
        tokens = [*prompt[1], *before, *after, *self._turn_end]
        if len(prompt[1]) >= limit:
            return _skip(f"overlong_prompt: {len(prompt[1])} tokens, data.max_tokens is {limit}")
        if len(tokens) > limit:
            return _skip(f"overlong: {len(tokens)} tokens, data.max_tokens is {limit}")
        return Encoded(np.array(tokens, np.int32), len(prompt[1]), len(prompt[1]) + len(before))

    def encode_text(self, text: str) -> list[int]:
        """Encode bare text."""
        return encode_texts(self._tokenizer, [text])[0]

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode what a rater wrote, special tokens left out but for the tags of its thinking."""
        text: str = self._tokenizer.decode([token for token in tokens if token not in self._hidden])
        return text

    @property
    def max_tokens(self) -> int:
        """Tokens of prompt and answer at most."""
        return self._spec.max_tokens

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self._tokenizer.eos_token_id
        return sorted({self._turn_end[-1], *([] if eos is None else [int(eos)])})

    @property
    def pad_id(self) -> int:
        """A token to pad with; it is masked wherever it stands."""
        pad = self._tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else int(pad)

    def grow_tree(self, scale: Scale) -> LevelTree:
        """Grow the tree of a scale's levels, as a rating engine does."""
        return grow_level_tree(self.encode_text, scale.values)


def _skip(reason: str) -> Encoded:
    return Encoded(np.zeros(0, np.int32), reason=reason)


def find_turn_end(tokenizer: Any, chat_template_args: Mapping[str, object]) -> list[int]:
    """Find the tokens that the chat template ends an answer with, up to the first special token.

    What a template adds behind that (a line break before the next turn) no rater has to write.
    """
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, **chat_template_args)
    tokens = tokenizer(text.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.convert_tokens_to_ids(list_special_tokens(tokenizer)))
    ends = [n for n, token in enumerate(tokens) if token in special]
    if ends:
        return list(tokens[: ends[0] + 1])
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model: neither its chat template nor its tokenizer has a token that ends an answer, so the tuned rater "
            "would never stop\nexpected: an eos_token in tokenizer_config.json"
        )
    return [*tokens, int(tokenizer.eos_token_id)]


@lru_cache(maxsize=2)
def load_tokenizer(path: str, revision: str | None) -> Any:
    """Load a tokenizer, without fetching the weights of a base by URL; kept, since tasks of one process ask again.

    Raises UserError for one without chat template.
    """
    from transformers import AutoTokenizer

    folder = fetch_folder(path, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision)
    except Exception as error:
        raise UserError(
            f"model.path = {path}: its tokenizer can't be loaded: {type(error).__name__}: {error}\n"
            "expected: a model folder with its tokenizer's files, or the name of a model on a hub that can be reached"
        ) from error
    if not tokenizer.chat_template:
        raise UserError(
            f"model.path = {path}: its tokenizer has no chat template, so nothing says how a prompt becomes a turn\n"
            "expected: an instruction-tuned base; or put a chat_template.jinja into its folder"
        )
    return tokenizer


def make_encoder(spec: EncodingSpec) -> ExampleEncoder:
    """Make the encoder of a spec with its model's tokenizer. Raises UserError."""
    return ExampleEncoder(spec, load_tokenizer(spec.model.path, spec.model.revision))
