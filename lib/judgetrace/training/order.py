"""The order in which examples are learned: a function of seed and epoch alone, whatever the number of workers. Pure.

An epoch's shards, and the examples of each, are shuffled and cut into batches. Batches are dealt into lanes, streams of
a fixed number that workers share. A lane is read in stretches of neighbouring examples, so that a shard is read once or
twice an epoch and by one reader; within a stretch examples are grouped by length, so that a batch has little padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STRETCH = 1024
"""Examples that one lane reads at once, about a shard of a corpus."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExampleIndex:
    """All usable examples, in the order of shards and rows; every array has one entry an example."""

    shard: Ints
    """Position of its shard in the list of shards; never falls."""
    row: Ints
    """Its row in the shard."""
    num_tokens: Ints
    """Tokens of prompt and answer."""
    label: Ints
    """A number for its dimension and rating."""

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class EpochOrder:
    """How an epoch is dealt."""

    batch: int
    """Examples in a step."""
    lanes: int
    """A divisor of `batch`."""
    seed: int
    balance: bool = False

    def count_steps(self, index: ExampleIndex) -> int:
        """Count the steps of an epoch; what is left over when it is cut into batches has its chance in the next."""
        return self._count_usable(index) // self.batch

    def _count_usable(self, index: ExampleIndex) -> int:
        if not self.balance:
            return len(index)
        counts = np.bincount(index.label)
        counts = counts[counts > 0]
        return int(counts.min() * len(counts)) if len(counts) else 0

    def order_examples(self, index: ExampleIndex, epoch: int) -> Ints:
        """Order an epoch's examples (positions in `index`): shards shuffled, and the examples within each."""
        random = np.random.default_rng([self.seed, epoch])
        shuffled = random.permutation(len(index))
        if self.balance:
            shuffled = _take_equally(shuffled, index.label[shuffled])
        place = random.permutation(int(index.shard.max()) + 1 if len(index) else 0)
        by_shard = np.argsort(place[index.shard[shuffled]], kind="stable")
        ordered: Ints = shuffled[by_shard]
        return ordered

    def deal(self, index: ExampleIndex, epoch: int) -> Iterator[Stretch]:
        """Deal an epoch into stretches, in the order in which workers need them."""
        steps = self.count_steps(index)
        ordered = self.order_examples(index, epoch)[: steps * self.batch]
        per_lane = self.batch // self.lanes
        most = max(1, STRETCH // per_lane)
        for first in range(0, steps, most):
            count = min(most, steps - first)
            own = ordered[first * self.batch : (first + count) * self.batch].reshape(self.lanes, count * per_lane)
            turn = _order_steps(count, np.random.default_rng([self.seed, epoch, first]), longest_first=first == 0)
            for lane in range(self.lanes):
                yield Stretch(lane, first, _group_by_length(own[lane], index.num_tokens, turn))


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one lane."""

    lane: int
    first_step: int
    """Counted from the epoch's start."""
    examples: Ints
    """Positions in the index, shape (steps, examples of the lane in a step)."""


def _take_equally(shuffled: Ints, labels: Ints) -> Ints:
    """Take the first so many of each label, as many as there are of the rarest; keeps their order."""
    least = np.bincount(labels)
    least = least[least > 0].min()
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    taken: Ints = shuffled[rank < least]
    return taken


def _order_steps(count: int, random: np.random.Generator, longest_first: bool) -> Ints:
    """Order the steps of a stretch, 0 being that of its longest examples.

    The epoch's first step is the longest of its first stretch: what does not fit into memory shows early.
    """
    turn = random.permutation(count)
    if longest_first:
        turn = np.concatenate([[0], turn[turn != 0]])
    ordered: Ints = turn
    return ordered


def _group_by_length(examples: Ints, num_tokens: Ints, turn: Ints) -> Ints:
    """Group a lane's examples into steps of like length; returns shape (steps, examples a step)."""
    longest_first = examples[np.argsort(-num_tokens[examples], kind="stable")]
    grouped: Ints = longest_first.reshape(len(turn), -1)[turn]
    return grouped


def share_padding(index: ExampleIndex, order: EpochOrder, epoch: int, workers: int, micro_batch: int) -> float:
    """Compute the share of an epoch's tokens that are padding, with so many workers."""
    padded = real = 0
    lengths: dict[int, list[list[int]]] = {}
    for stretch in order.deal(index, epoch):
        for n, examples in enumerate(stretch.examples):
            shares = lengths.setdefault(stretch.first_step + n, [[] for _ in range(workers)])
            shares[stretch.lane % workers] += index.num_tokens[examples].tolist()
    for shares in lengths.values():
        for share in shares:
            for micro in cut_micro_batches(share, micro_batch):
                padded += max(share[n] for n in micro) * len(micro)
                real += sum(share[n] for n in micro)
    return 1 - real / padded if padded else 0.0


def cut_micro_batches(num_tokens: Sequence[int], micro_batch: int) -> list[list[int]]:
    """Cut a worker's share of a step into micro-batches of like length, longest first; returns positions."""
    ordered = sorted(range(len(num_tokens)), key=lambda n: (-num_tokens[n], n))
    return [ordered[start : start + micro_batch] for start in range(0, len(ordered), micro_batch)]
