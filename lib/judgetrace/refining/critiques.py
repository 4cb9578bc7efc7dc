"""Critiques of traces: the calls that ask for them, the sentences of the answers, the table of them all. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from judgetrace.prompts import shorten_fields
from judgetrace.refining.calls import Answer, Call, derive_seed
from judgetrace.refining.losses import explain_answer
from judgetrace.refining.refine_prompts import RefinePrompts
from judgetrace.refining.token_counter import TokenCounter
from judgetrace.refining.writing import MARGIN_TOKENS
from judgetrace.schema import UnitKey

LEAST_WORDS, MOST_WORDS = 3, 60
_MARK = re.compile(r"^\s*(?:[-*•\u2013>#]+|\(?\d{1,3}[.):]|[a-z][.)])*\s*")
_WORD = re.compile(r"\w+")

CRITIQUES = pa.schema(
    [
        ("critique", pa.string()),
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),
        ("level", pa.string()),  # the rating that the trace ends in
        ("seed", pa.int64()),  # of the candidates that it was considered for
        ("cluster", pa.int32()),  # counted from 0 within seed and level, the largest first
        ("distance", pa.float64()),  # to the cluster's centroid; vectors have length 1
        ("used", pa.bool_()),  # whether it went into the prompt of a rubric
    ]
)
"""One row a critique and seed."""


def join_fields(fields: str) -> str:
    """Join all texts of an item; `fields` is the column of that name, a JSON object."""
    return "\n".join(json.loads(fields).values())


@dataclass(frozen=True)
class ChosenTrace:
    """An accepted trace that was selected."""

    level: str
    unit: UnitKey
    trace: str
    item: str
    """The item's text (join_fields): nothing of it may be copied."""


@dataclass(frozen=True)
class Critique:
    """A sentence, and the trace that it comes from."""

    sentence: str
    source: ChosenTrace


@dataclass(frozen=True)
class CritiqueReply:
    """What a trace gave: sentences, or why there are none."""

    sentences: tuple[str, ...]
    problem: str | None = None


def make_critique_call(
    chosen: ChosenTrace,
    guideline: str,
    prompts: RefinePrompts,
    counter: TokenCounter,
    *,
    critique_tokens: int,
    thinking_tokens: int,
) -> Call:
    """Make the call about a trace, which is shortened where the prompt would not fit.

    The same trace is asked about once, whichever seeds selected it. Raises ValueError where nothing of it fits.
    """
    max_tokens = critique_tokens + thinking_tokens

    def count(trace: str) -> int:
        return counter.count_chat(prompts.ask_critiques(guideline, chosen.level, trace))

    room, trace = counter.context - max_tokens - MARGIN_TOKENS, chosen.trace
    if count(trace) > room:
        shorter = shorten_fields({"trace": trace}, lambda fields: count(fields["trace"]), room)
        if shorter is None:
            raise ValueError(
                f"critiques: the context of {counter.context} tokens is too short: the prompt without a trace takes "
                f"{count('')}, the answer may take {max_tokens}; take a longer context, or lower "
                "generator.critique_tokens"
            )
        trace = shorter["trace"]
    messages = tuple((m["role"], m["content"]) for m in prompts.ask_critiques(guideline, chosen.level, trace))
    return Call("critiques", messages, derive_seed("critiques", chosen.level, *chosen.unit), max_tokens)


def read_critiques(answer: Answer, most: int) -> list[str]:
    """Read the sentences of an answer, one a line, without bullets and numbers; at most `most`, each once.

    What can't be a sentence of its own is left out, as is the last line of an answer that was cut off.
    """
    if not answer.text or answer.outcome not in {"answered", "truncated"}:
        return []
    lines = answer.text.splitlines()
    if answer.outcome == "truncated":
        lines = lines[:-1]
    sentences = (" ".join(_MARK.sub("", line).replace("*", "").split()) for line in lines)
    kept = [text for text in sentences if LEAST_WORDS <= len(_WORD.findall(text)) <= MOST_WORDS and text[-1] != ":"]
    first = {text.casefold(): text for text in reversed(kept)}
    return [first[text] for text in dict.fromkeys(text.casefold() for text in kept)][:most]


def read_reply(answer: Answer, most: int) -> CritiqueReply:
    """Read the sentences of an answer, at most `most`, or why it has none."""
    sentences = read_critiques(answer, most)
    if sentences:
        return CritiqueReply(tuple(sentences))
    if answer.outcome == "answered" and answer.text:
        return CritiqueReply((), f"no line of the answer is a sentence of {LEAST_WORDS} to {MOST_WORDS} words")
    return CritiqueReply((), explain_answer(answer, "generator.critique_tokens"))


def tabulate_critiques(
    seed: int, critiques: Sequence[Critique], clusters: Iterable[tuple[int, float, bool]]
) -> pa.Table:
    """Tabulate critiques with (cluster, distance, used) each, as CRITIQUES."""
    rows = []
    for critique, (cluster, distance, used) in zip(critiques, clusters, strict=True):
        item_id, dimension, target_source = critique.source.unit
        row = {"critique": critique.sentence, "item_id": item_id, "dimension": dimension, "seed": seed, "used": used}
        row |= {"target_source": target_source, "level": critique.source.level}
        rows.append(row | {"cluster": cluster, "distance": distance})
    return pa.Table.from_pylist(rows, CRITIQUES)
