"""What a candidate lacks of the traces that it was to be written from: lost drafts, traces without a critique. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from judgetrace.refining.calls import Answer

MAX_LOST_SHARE = 0.25
"""Share of a text's drafts that may be lost.

A draft is of neighbouring traces, which show about all levels, so what one of many said is mostly in others, too. With
more than a quarter lost the text is no longer that of the traces that the settings, and the report, tell of.
"""
LOSSES = pa.schema(
    [
        ("num_drafts", pa.int64()),  # texts that it was to be merged from, or one that needed no merge
        ("num_lost_drafts", pa.int64()),  # of these, what got no usable answer, be it in a later merge
        # Traces that were asked for critiques by their level, and those of them that gave none
        (
            "critique_counts",
            pa.list_(pa.struct([("level", pa.string()), ("num_asked", pa.int64()), ("num_silent", pa.int64())])),
        ),
    ]
)
"""Columns of a candidate; null for the original."""


@dataclass(frozen=True)
class CritiqueCount:
    """How many traces of a level were asked for critiques, and how many gave none."""

    level: str
    num_asked: int
    num_silent: int


@dataclass(frozen=True)
class Losses:
    """What was to go into a candidate, and what of it was lost."""

    num_drafts: int
    num_lost_drafts: int
    critique_counts: tuple[CritiqueCount, ...] = ()
    """Of levels that have traces; empty where no critiques were asked for."""


def list_columns(losses: Losses | None) -> dict[str, Any]:
    """List the columns LOSSES of a candidate."""
    if losses is None:
        return dict.fromkeys(LOSSES.names)
    return vars(losses) | {"critique_counts": [vars(count) for count in losses.critique_counts]}


def describe_losses(row: Mapping[str, Any]) -> str:
    """Say what a row of candidates lacks; "" where it lacks nothing, or is older than the columns LOSSES."""
    found = []
    if row.get("num_lost_drafts"):
        found.append(f"{row['num_lost_drafts']:,} of {row['num_drafts']:,} drafts lost")
    silent = [count for count in row.get("critique_counts") or () if count["num_silent"]]
    if silent:
        counts = (f"{count['num_silent']:,} of {count['num_asked']:,} of level {count['level']}" for count in silent)
        found.append(f"traces that gave no critique: {', '.join(counts)}")
    return "; ".join(found)


def explain_answer(answer: Answer, limit: str) -> str:
    """Say why an answer holds nothing to use, and which setting to raise; `limit` is that of its length."""
    if answer.outcome != "truncated":
        return f"{answer.outcome}: {answer.error or 'the answer is empty'}"
    # Of thinking that was cut off no text is left.
    if not answer.text:
        return "truncated: the thinking ran into the token limit; raise generator.thinking_tokens"
    return f"truncated: the answer ran into the token limit; raise {limit}, or generator.thinking_tokens if it thinks"


def explain_lost_drafts(num_drafts: int, num_lost: int, problem: str) -> str | None:
    """Say why a text of so many drafts does not count; None where it does. `problem` is that of one lost draft."""
    if num_lost == num_drafts:
        return f"no usable answer: {problem}"
    if num_lost <= MAX_LOST_SHARE * num_drafts:
        return None
    return f"drafts_lost: {num_lost:,} of {num_drafts:,}, at most {MAX_LOST_SHARE:.0%} may be; one of them: {problem}"


def explain_lost_levels(counts: Sequence[CritiqueCount], problems: Iterable[tuple[str, str]]) -> str | None:
    """Say which levels lost all of their critiques; None where none did.

    `problems` are (level, why) of the traces that gave none.
    """
    lost = {count.level: count.num_asked for count in counts if count.num_silent == count.num_asked}
    if not lost:
        return None
    ((problem, number),) = Counter(why for level, why in problems if level in lost).most_common(1)
    return (
        f"critiques_lost: {len(lost):,} of {len(counts):,} levels: {list(lost)[:5]}, {sum(lost.values()):,} traces; "
        f"{number:,} of these: {problem}"
    )
