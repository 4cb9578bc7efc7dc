"""Choose what a rater learns from recorded traces: which thinking, which rating, or why a unit teaches nothing. Pure.

Knows no tokenizer and no prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.parsing import RATING_CLOSE, RATING_OPEN, THINK_TAGS, Tags
from judgetrace.training.config import Target

EXAMPLES = pa.schema(
    [
        ("row", pa.int32()),  # in its shard of traces
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),
        ("target_label", pa.string()),
        ("fields", pa.string()),  # as in schema.ITEMS
        ("thinking", pa.string()),  # null where the rater learns the rating alone
        ("rating", pa.string()),  # what it learns to give; null with a reason
        ("hinted", pa.bool_()),  # as in schema.TRACES
        ("reason", pa.string()),  # why the unit teaches nothing; null where it does
    ]
)
"""One row a unit of the split that is trained on."""


def make_examples(
    traces: pa.Table, target: Target, split: str, seed: int, faults: Sequence[str | None] | None = None
) -> pa.Table:
    """Make the examples (EXAMPLES) of a shard of traces (schema.TRACES), one for each of its units in `split`.

    `faults` says of each row of `traces` why it may not teach though it was accepted (teachable.find_faults).
    Reasons: those, not_accepted, over_quota; of first_draw first_draw_unrated, text_not_kept and hinted; of
    shuffled_traces no_partner, where no other item of the shard has the same dimension and rating (or too few, for the
    units of one item).
    """
    rows = [(n, row) for n, row in enumerate(traces.to_pylist()) if row["split"] == split]
    chosen = [_choose(row, target, faults[n] if faults else None) for n, row in rows]
    if target == "shuffled_traces":
        keys = [(row["dimension"], found.rating) for (_, row), found in zip(rows, chosen, strict=True)]
        chosen = _swap_thinking(chosen, [row["item_id"] for _, row in rows], keys, seed)
    made = [
        {
            "row": number,
            **{name: row[name] for name in ("item_id", "dimension", "target_source", "target_label", "fields")},
            "thinking": found.thinking,
            "rating": found.rating,
            "hinted": bool(row["hinted"]),
            "reason": found.reason,
        }
        for (number, row), found in zip(rows, chosen, strict=True)
    ]
    return pa.Table.from_pylist(made, schema=EXAMPLES)


@dataclass(frozen=True)
class _Choice:
    thinking: str | None = None
    rating: str | None = None
    reason: str | None = None


def _choose(row: Mapping[str, Any], target: Target, fault: str | None) -> _Choice:
    if row["outcome"] == "over_quota":
        return _Choice(reason="over_quota")
    if target == "first_draw":
        return _Choice(reason="hinted") if row["hinted"] else _choose_first_draw(row)
    if row["outcome"] != "accepted":
        return _Choice(reason="not_accepted")
    if fault is not None:
        return _Choice(reason=fault)
    if target == "label":
        # Of the same units as the traces. What was accepted by more than exact may lie beside the human label, which
        # is what this control learns; where a trace is learned, its own rating stays with it.
        return _Choice(None, row["target_label"])
    return _Choice(row["trace"] or "", row["rating"])


def _choose_first_draw(row: Mapping[str, Any]) -> _Choice:
    first = next((draw for draw in row["draws"] if draw["index"] == 0), None)
    if first is None or first["rating"] is None:
        return _Choice(reason="first_draw_unrated")
    if first["trace"] is None:
        return _Choice(reason="text_not_kept")
    return _Choice(first["trace"], first["rating"])


def _swap_thinking(
    chosen: Sequence[_Choice], items: Sequence[str], keys: Iterable[tuple[str, str | None]], seed: int
) -> list[_Choice]:
    """Give each unit the thinking of another item's unit with the same key (dimension and rating), in a cycle."""
    swapped = list(chosen)
    groups: dict[tuple[str, str | None], list[int]] = {}
    for n, key in enumerate(keys):
        if chosen[n].reason is None:
            groups.setdefault(key, []).append(n)
    for members in groups.values():
        shuffled = np.random.default_rng([seed, len(members)]).permutation(members).tolist()
        # Units of one item stand together; as many places on as the longest run of them, another item's stand.
        counts = Counter(items[n] for n in shuffled)
        place = {item: rank for rank, item in enumerate(counts)}
        order = sorted(shuffled, key=lambda n: place[items[n]])
        for own, giver in zip(order, np.roll(order, max(counts.values())), strict=True):
            is_other = items[own] != items[giver]
            swapped[own] = (
                _Choice(chosen[giver].thinking, chosen[own].rating) if is_other else _Choice(reason="no_partner")
            )
    return swapped


@dataclass(frozen=True)
class AnswerText:
    """What the rater is to write, cut at the rating: `before` ends with the opened tag, `after` begins with the level.

    The cut is where a rating engine goes on from when it scores levels, so both see the same tokens there.
    """

    before: str
    after: str


def write_answer(
    thinking: str | None, rating: str, form: str, rating_first: bool, prompt_opens: bool, *, tags: Tags = THINK_TAGS
) -> AnswerText:
    """Write the answer of an example.

    form          thinking.format of the rater: plain, tags or none
    rating_first  the rating stands before the thinking
    prompt_opens  the chat template has opened the thinking tag already
    tags          what opens and closes the thinking with form tags
    """
    closed = f"{rating}{RATING_CLOSE}"
    if thinking is None or form == "none":
        return AnswerText(RATING_OPEN, closed)
    opened = "" if prompt_opens else f"{tags[0]}\n"
    if rating_first:
        behind = thinking.strip() if form == "plain" else f"{opened}{thinking.strip()}\n{tags[1]}"
        return AnswerText(RATING_OPEN, f"{closed}\n{behind}")
    if form == "plain":
        # As an engine goes on from: no line break where there is no thinking.
        return AnswerText(f"{thinking.strip()}\n{RATING_OPEN}".lstrip(), closed)
    return AnswerText(f"{opened}{thinking.strip()}\n{tags[1]}\n{RATING_OPEN}", closed)


def weigh_labels(accepted: Mapping[str, int], decided: Mapping[str, int], cap: float) -> dict[str, float]:
    """Compute a weight for each label: 1 / (its share of accepted units), at most `cap` times the lowest.

    Weights average 1 over the accepted units. Labels that have none are left out.
    """
    raw = {label: decided[label] / count for label, count in accepted.items() if count}
    if not raw:
        return {}
    lowest = min(raw.values())
    capped = {label: min(weight, cap * lowest) for label, weight in raw.items()}
    mean = sum(capped[label] * accepted[label] for label in capped) / sum(accepted[label] for label in capped)
    return {label: weight / mean for label, weight in capped.items()}
