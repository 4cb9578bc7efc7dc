"""The config that asks a tuned rater as it was taught, read as rate_items reads it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from judgetrace.rating_config import RateItemsConfig, check_scales
from judgetrace.scale import ScaleConfig
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.rater_config import write_rating_config


def read_back(has_nominal: bool = False, context: int | None = 131_072, **sections: Any) -> RateItemsConfig:
    given: dict[str, Any] = {"corpus": "corpora/x", "traces": "runs/t", "run": "runs/r", "model": {"path": "base"}}
    text = write_rating_config(TrainRaterConfig(**(given | sections)), has_nominal=has_nominal, context=context)
    return RateItemsConfig.model_validate(tomllib.loads(text))


def test_the_rater_is_asked_greedily_as_in_validation_and_otherwise_by_the_defaults() -> None:
    config = read_back()

    assert (config.corpus, config.model.path, config.model.adapter) == ("corpora/x", "runs/r/rater", None)
    # What its folder is called says nothing: every tuned rater's is.
    assert config.rater == "r"
    assert (config.decoding.rating, config.decoding.temperature) == ("expected", 0.0)
    assert config.guideline is None
    assert (config.prompt.model_dump(exclude_defaults=True), config.thinking.format) == ({}, "plain")


def test_all_that_its_prompt_was_made_of_is_there() -> None:
    prompt = {
        "template": 'my "own".jinja',
        "system": "You rate.\nBe fair: \\o/ ½",
        "severity": "strict",
        "on_overlong": "shorten",
        "chat_template_args": {"enable_thinking": False, "depth": 2},
    }
    config = read_back(prompt=prompt, guideline="mine.md", thinking={"format": "tags", "tags": ["[T]", "[/T]"]})

    assert config.prompt.model_dump() == prompt
    assert config.guideline == "runs/r/rater/guideline.md"
    assert (config.thinking.format, config.thinking.tags) == ("tags", ("[T]", "[/T]"))


def test_a_rater_that_learned_labels_alone_is_asked_for_the_rating_at_once() -> None:
    config = read_back(data={"target": "label_first"}, thinking={"format": "tags", "tags": ["[T]", "[/T]"]})

    assert (config.thinking.format, config.thinking.tags) == ("none", None)


def test_a_nominal_scale_has_no_expectation_to_ask_for() -> None:
    config = read_back(has_nominal=True)

    check_scales(config.decoding, ScaleConfig(values=("red", "blue"), type="nominal"))
    assert config.decoding.rating == "sampled"


def test_an_adapter_is_asked_on_top_of_its_base() -> None:
    config = read_back(model={"path": "org/base", "revision": "v2"}, output={"form": "adapter"})

    assert config.model.model_dump() == {"path": "org/base", "revision": "v2", "adapter": "runs/r/rater"}


def test_a_rater_that_was_trained_on_gpus_is_asked_on_one() -> None:
    on_gpus = read_back(workers={"num_workers": 8, "num_gpus": 0.5, "num_cpus": 4})
    without = read_back(workers={"num_workers": 8, "num_cpus": 4})

    assert (on_gpus.engine.num_gpus, on_gpus.engine.num_cpus) == (1, 4)
    assert without.engine.model_dump(exclude_defaults=True) == {}


@pytest.mark.parametrize(
    ("context", "max_tokens", "expected"),
    [(131_072, 4096, 8192), (131_072, 1000, 5096), (None, 1000, 5096), (5096, 1000, 5096)],
)
def test_on_a_gpu_it_takes_no_longer_context_than_it_learned_from_and_may_write(
    context: int | None, max_tokens: int, expected: int
) -> None:
    """It took its base's, up to 131,072 tokens, whose KV cache no GPU of 24 GB holds: the engine could not start."""
    config = read_back(context=context, workers={"num_gpus": 1}, data={"max_tokens": max_tokens})

    # By default it writes 4096 tokens at most.
    assert config.engine.args == {"max_model_len": expected}
    assert config.decoding.max_tokens == 4096


@pytest.mark.parametrize("num_gpus", [0, 1])
@pytest.mark.parametrize(
    ("context", "max_tokens", "expected"),
    [(5000, 1000, 4000), (4096, 4096, 2048), (2048, 1024, 1024), (512, 4096, 256)],
)
def test_an_answer_leaves_room_for_a_prompt_in_a_small_context(
    context: int, max_tokens: int, expected: int, num_gpus: int
) -> None:
    """The default of 4096 tokens was all that such a base takes or more: the engine could not start."""
    config = read_back(context=context, workers={"num_gpus": num_gpus}, data={"max_tokens": max_tokens})

    assert config.decoding.max_tokens == expected
    assert config.engine.args == ({"max_model_len": context} if num_gpus else {})
