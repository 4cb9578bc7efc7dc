from __future__ import annotations

import json
import tomllib
from typing import Any

import yaml

from judgetrace.training.card import write_card
from judgetrace.training.config import TrainRaterConfig


def make_facts(**more: Any) -> dict[str, Any]:
    config = TrainRaterConfig(corpus="corpus", traces=("runs/a", "runs/b"), run="runs/rater", model={"path": "base"})
    facts = {
        "base": {"path": "base", "revision": None, "license": "apache-2.0"},
        "corpus": {
            "id": "3f5a",
            "splits": {
                "rule": {"train": 0.7, "validation": 0.2, "test": 0.1, "seed": 3},
                "group": "prompt",
                "units": {"test": 9, "train": 13000, "validation": 1700},
            },
            "validation_items": 256,
        },
        "config": config.model_dump(mode="json"),
        "data": {
            "examples": 12345,
            "skipped": {"overlong": 7, "not_accepted": 1200},
            "labels": {"-4": 5000, "4": 7345},
        },
        "training": {"steps": 1200, "best_step": 1100, "epochs": 12.5},
        "untuned": {"sampled_tau": None, "expected_tau": 0.1},
        "best": {"step": 1100, "loss": 0.5, "sampled_tau": 0.25, "expected_tau": 0.5},
        "command": '[model]\npath = "runs/rater/rater"',
    }
    return facts | more


def test_the_head_of_a_card_is_yaml_with_base_and_licence() -> None:
    head = yaml.safe_load(write_card(make_facts()).split("---")[1])

    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "base"


def test_a_card_states_data_training_and_adapter() -> None:
    card = write_card(make_facts())

    for said in (
        "**Licence of the base:** apache-2.0",
        "`traces`, split `train` of `corpus`",
        "traces from `runs/a`, `runs/b`",
        "`3f5a`; groups (column `prompt`) split by a hash with seed 3 in shares of train 0.7, validation 0.2, test 0.1",
        "units: test 9, train 13,000, validation 1,700",
        "Of 256 items:",
        "12,345; left out: 1,200 not_accepted, 7 overlong",
        "-4: 5,000, 4: 7,345",
        "1,200 steps of 128 examples (12.50 epochs)",
        "those of step 1,100",
        "LoRA, r 16, alpha 32, on all-linear; merged into the weights",
    ):
        assert said in card


def test_a_card_has_the_metrics_that_were_measured_of_both() -> None:
    lines = write_card(make_facts()).splitlines()

    rows = [line for line in lines if line.startswith("| ")]
    assert rows == [
        "| metric | untuned | tuned |",
        "| sampled_tau | undefined | 0.250 |",
        "| expected_tau | 0.100 | 0.500 |",
    ]


def test_a_card_without_validation_says_so() -> None:
    card = write_card(make_facts(untuned=None, best=None))

    assert "Not measured: the corpus has no validation split, or validation was off. Measure agreement on" in card
    assert "chose the step" not in card


def test_a_card_of_a_rater_that_learned_the_validation_split_says_that_and_not_that_there_is_none() -> None:
    facts = make_facts(untuned=None, best=None)
    facts["config"]["data"]["split"] = "validation"

    card = write_card(facts)

    assert "Not measured: the rater was trained on the validation split. Measure agreement on the test split." in card
    assert "no validation split" not in card


def test_a_base_whose_folder_states_no_licence_is_said_to() -> None:
    card = write_card(make_facts(base={"path": "base", "revision": None, "license": None}))

    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    assert "not stated by the base's folder or hub" in card


def test_all_weights_and_an_adapter_alone_are_told_apart() -> None:
    facts = make_facts()
    whole = facts | {"config": facts["config"] | {"full_weights": True}}
    alone = facts | {"config": facts["config"] | {"output": {"form": "adapter"}}}

    assert "none, all weights were trained" in write_card(whole)
    assert "in this folder, without its base" in write_card(alone)


def test_config_and_command_of_a_card_can_be_read() -> None:
    facts = make_facts()
    card = write_card(facts)

    assert json.loads(card.split("```json")[1].split("```")[0]) == facts["config"]
    assert tomllib.loads(card.split("```toml")[1].split("```")[0]) == {"model": {"path": "runs/rater/rater"}}


def test_a_rater_that_skipped_nothing_says_none() -> None:
    facts = make_facts()

    assert "left out: none" in write_card(facts | {"data": facts["data"] | {"skipped": {}}})
