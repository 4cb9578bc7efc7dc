"""What examples begin with is run once, and changes neither losses nor gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from judgetrace.level_tree import LevelTree
from judgetrace.training.batches import lay_out
from judgetrace.training.config import LoraConfig
from judgetrace.training.feed import Example
from judgetrace.training.loss import LevelTarget, RaterModule
from judgetrace.training.models import add_adapter
from judgetrace.training.shared_prefix import can_share_prefix, count_shared, lay_out_prompts, run_last
from tests.small_rater import make_model

CPU = torch.device("cpu")
TREE = LevelTree.grow([([1], [1, 9]), ([7, 4], [7, 4, 9])])
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def make_batch(guideline: int = 20) -> Any:
    """Three examples of unequal lengths that begin with the same `guideline` tokens."""
    random = np.random.default_rng(3)
    begin, rests = random.integers(10, 50, guideline), [random.integers(10, 50, n) for n in (9, 14, 6)]
    for n, rest in enumerate(rests):
        rest[0] = 10 + n
    examples = [
        Example(np.concatenate([begin, rest]).astype(np.int32), guideline + prompt, guideline + prompt + 1, n % 2)
        for n, (rest, prompt) in enumerate(zip(rests, (4, 3, 4), strict=True))
    ]
    return lay_out(examples, [0.5, 2.0], 0, CPU)


def learn(model: Any, batch: Any, shares: bool) -> tuple[list[float], torch.Tensor, list[tuple[int, ...]]]:
    """Returns losses, all gradients, and the shapes of the tokens that went through the model."""
    model.zero_grad()
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        shapes.append(tuple(given["input_ids"].shape))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    found = RaterModule(model, [LevelTarget(TREE, 0), LevelTarget(TREE, 1)], shares)(batch, 0)
    hook.remove()
    (found[0] + found[1]).backward()
    gradients = [p.grad.ravel() for p in model.parameters() if p.grad is not None]
    return torch.stack(found).tolist(), torch.cat(gradients), shapes


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2)])
def test_losses_and_gradients_are_those_of_whole_sequences(adapter: LoraConfig | None) -> None:
    model = add_adapter(make_model(50).train(), adapter, seed=0)
    if adapter is not None:
        # An adapter begins as nothing; then half of its weights have no gradient.
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))

    losses, gradient, shapes = learn(model, make_batch(), shares=True)

    expected, whole, unshared = learn(model, make_batch(), shares=False)
    assert unshared[0] == (3, 34)
    assert shapes[:2] == [(1, 20), (3, 14)], "the 20 tokens of the guideline once, then what is each example's own"
    assert losses == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradient, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_only_what_comes_before_the_first_learned_token_is_shared() -> None:
    """Equal examples: the token that foretells the first learned one is each example's own."""
    example = Example(np.arange(10, 40, dtype=np.int32), 25, 27, 0)

    _, _, shapes = learn(make_model(50).train(), lay_out([example] * 4, [1.0], 0, CPU), shares=True)

    assert shapes[:2] == [(1, 24), (4, 6)]


@pytest.mark.parametrize(
    ("rows", "limit", "shared"),
    [
        ([[1, 2, 3, 4], [1, 2, 5, 4]], 4, 2),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], 3, 3),
        ([[1, 2, 3, 4], [2, 2, 3, 4]], 4, 0),
        ([[1, 2, 3, 4]], 3, 0),
        ([[1, *range(20)], [1, *range(20, 40)]], 20, 0),
        ([[1, 2], [1, 2]], 0, 0),
    ],
)
def test_shared_tokens_are_counted_where_they_save_something(rows: list[list[int]], limit: int, shared: int) -> None:
    assert count_shared(torch.tensor(rows), limit) == shared


def test_models_that_forget_or_drop_out_share_nothing() -> None:
    assert can_share_prefix(make_model(50))
    assert can_share_prefix(add_adapter(make_model(50), LoraConfig(), seed=0))
    assert not can_share_prefix(add_adapter(make_model(50), LoraConfig(dropout=0.1), seed=0))
    assert not can_share_prefix(LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)))
    assert not can_share_prefix(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)))
    assert can_share_prefix(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)))


def test_what_follows_rows_of_unequal_lengths_is_that_of_each_alone() -> None:
    model = make_model(50).eval()
    begin = list(range(10, 30))
    rows = [[*begin, 31], [*begin, 32, 33, 34], [*begin, 31, 35]]

    with torch.no_grad():
        together = run_last(model, rows, 0, shares_prefix=True)
        alone = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]

    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


def test_answers_that_go_on_from_a_shared_prefix_are_those_of_whole_prompts() -> None:
    model = make_model(50).eval()
    rows = [[*range(10, 30), *rest] for rest in ([31], [32, 33, 34], [31, 35])]
    settings = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "eos_token_id": [49], "pad_token_id": 0}

    with torch.no_grad():
        shared, whole = (lay_out_prompts(model, rows, 0, shares) for shares in (True, False))
        assert shared["past_key_values"].get_seq_length() == 20
        written = [model.generate(**given, **settings)[:, -8:].tolist() for given in (shared, whole)]

    assert written[0] == written[1]
