"""Rows of traces as conversations: the prompt that the rater is asked with, the answer that it is to give.

Both are written as train_rater writes them, so that another trainer learns what train_rater would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from judgetrace.guideline import Guideline
from judgetrace.parsing import THINK_TAGS, Tags
from judgetrace.prompts import PromptRenderer, neutralise
from judgetrace.scale import ScaleConfig
from judgetrace.schema import UNIT_KEY
from judgetrace.training.examples import make_examples, write_answer

Message = dict[str, str]


@dataclass(frozen=True)
class ConversationWriter:
    """Writes prompts and answers of units."""

    renderer: PromptRenderer
    guideline: Guideline
    scale: ScaleConfig
    form: str
    """thinking.format: plain, tags or none."""
    special_tokens: Sequence[str] = ()
    prompt_opens: bool = False
    """The base's chat template opens the thinking tag."""
    tags: Tags = THINK_TAGS
    """thinking.tags"""

    def write_prompt(self, row: Mapping[str, Any]) -> list[Message] | None:
        """Write the messages that ask for a unit; None where the guideline has no section for its dimension."""
        guideline, scale = self.guideline.guideline_for(row["dimension"]), self.scale.of(row["dimension"])
        if guideline is None or scale is None:
            return None
        return self.renderer.render(json.loads(row["fields"]), guideline, row["dimension"], scale)

    def write_reply(self, thinking: str, rating: str) -> Message:
        """Write the answer that ends in a rating."""
        safe = neutralise(thinking, [*self.special_tokens, *self.tags])
        answer = write_answer(
            safe, rating, self.form, rating_first=False, prompt_opens=self.prompt_opens, tags=self.tags
        )
        return {"role": "assistant", "content": answer.before + answer.after}


Faults = Sequence[str | None]
"""Of each row of traces, why it may not teach; None where it may."""


def write_chats(
    traces: pa.Table, split: str, writer: ConversationWriter, faults: Faults | None = None
) -> Iterator[dict[str, Any]]:
    """Write a conversation for each accepted unit of a split that may teach: `messages`, its key and its label."""
    for row in make_examples(traces, "traces", split, 0, faults).to_pylist():
        prompt = None if row["reason"] is not None else writer.write_prompt(row)
        if prompt is not None:
            messages = [*prompt, writer.write_reply(row["thinking"], row["rating"])]
            yield {"messages": messages, **_describe(row)}


def write_pairs(
    traces: pa.Table, split: str, writer: ConversationWriter, limit: int, faults: Faults | None = None
) -> Iterator[dict[str, Any]]:
    """Write preference pairs of a split: an accepted draw, chosen over up to `limit` that disagree.

    Needs the texts of rejected draws, which infer_traces keeps with ledger.keep_rejected_text.
    """
    for row, fault in zip(traces.to_pylist(), faults or [None] * len(traces), strict=True):
        if row["split"] != split or row["outcome"] != "accepted" or fault is not None:
            continue
        rejected = [d for d in row["draws"] if d["reason"] == "disagrees" and d["trace"] is not None][:limit]
        prompt = writer.write_prompt(row) if rejected else None
        if prompt is not None:
            chosen = writer.write_reply(row["trace"] or "", row["rating"])
            for draw in rejected:
                reply = writer.write_reply(draw["trace"], draw["rating"])
                yield {"prompt": prompt, "chosen": [chosen], "rejected": [reply], **_describe(row)}


def _describe(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: row[name] for name in (*UNIT_KEY, "target_label")}
