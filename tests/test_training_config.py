from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from judgetrace.config import load_config
from judgetrace.training.config import TrainRaterConfig

JOBS = Path(__file__).parents[1] / "jobs"
SHIPPED = sorted(file for file in JOBS.glob("*.toml") if "train" in file.stem)


def make(**more: Any) -> TrainRaterConfig:
    """Sections are given as mappings."""
    return TrainRaterConfig(**{"corpus": "c", "traces": "t", "run": "r", "model": {"path": "base"}} | more)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_config_is_one(file: Path) -> None:
    load_config(TrainRaterConfig, "train_rater", [str(file)])


def test_the_recipe_is_the_papers() -> None:
    config = make()

    training = config.training
    assert (training.batch, training.learning_rate, training.warmup_steps, training.weight_decay) == (
        128,
        5e-5,
        100,
        0.01,
    )
    assert (config.lora.r, config.lora.alpha, config.validation.patience_steps) == (16, 32, 100)
    assert config.traces == ("t",)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"training": {"batch": 48}}, "training.batch 48 is no multiple of data.lanes 32"),
        ({"training": {"batch": 16}, "workers": {"num_workers": 17}}, "17 are more than the 16 lanes"),
        ({"workers": {"num_workers": 4, "max_workers": 33}}, "33 are more than the 32 lanes"),
        ({"workers": {"num_workers": 4, "max_workers": 2}}, "max_workers 2 is less than num_workers 4"),
        ({"full_weights": True, "output": {"form": "adapter"}}, "set full_weights = false"),
        ({"thinking": {"format": "parser", "parser": "qwen3"}}, "use 'tags'"),
        ({"model": {"path": "base", "adapter": "a"}}, "train on top of a merged model"),
        ({"traces": []}, "traces"),
        ({"training": {"seed": -1}}, "training.seed"),
        ({"training": {"lr": 1.0}}, "training.lr"),
        ({"data": {"weight_cap": 0.5}}, "data.weight_cap"),
    ],
)
def test_a_config_that_cannot_work_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(**sections)

    assert said in str(caught.value)


def test_a_small_batch_has_as_many_lanes_as_examples() -> None:
    assert make(training={"batch": 16}).num_lanes == 16
    assert make(training={"batch": 1}).num_lanes == 1
    assert make().num_lanes == 32
    assert make(data={"lanes": 64}).num_lanes == 64


@pytest.mark.parametrize(
    ("target", "form", "thinks"),
    [
        ("traces", "plain", True),
        ("traces", "tags", True),
        ("label", "none", False),
        ("first_draw", "plain", True),
        ("shuffled_traces", "plain", True),
        ("label", "plain", False),
        ("label_first", "plain", False),
    ],
)
def test_a_rater_thinks_before_it_rates_unless_it_learns_labels_first(target: str, form: str, thinks: bool) -> None:
    assert make(data={"target": target}, thinking={"format": form}).thinks is thinks


@pytest.mark.parametrize("target", ["traces", "label_first", "first_draw", "shuffled_traces"])
def test_a_trace_without_a_form_of_thinking_is_refused_instead_of_left_out(target: str) -> None:
    with pytest.raises(ValueError, match=r"leaves nothing of data\.target"):
        make(data={"target": target}, thinking={"format": "none"})


def test_the_contract_holds_what_checkpoints_depend_on_and_not_how_long_or_where_training_runs() -> None:
    before = make().contract()

    free = [
        {"training": {"max_epochs": 3.0, "max_steps": 7, "micro_batch": 1, "activation_checkpointing": True}},
        {"workers": {"num_workers": 8}},
        {"validation": {"every_steps": 7, "patience_steps": 3}},
        {"output": {"dtype": "float32"}},
        {"run": "elsewhere"},
    ]
    assert all(make(**sections).contract() == before for sections in free)
    bound = [
        {"training": {"learning_rate": 1e-4}},
        {"training": {"batch": 64}},
        {"data": {"target": "label"}},
        {"data": {"lanes": 16}},
        {"lora": {"r": 8}},
        {"full_weights": True},
        {"traces": ["other"]},
        {"thinking": {"format": "tags"}},
        {"model": {"path": "other"}},
        {"validation": {"rating": "sampled"}},
        {"validation": {"max_items": 8}},
        {"validation": {"max_new_tokens": 24}},
    ]
    contracts = [make(**sections).contract() for sections in bound]
    assert all(contract != before for contract in contracts)
    assert all(a != b for n, a in enumerate(contracts) for b in contracts[:n])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"verified": True}, "verified = true needs `verification`"),
        ({"verified": True, "verification": "v", "target": "first_draw"}, "draws that nobody verifies"),
        ({"weights": "inverse_acceptance", "target": "first_draw"}, "leave out `weights`"),
        ({"weights": "inverse_acceptance", "balance": True}, "balance gives rare labels their share already"),
    ],
)
def test_choices_of_traces_that_do_not_go_together_are_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make(data=data)


def test_what_earlier_versions_could_not_choose_is_null_in_the_contract_by_default() -> None:
    """A run of before it has none of these keys, and null counts as missing."""
    names = ("data.verification", "data.verified", "data.max_hinted_share")
    assert [make().contract()[name] for name in names] == [None, None, None]
    changed = make(data={"verification": "v", "verified": True, "max_hinted_share": 0.5}).contract()
    assert [changed[name] for name in names] == [["v"], True, 0.5]
