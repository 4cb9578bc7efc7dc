"""Batches and losses, against plain computations with a small random model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from judgetrace.level_tree import LevelTree
from judgetrace.training.batches import NOT_LEARNED, lay_out, pad_left
from judgetrace.training.feed import Example
from judgetrace.training.loss import LevelTarget, RaterModule, score_levels
from judgetrace.training.order import cut_micro_batches
from tests.small_rater import make_model

CPU = torch.device("cpu")
PAD = 0
CLOSE = 9
# Levels "1", "10" and "-4": 1 is scored with its closing, since it begins 10.
TREE = LevelTree.grow([([1], [1, CLOSE]), ([1, 2], [1, 2, CLOSE]), ([7, 4], [7, 4, CLOSE])])
PATHS = [[1, CLOSE], [1, 2], [7, 4]]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(50).eval()


def make_examples(num: int, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    made = []
    for n in range(num):
        prompt, answer = int(random.integers(3, 12)), int(random.integers(4, 20))
        tokens = random.integers(1, 50, prompt + answer).astype(np.int32)
        made.append(Example(tokens, prompt, prompt + int(random.integers(1, answer)), n % 3))
    return made


def log_probabilities(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Of what comes after each token, for one sequence alone."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([list(tokens)])).logits[0].double(), dim=-1)


def answer_nats(model: Any, example: Example) -> float:
    """Token by token, over the answer alone."""
    found = log_probabilities(model, example.tokens.tolist())
    return -sum(float(found[n - 1, example.tokens[n]]) for n in range(example.num_prompt, len(example.tokens)))


def level_distribution(model: Any, example: Example) -> list[float]:
    """Path by path, each sequence alone; sums to 1."""
    prefix = example.tokens[: example.rating_at].tolist()
    weights = []
    for path in PATHS:
        found = log_probabilities(model, [*prefix, *path])
        weights.append(math.exp(sum(float(found[len(prefix) + n - 1, token]) for n, token in enumerate(path))))
    return [weight / sum(weights) for weight in weights]


def compute(module: Any, examples: Sequence[Example], weights: Sequence[float] = (1.0, 1.0, 1.0)) -> list[float]:
    sums: list[float] = torch.stack(module(lay_out(examples, weights, PAD, CPU), PAD)).tolist()
    return sums


def test_examples_are_padded_on_the_right_and_only_answers_are_learned() -> None:
    examples = [
        Example(np.array([5, 6, 7, 8, 9], np.int32), 3, 4, 0),
        Example(np.array([5, 6, 2], np.int32), 1, 2, 2),
    ]

    batch = lay_out(examples, [1.0, 9.0, 0.5], PAD, CPU)

    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9], [5, 6, 2, PAD, PAD]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    n = NOT_LEARNED
    assert batch.learned.tolist() == [[n, n, n, 8, 9], [n, 6, 2, n, n]]
    assert batch.weights.tolist() == [1.0, 0.5]
    assert (batch.rating_at.tolist(), batch.labels.tolist()) == ([4, 2], [0, 2])
    assert batch.num_answer_tokens == 2 * 1.0 + 2 * 0.5


def test_prompts_are_padded_on_the_left_and_positions_count_their_tokens() -> None:
    tokens, mask, positions = pad_left([[5, 6, 7], [8]], PAD, CPU)

    assert tokens.tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_the_loss_is_the_cross_entropy_of_the_answers_tokens_alone(model: Any) -> None:
    examples = make_examples(6)

    cross_entropy, squared = compute(RaterModule(model), examples)

    assert cross_entropy == pytest.approx(sum(answer_nats(model, example) for example in examples), rel=1e-5)
    assert squared == 0.0


def test_the_loss_is_that_of_transformers_for_one_example(model: Any) -> None:
    (example,) = make_examples(1, seed=4)
    tokens = torch.tensor(example.tokens[None].astype(np.int64))
    labels = tokens.clone()
    labels[:, : example.num_prompt] = -100
    with torch.no_grad():
        mean = float(model(input_ids=tokens, labels=labels).loss)

    cross_entropy, _ = compute(RaterModule(model), [example])

    assert cross_entropy == pytest.approx(mean * (len(example.tokens) - example.num_prompt), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 8])
def test_losses_and_gradients_do_not_depend_on_micro_batches_and_padding(micro_batch: int) -> None:
    examples, weights = make_examples(8, seed=1), (0.5, 1.0, 2.0)
    targets = [LevelTarget(TREE, level) for level in range(3)]

    def learn(cuts: list[list[int]]) -> tuple[list[float], torch.Tensor]:
        module = RaterModule(make_model(50).train(), targets)
        sums = np.zeros(2)
        for cut in cuts:
            found = module(lay_out([examples[n] for n in cut], weights, PAD, CPU), PAD)
            (found[0] + found[1]).backward()
            sums += torch.stack(found).detach().numpy()
        return sums.tolist(), torch.cat([p.grad.ravel() for p in module.parameters()])

    sums, gradient = learn(cut_micro_batches([len(e.tokens) for e in examples], micro_batch))

    whole, expected = learn([list(range(8))])
    assert sums == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_each_example_counts_with_the_weight_of_its_label(model: Any) -> None:
    examples, weights = make_examples(6), (0.25, 1.0, 3.0)

    cross_entropy, _ = compute(RaterModule(model), examples, weights)

    assert cross_entropy == pytest.approx(
        sum(weights[example.label] * answer_nats(model, example) for example in examples), rel=1e-5
    )


@pytest.mark.parametrize("ordinal", [False, True])
def test_an_empty_micro_batch_adds_nothing_and_has_a_finite_gradient(ordinal: bool) -> None:
    module = RaterModule(make_model(50).train(), [LevelTarget(TREE, 0)] if ordinal else ())
    batch = lay_out([], (2.0,), PAD, CPU)

    cross_entropy, squared = module(batch, PAD)
    (cross_entropy + squared).backward()

    assert (cross_entropy.item(), squared.item(), batch.num_answer_tokens, batch.weights.sum().item()) == (0, 0, 0, 0)
    gradients = [p.grad for p in module.parameters()]
    assert all(g is not None and bool(torch.all(g == 0)) for g in gradients), "every parameter takes part, with 0"


def test_levels_are_scored_as_paths_one_at_a_time_without_padding(model: Any) -> None:
    examples = make_examples(5, seed=2)
    prefixes = [example.tokens[: example.rating_at].tolist() for example in examples]

    with torch.no_grad():
        found = score_levels(model, prefixes, [TREE] * 5, PAD)

    assert [list(path) for path in TREE.sequences] == PATHS
    for prefix, scored in zip(prefixes, found, strict=True):
        for path, score in zip(PATHS, scored.tolist(), strict=True):
            alone = log_probabilities(model, [*prefix, *path])
            expected = sum(float(alone[len(prefix) + n - 1, token]) for n, token in enumerate(path))
            assert score == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_prefixes_of_different_scales_are_scored_together(model: Any) -> None:
    yes_no = LevelTree.grow([([20], [20, CLOSE]), ([21], [21, CLOSE])])

    with torch.no_grad():
        together = score_levels(model, [[3, 4], [5, 6, 7]], [yes_no, TREE], PAD)
        alone = [score_levels(model, [[3, 4]], [yes_no], PAD)[0], score_levels(model, [[5, 6, 7]], [TREE], PAD)[0]]

    assert [len(scored) for scored in together] == [2, 3]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_squared_error_is_that_of_the_expected_position(model: Any) -> None:
    examples, weights = make_examples(6, seed=3), (0.5, 1.0, 2.0)
    # Labels 0, 1, 2 mean the levels at positions 2, 0, 1.
    positions = [2, 0, 1]
    module = RaterModule(model, [LevelTarget(TREE, position) for position in positions])

    _, squared = compute(module, examples, weights)

    expected = 0.0
    for example in examples:
        p = level_distribution(model, example)
        mean = 0 * p[0] + 1 * p[1] + 2 * p[2]
        expected += weights[example.label] * (mean - positions[example.label]) ** 2
    assert squared == pytest.approx(expected, rel=1e-4)


def test_the_squared_error_reaches_the_weights() -> None:
    module = RaterModule(make_model(50).train(), [LevelTarget(TREE, 2)] * 3)
    batch = lay_out(make_examples(4), (1.0, 1.0, 1.0), PAD, CPU)

    before = module(batch, PAD)[1]
    before.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.sub_(1e-3 * parameter.grad)
    after = module(batch, PAD)[1]

    assert after.item() < before.item()


VOCABULARY = 49152


class FixedModel(torch.nn.Module):
    """Gives the same logits to every batch."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, logits_to_keep: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[:, logits_to_keep])


def make_long_batch(chance: np.random.Generator) -> list[Example]:
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
    examples = make_long_batch(np.random.default_rng(0))
    logits = 3 * torch.randn(3, 30, VOCABULARY, generator=torch.Generator().manual_seed(0))
    found, squared = RaterModule(FixedModel(logits))(lay_out(examples, [1.0], 0, CPU), 0)
    num_learned = sum(len(example.tokens) - example.num_prompt for example in examples)
    assert found.item() / num_learned == pytest.approx(sum_by_hand(logits, examples) / num_learned, abs=1e-5)
    assert squared.item() == 0
