"""Read the thinking and the rating out of a model's output.

Looks at the model's output alone, never at the prompt. Knows no engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from judgetrace.config import STRICT
from judgetrace.scale import Scale

RATING_OPEN, RATING_CLOSE, THINK_CLOSE = "<rating>", "</rating>", "</think>"
_RATING_TAG = re.compile(r"<(/?)rating>", re.IGNORECASE)
Tags = tuple[str, str]
THINK_TAGS: Tags = ("<think>", THINK_CLOSE)
"""What opens and closes the thinking of most reasoning models."""


class ThinkingConfig(BaseModel):
    """How the model writes its thinking and its rating."""

    model_config = STRICT

    format: Literal["plain", "tags", "parser", "none"] = Field(
        default="plain",
        description="plain: all text before the rating; tags: between <think> and </think>, or `tags`; "
        "parser: as vLLM's reasoning parser `parser`, or the endpoint, splits it off; none: no thinking, the rating at "
        "once.",
    )
    tags: Tags | None = Field(
        default=None,
        description="With format tags, what opens and closes the model's thinking, where that is not <think> and "
        '</think>: ["[THINK]", "[/THINK]"].',
    )
    parser: str | None = Field(default=None, description="Name of a vLLM reasoning parser, for format parser.")
    stop: tuple[str, ...] = Field(
        default=(),
        description="Strings that end the thinking, where the rating is constrained (the rating tag always does).",
    )
    constrained_rating: Literal["never", "fallback", "always"] = Field(
        default="never",
        description="Sample the rating under a constraint to the scale, after the thinking: never; as a fallback, "
        "where the thinking ended without a rating; always. Such draws are tagged `constrained`.",
    )
    stop_at_rating: bool = Field(
        default=True,
        description="With format plain: end a draw at its first closed rating tag. Thinking that has an end of its own "
        "may quote the tag.",
    )

    @model_validator(mode="after")
    def _check_tags(self) -> ThinkingConfig:
        if self.tags is not None:
            if self.format != "tags":
                raise ValueError(f"thinking.tags: thinking.format is '{self.format}'; tags of its own need 'tags'")
            if not all(tag.strip() for tag in self.tags) or self.tags[0] == self.tags[1]:
                raise ValueError(f"thinking.tags = {list(self.tags)}: expected two different marks")
        return self

    @property
    def marks(self) -> Tags:
        """What opens and closes the thinking with format tags."""
        return self.tags or THINK_TAGS


@dataclass(frozen=True)
class ParsedOutput:
    """What an output says. `reason` is None where a rating was found, else unparsed or truncated."""

    trace: str | None
    rating: str | None
    reason: Literal["unparsed", "truncated"] | None


def parse_output(text: str, was_cut: bool, thinking: ThinkingConfig, scale: Scale) -> ParsedOutput:
    """Parse a whole output; `was_cut` says that it ran into the token limit.

    The last closed rating tag counts. With format tags, only what follows the thinking's end is searched, and
    thinking that never ends is truncated (cut) or unparsed.
    """
    if thinking.format != "tags":
        return parse_answer(None, text, was_cut, scale)
    opening, closing = thinking.marks
    opened = re.sub(rf"^\s*{re.escape(opening)}\s*", "", text, flags=re.IGNORECASE)
    trace, closed, answer = opened.partition(closing)
    if not closed:
        return ParsedOutput(trace.strip() or None, None, "truncated" if was_cut else "unparsed")
    return parse_answer(trace, answer, was_cut, scale)


def parse_answer(trace: str | None, answer: str, was_cut: bool, scale: Scale) -> ParsedOutput:
    """Parse an answer whose thinking was split off; with no `trace`, what stands before the rating is the thinking."""
    found = _find_last_rating(answer)
    own_trace = (answer if found is None else answer[: found[0]]) if trace is None else trace
    own_trace = own_trace.strip()
    if found is None:
        return ParsedOutput(own_trace or None, None, "truncated" if was_cut else "unparsed")
    level = scale.find_level(found[1])
    if level is None:
        return ParsedOutput(own_trace or None, None, "unparsed")
    return ParsedOutput(own_trace, scale.values[level], None)


def _find_last_rating(answer: str) -> tuple[int, str] | None:
    """Find the last closed rating tag: where it opens, and what stands in it, which may hold < and > ("A>B")."""
    pairs = [(one, two) for one, two in pairwise(_RATING_TAG.finditer(answer)) if not one[1] and two[1]]
    if not pairs:
        return None
    opened, closed = pairs[-1]
    return opened.start(), answer[opened.end() : closed.start()]
