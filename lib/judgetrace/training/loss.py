"""The loss of a micro-batch: cross-entropy of the answer, and the squared error of the expected rating if asked for.

Source of the latter: Chiang, Lee and Lukasik, "TRACT: Regression-Aware Fine-tuning Meets Chain-of-Thought Reasoning for
LLM-as-a-Judge" (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from judgetrace.level_tree import LevelTree
from judgetrace.training.batches import NOT_LEARNED, MicroBatch
from judgetrace.training.shared_prefix import count_shared, run_last, run_model


@dataclass(frozen=True)
class LevelTarget:
    """What the label of an example means: the levels of its scale as tokens, and which of them it is."""

    tree: LevelTree
    level: int


class RaterModule(torch.nn.Module):  # type: ignore[misc]
    """A causal language model that returns its loss, so that DeepSpeed wraps the whole."""

    def __init__(self, model: Any, targets: Sequence[LevelTarget] = (), shares_prefix: bool = False):
        """`targets`, by label, turn the squared error on; `shares_prefix` runs what examples begin with once."""
        super().__init__()
        self.model = model
        self._targets = list(targets)
        self.shares_prefix = shares_prefix

    def forward(self, batch: MicroBatch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute two weighted sums: of the cross-entropy in nats, and of the squared error in level positions."""
        # Logits are needed from the token before the first learned one on; over a large vocabulary that saves much.
        first = max(0, int((batch.learned != NOT_LEARNED).int().argmax(dim=1).min()) - 1)
        shared = count_shared(batch.tokens, first) if self.shares_prefix else 0
        logits = run_model(self.model, batch.tokens, batch.mask, first, shared).float()
        # What each position is to be followed by; the last one by nothing.
        learned = functional.pad(batch.learned[:, first + 1 :], (0, 1), value=NOT_LEARNED)
        # Flat: over a vocabulary that is no contiguous row torch sums one by one, and loses the tail by rounding.
        nats = functional.cross_entropy(
            logits.flatten(0, 1), learned.flatten(), ignore_index=NOT_LEARNED, reduction="none"
        ).view_as(learned)
        cross_entropy = (nats.sum(dim=1) * batch.weights).sum()
        if not self._targets:
            return cross_entropy, torch.zeros_like(cross_entropy)
        return cross_entropy, self._squared_error(batch, pad)

    def _squared_error(self, batch: MicroBatch, pad: int) -> torch.Tensor:
        targets = [self._targets[label] for label in batch.labels.tolist()]
        prefixes = [row[:end].tolist() for row, end in zip(batch.tokens, batch.rating_at.tolist(), strict=True)]
        trees = [target.tree for target in targets]
        scored = score_levels(self.model, prefixes, trees, pad, shares_prefix=self.shares_prefix)
        errors = []
        for log_probabilities, target in zip(scored, targets, strict=True):
            positions = torch.arange(len(log_probabilities), device=log_probabilities.device)
            expected = (torch.softmax(log_probabilities, dim=0) * positions).sum()
            errors.append((expected - target.level) ** 2)
        return (torch.stack(errors) * batch.weights).sum()


def score_levels(
    model: Any, prefixes: Sequence[Sequence[int]], trees: Sequence[LevelTree], pad: int, *, shares_prefix: bool = False
) -> list[torch.Tensor]:
    """Score whole levels as what follows each prefix; returns log-probabilities in the order of the tree's levels.

    One pass for all: a row for each branching of each tree. Rows differ in length by a few tokens only.
    """
    rows = [[*prefix, *node.path] for prefix, tree in zip(prefixes, trees, strict=True) for node in tree.branchings]
    log_probabilities = torch.log_softmax(run_last(model, rows, pad, shares_prefix).float(), dim=-1)
    found, row = [], 0
    for tree in trees:
        by_path = {node.path: log_probabilities[row + n] for n, node in enumerate(tree.branchings)}
        row += len(tree.branchings)
        found.append(
            torch.stack(
                [
                    torch.stack([by_path[sequence[:place]][token] for place, token in enumerate(sequence)]).sum()
                    for sequence in tree.sequences
                ]
            )
        )
    return found
