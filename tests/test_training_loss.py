from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from judgetrace.training.batches import lay_out
from judgetrace.training.feed import Example
from judgetrace.training.loss import RaterModule

VOCABULARY = 49152


class FixedModel(torch.nn.Module):
    """Gives the same logits to every batch."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, logits_to_keep: int, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[:, -logits_to_keep:])


def make_batch(chance: np.random.Generator) -> list[Example]:
    lengths = ((30, 10), (22, 15), (12, 11))
    return [Example(chance.integers(VOCABULARY, size=n).astype(np.int32), prompt, prompt, 0) for n, prompt in lengths]


def sum_by_hand(logits: torch.Tensor, examples: list[Example]) -> float:
    nats = 0.0
    for row, example in zip(logits.double(), examples, strict=True):
        for place in range(example.num_prompt, len(example.tokens)):
            nats -= row[place - 1].log_softmax(dim=0)[example.tokens[place]].item()
    return nats


def test_cross_entropy_is_that_of_the_answers_tokens_in_spite_of_padding_and_a_large_vocabulary() -> None:
    # Summed one by one in float32, what a large vocabulary adds at its tail is lost: 5e-5 nats a token.
    examples = make_batch(np.random.default_rng(0))
    logits = 3 * torch.randn(3, 30, VOCABULARY, generator=torch.Generator().manual_seed(0))
    found, squared = RaterModule(FixedModel(logits))(lay_out(examples, [1.0], 0, torch.device("cpu")), 0)
    num_learned = sum(len(example.tokens) - example.num_prompt for example in examples)
    assert found.item() / num_learned == pytest.approx(sum_by_hand(logits, examples) / num_learned, abs=1e-5)
    assert squared.item() == 0
