"""Lay examples out as tensors: right-padded micro-batches to learn from, left-padded prompts to write on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from judgetrace.training.feed import Example

NOT_LEARNED = -100
"""The label of tokens that are no part of the loss."""


@dataclass(frozen=True)
class MicroBatch:
    """Examples of one pass; M examples of at most T tokens. All tensors are on the worker's device."""

    tokens: torch.Tensor  # [M, T] int64
    mask: torch.Tensor  # [M, T] int64, 1 for tokens
    learned: torch.Tensor  # [M, T] int64, the token where it is learned, else NOT_LEARNED
    weights: torch.Tensor  # [M] float32
    rating_at: torch.Tensor  # [M] int64
    labels: torch.Tensor  # [M] int64, positions in the list of (dimension, rating)

    @property
    def num_answer_tokens(self) -> float:
        """Tokens that are learned, weighted."""
        return float(((self.learned != NOT_LEARNED).sum(dim=1) * self.weights).sum())


def lay_out(examples: Sequence[Example], weights: Sequence[float], pad: int, device: torch.device) -> MicroBatch:
    """Lay examples out; `weights` is by label. No examples give one of one token that counts nothing."""
    if not examples:
        return lay_out([Example(np.array([pad, pad], np.int32), 2, 1, 0)], [0.0], pad, device)
    longest = max(len(example.tokens) for example in examples)
    tokens = np.full((len(examples), longest), pad, np.int64)
    mask = np.zeros((len(examples), longest), np.int64)
    learned = np.full((len(examples), longest), NOT_LEARNED, np.int64)
    for n, example in enumerate(examples):
        length, prompt = len(example.tokens), example.num_prompt
        tokens[n, :length], mask[n, :length] = example.tokens, 1
        learned[n, prompt:length] = example.tokens[prompt:]
    labels = np.array([example.label for example in examples], np.int64)
    arrays = (
        tokens,
        mask,
        learned,
        np.array([weights[label] for label in labels], np.float32),
        np.array([example.rating_at for example in examples], np.int64),
        labels,
    )
    return MicroBatch(*(torch.from_numpy(array).to(device) for array in arrays))


def pad_left(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad sequences on their left; returns tokens, mask and positions, each [N, longest] int64."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = np.full((len(sequences), longest), pad, np.int64)
    mask = np.zeros((len(sequences), longest), np.int64)
    for n, sequence in enumerate(sequences):
        tokens[n, longest - len(sequence) :] = sequence
        mask[n, longest - len(sequence) :] = 1
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    found = [torch.from_numpy(array).to(device) for array in (tokens, mask, positions)]
    return found[0], found[1], found[2]
