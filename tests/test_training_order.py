from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from judgetrace.training.order import EpochOrder, ExampleIndex, cut_micro_batches, share_padding

WORLDS = (1, 2, 3, 4)


def make_index(num: int, a_shard: int = 100, labels: int = 5, seed: int = 0) -> ExampleIndex:
    """Examples of lognormal lengths (median 400 tokens) in shards of `a_shard`."""
    random = np.random.default_rng(seed)
    numbers = np.arange(num)
    lengths = np.clip(random.lognormal(6.0, 0.5, num), 16, 4096).astype(np.int64)
    return ExampleIndex(numbers // a_shard, numbers % a_shard, lengths, random.integers(0, labels, num))


def collect_steps(index: ExampleIndex, order: EpochOrder, epoch: int, world: int = 1) -> list[list[list[int]]]:
    """What each worker learns in each step, the lanes shared out as workers do."""
    steps: dict[int, list[list[int]]] = {}
    for stretch in order.deal(index, epoch):
        for n, examples in enumerate(stretch.examples):
            shares = steps.setdefault(stretch.first_step + n, [[] for _ in range(world)])
            shares[stretch.lane % world] += examples.tolist()
    assert sorted(steps) == list(range(len(steps)))
    return [steps[step] for step in range(len(steps))]


def list_learned(index: ExampleIndex, order: EpochOrder, epoch: int) -> list[int]:
    return [example for (share,) in collect_steps(index, order, epoch) for example in share]


@pytest.mark.parametrize(
    ("num", "batch", "lanes"), [(1000, 32, 8), (997, 12, 4), (64, 64, 32), (5000, 4, 4), (20, 1, 1)]
)
def test_an_epoch_has_every_example_at_most_once_and_leaves_out_less_than_a_batch(
    num: int, batch: int, lanes: int
) -> None:
    index, order = make_index(num), EpochOrder(batch, lanes, seed=7)

    steps = collect_steps(index, order, 0)

    learned = list_learned(index, order, 0)
    assert len(steps) == order.count_steps(index) == num // batch
    assert all(len(share) == batch for (share,) in steps)
    assert len(set(learned)) == len(learned) == num - num % batch


def test_what_is_left_out_of_one_epoch_has_its_chance_in_another() -> None:
    index, order = make_index(70), EpochOrder(32, 8, seed=7)

    learned = [set(list_learned(index, order, epoch)) for epoch in range(20)]

    assert set.union(*learned) == set(range(70))
    assert len({frozenset(one) for one in learned}) > 10


@pytest.mark.parametrize("num", [640, 3001])
def test_a_step_has_the_same_examples_whatever_the_number_of_workers(num: int) -> None:
    index, order = make_index(num), EpochOrder(32, 8, seed=3)

    by_world = {world: collect_steps(index, order, 2, world) for world in WORLDS}

    alone = [sorted(share) for (share,) in by_world[1]]
    for world in WORLDS:
        assert [sorted(n for share in shares for n in share) for shares in by_world[world]] == alone
        sizes = {len(share) for shares in by_world[world] for share in shares}
        assert max(sizes) - min(sizes) <= 32 // 8, "workers differ by a lane at most"


def test_an_order_is_a_function_of_seed_and_epoch_alone() -> None:
    index = make_index(1000)

    def learn(seed: int, epoch: int) -> list[int]:
        return list_learned(index, EpochOrder(32, 8, seed), epoch)

    assert learn(1, 4) == learn(1, 4)
    orders = [learn(seed, epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert all(one != other for one, other in combinations(orders, 2))


def test_balance_takes_as_many_of_every_label_as_there_are_of_the_rarest() -> None:
    labels = np.repeat([0, 1, 3], [500, 40, 60])
    index = ExampleIndex(np.zeros(600, np.int64), np.arange(600), np.full(600, 100), labels)
    order = EpochOrder(12, 4, seed=0, balance=True)

    epochs = [list_learned(index, order, epoch) for epoch in range(3)]

    assert order.count_steps(index) == 10
    for learned in epochs:
        assert Counter(labels[learned].tolist()) == {0: 40, 1: 40, 3: 40}
        assert len(set(learned)) == 120
    common = {frozenset(n for n in learned if labels[n] == 0) for learned in epochs}
    assert len(common) == 3, "each epoch takes others of a common label"


def test_the_first_step_of_an_epoch_is_the_longest() -> None:
    index, order = make_index(4096), EpochOrder(32, 8, seed=5)

    for epoch in range(3):
        tokens = [index.num_tokens[share].sum() for (share,) in collect_steps(index, order, epoch)]
        assert tokens[0] == max(tokens)
        first = collect_steps(index, order, epoch)[0][0]
        assert index.num_tokens[first].max() == index.num_tokens[list_learned(index, order, epoch)].max()


def test_long_and_short_steps_alternate_by_chance_and_not_by_length() -> None:
    index, order = make_index(20_000), EpochOrder(32, 8, seed=5)

    tokens = [index.num_tokens[share].sum() for (share,) in collect_steps(index, order, 0)[1:]]

    assert abs(np.corrcoef(np.arange(len(tokens)), tokens)[0, 1]) < 0.15


def test_a_stretch_comes_from_few_shards() -> None:
    index, order = make_index(20_000, a_shard=1000), EpochOrder(128, 32, seed=0)

    shards = [len(set(index.shard[stretch.examples].ravel())) for stretch in order.deal(index, 0)]

    assert max(shards) <= 3


def measure_padding(index: ExampleIndex, order: EpochOrder, workers: int, micro_batch: int) -> float:
    """By brute force: sort each worker's share, cut it, and pad each piece to its longest."""
    real = padded = 0
    for shares in collect_steps(index, order, 0, workers):
        for share in shares:
            lengths = sorted((int(index.num_tokens[n]) for n in share), reverse=True)
            for start in range(0, len(lengths), micro_batch):
                piece = lengths[start : start + micro_batch]
                real, padded = real + sum(piece), padded + piece[0] * len(piece)
    return (padded - real) / padded


@pytest.mark.parametrize(("num", "workers", "micro_batch"), [(3000, 1, 4), (3000, 3, 4), (900, 2, 7)])
def test_the_share_of_padding_is_that_of_the_micro_batches(num: int, workers: int, micro_batch: int) -> None:
    index, order = make_index(num), EpochOrder(32, 8, seed=1)

    found = share_padding(index, order, 0, workers, micro_batch)

    assert found == pytest.approx(measure_padding(index, order, workers, micro_batch))


@pytest.mark.parametrize(("num", "most"), [(20_000, 0.01), (2_000, 0.04), (256, 0.13)])
def test_padding_is_little_with_8_workers(num: int, most: float) -> None:
    index = make_index(num, a_shard=1000)

    share = share_padding(index, EpochOrder(128, 32, seed=0), 0, 8, 4)

    assert 0 < share <= most


def test_no_examples_have_no_steps_and_no_padding() -> None:
    order = EpochOrder(4, 2, seed=0, balance=True)

    assert order.count_steps(make_index(0)) == 0
    assert share_padding(make_index(3), EpochOrder(4, 2, seed=0), 0, 1, 1) == 0.0


def test_micro_batches_are_cut_longest_first() -> None:
    assert cut_micro_batches([5, 9, 7, 9, 1], 2) == [[1, 3], [2, 0], [4]]
    assert cut_micro_batches([5, 9], 8) == [[1, 0]]
    assert cut_micro_batches([], 4) == []
