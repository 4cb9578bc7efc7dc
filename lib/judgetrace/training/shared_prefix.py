"""Run what all sequences of a batch begin with once: the guideline, which short items' prompts mostly consist of.

The tokens that they share go through the model as one sequence, and every sequence goes on from its keys and values.
What comes out, and gradients, are those of whole sequences but for rounding. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from judgetrace.training.batches import pad_left

WORTH_SHARE = 0.1
"""A second pass through the model has a cost of its own: a smaller share of a micro-batch's tokens is not saved."""


def can_share_prefix(model: Any) -> bool:
    """Whether sequences of a model can go on from another's keys and values, so that nothing but rounding differs.

    Not where layers forget what is behind a window, keep another kind of state, or drop out at random.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = getattr(model, "config", None)
    if config is None or any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules()):
        return False
    if getattr(config, "attention_dropout", 0.0):
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def count_shared(tokens: torch.Tensor, limit: int) -> int:
    """Count the tokens that all rows of [M, T] begin with, `limit` at most; 0 where to share them saves little."""
    rows, length = tokens.shape
    differs = (tokens[:, :limit] != tokens[:1, :limit]).any(dim=0).int()
    shared = int(differs.argmax()) if bool(differs.any()) else differs.numel()
    return shared if shared * (rows - 1) >= WORTH_SHARE * rows * length else 0


def run_model(model: Any, tokens: torch.Tensor, mask: torch.Tensor, first: int, shared: int) -> torch.Tensor:
    """Compute the logits at the positions from `first` on: [M, T - first, V], of right-padded [M, T] tokens.

    `shared` tokens, none of them behind `first`, are the same in all rows.
    """
    # Chosen by index, they lie in a row: products with slices of a batch copy the whole vocabulary for every example.
    kept = torch.arange(first - shared, tokens.shape[1] - shared, device=tokens.device)
    if not shared:
        logits: torch.Tensor = model(input_ids=tokens, attention_mask=mask, logits_to_keep=kept).logits
        return logits
    begun = begin(model, tokens[:1, :shared], len(tokens))
    whole: torch.Tensor = model(
        input_ids=tokens[:, shared:], attention_mask=mask, past_key_values=begun, use_cache=True, logits_to_keep=kept
    ).logits
    return whole


def run_last(model: Any, rows: Sequence[Sequence[int]], pad: int, shares_prefix: bool) -> torch.Tensor:
    """Compute the logits of what follows each row of tokens: [N, V]."""
    given = lay_out_prompts(model, rows, pad, shares_prefix)
    begun = given["past_key_values"].get_seq_length() if "past_key_values" in given else 0
    tokens = given.pop("input_ids")[:, begun:]
    positions = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)[:, begun:]
    last = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
    logits: torch.Tensor = model(
        input_ids=tokens, position_ids=positions, logits_to_keep=last, use_cache=begun > 0, **given
    ).logits
    return logits[:, -1]


def lay_out_prompts(model: Any, rows: Sequence[Sequence[int]], pad: int, shares_prefix: bool) -> dict[str, Any]:
    """Lay rows of tokens out to be gone on with: input_ids and attention_mask, [N, longest] int64.

    Padding stands before a row's own tokens. Where the first ones are shared and were run: past_key_values of these.
    """
    device = next(model.parameters()).device
    shared = count_begun(rows) if shares_prefix else 0
    tokens, mask, _ = pad_left([row[shared:] for row in rows], pad, device)
    if not shared:
        return {"input_ids": tokens, "attention_mask": mask}
    prefix = torch.tensor([list(rows[0][:shared])], device=device)
    return {
        "input_ids": torch.cat([prefix.expand(len(rows), -1), tokens], dim=1),
        "attention_mask": torch.cat([mask.new_ones(len(rows), shared), mask], dim=1),
        "past_key_values": begin(model, prefix, len(rows)),
    }


def count_begun(rows: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all rows begin with and end behind; 0 where to share them saves little."""
    limit = min(len(row) for row in rows) - 1
    begun = torch.tensor([list(row[:limit]) for row in rows])
    return count_shared(begun, limit) if limit > 0 else 0


def begin(model: Any, tokens: torch.Tensor, times: int) -> Any:
    """Run one sequence, [1, P]; returns its keys and values for so many sequences that go on from it."""
    begun = model(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True, logits_to_keep=1
    ).past_key_values
    begun.batch_repeat_interleave(times)
    return begun
