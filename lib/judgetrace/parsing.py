"""Read the thinking and the rating out of a model's output.

Looks at the model's output alone, never at the prompt. Knows no engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from judgetrace.config import STRICT
from judgetrace.scale import Scale

RATING_OPEN, RATING_CLOSE, THINK_CLOSE = "<rating>", "</rating>", "</think>"
_RATING = re.compile(r"<rating>([^<>]*)</rating>", re.IGNORECASE)
_THINK_OPEN = re.compile(r"^\s*<think>\s*", re.IGNORECASE)


class ThinkingConfig(BaseModel):
    """How the model writes its thinking and its rating."""

    model_config = STRICT

    format: Literal["plain", "tags", "parser", "none"] = Field(
        default="plain",
        description="plain: all text before the rating; tags: between <think> and </think>; "
        "parser: as vLLM's reasoning parser `parser`, or the endpoint, splits it off; none: no thinking, the rating at "
        "once.",
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
    trace, closed, answer = _THINK_OPEN.sub("", text).partition(THINK_CLOSE)
    if not closed:
        return ParsedOutput(trace.strip() or None, None, "truncated" if was_cut else "unparsed")
    return parse_answer(trace, answer, was_cut, scale)


def parse_answer(trace: str | None, answer: str, was_cut: bool, scale: Scale) -> ParsedOutput:
    """Parse an answer whose thinking was split off; with no `trace`, what stands before the rating is the thinking."""
    found = list(_RATING.finditer(answer))
    own_trace = (answer[: found[-1].start()] if found else answer) if trace is None else trace
    own_trace = own_trace.strip()
    if not found:
        return ParsedOutput(own_trace or None, None, "truncated" if was_cut else "unparsed")
    level = scale.find_level(found[-1].group(1))
    if level is None:
        return ParsedOutput(own_trace or None, None, "unparsed")
    return ParsedOutput(own_trace, scale.values[level], None)
