"""Run what all examples of a micro-batch begin with once: the guideline, which short items' prompts mostly consist of.

The tokens that they share go through the model as one sequence, and every example goes on from its keys and values.
Losses and gradients are those of whole sequences but for rounding. Knows no losses.
"""

from __future__ import annotations

from typing import Any

import torch

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
    one = slice(0, 1)
    begun = model(
        input_ids=tokens[one, :shared], attention_mask=mask[one, :shared], use_cache=True, logits_to_keep=1
    ).past_key_values
    begun.batch_repeat_interleave(len(tokens))
    whole: torch.Tensor = model(
        input_ids=tokens[:, shared:], attention_mask=mask, past_key_values=begun, use_cache=True, logits_to_keep=kept
    ).logits
    return whole
