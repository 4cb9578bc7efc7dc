from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judgetrace.config import UserError
from judgetrace.training.deepspeed_config import complete_config, offloads, read_deepspeed_config, zero_stage

SHIPPED = sorted((Path(__file__).parents[1] / "cluster" / "deepspeed").glob("*.json"))


def write(folder: Path, config: Any) -> str:
    file = folder / "own.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return str(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_is_of_the_stage_that_its_name_says(file: Path) -> None:
    config = read_deepspeed_config(str(file))

    assert file.stem.split("_")[0] == f"zero{zero_stage(config)}"
    assert offloads(config) == ("offload" in file.stem)


def test_all_stages_are_shipped() -> None:
    assert {"zero1", "zero2", "zero3"} <= {file.stem for file in SHIPPED}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{not json", "not valid JSON"),
        ([1], "expected a JSON object"),
        ({"zero_optimization": {"stage": 4}}, "stage is 4; expected 1, 2 or 3"),
        ({}, "stage is 0; expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": "auto"}}, "stage is 'auto'; expected 1, 2 or 3"),
        ({"zero_optimization": None}, "stage is 0; expected 1, 2 or 3"),
        ({"zero_optimization": 2}, "stage is 2; expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_param": "cpu"}}, "offload_param is 'cpu'; expected an object"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}, "zero_optimization.reduce_bucket_size is"),
        ({"train_batch_size": "auto", "zero_optimization": {"stage": 1}}, r"remove \['train_batch_size'\]"),
        ({"bf16": {}, "optimizer": {}, "zero_optimization": {"stage": 1}}, r"remove \['optimizer', 'bf16'\]"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_its_path(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"^deepspeed = .*own\.json: .*{said}"):
        read_deepspeed_config(write(tmp_path, config))


def test_what_is_null_is_left_to_deepspeeds_default(tmp_path: Path) -> None:
    config = read_deepspeed_config(write(tmp_path, {"zero_optimization": {"stage": 2, "offload_optimizer": None}}))

    assert config == {"zero_optimization": {"stage": 2}}
    assert not offloads(config)


def test_a_missing_config_says_where_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for path in ("none.json", str(tmp_path / "no" / "none.json")):
        with pytest.raises(UserError, match="no such file; cluster/deepspeed has some"):
            read_deepspeed_config(path)


def test_a_config_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"zero_optimization": {"stage": 2}})

    assert zero_stage(read_deepspeed_config("own.json")) == 2


def test_the_job_fills_in_the_batch_the_clipping_and_the_precision() -> None:
    own = {"zero_optimization": {"stage": 1}, "wall_clock_breakdown": True}

    found = complete_config(own, micro_batch=4, accumulated=8, max_grad_norm=0.5, on_gpu=True)

    assert found | own == found
    assert found["train_micro_batch_size_per_gpu"] == 4
    assert found["gradient_accumulation_steps"] == 8
    assert found["gradient_clipping"] == 0.5
    assert found["bf16"] == {"enabled": True}
    assert complete_config(own, micro_batch=1, accumulated=1, max_grad_norm=1, on_gpu=False)["bf16"] == {
        "enabled": False
    }
    assert own == {"zero_optimization": {"stage": 1}, "wall_clock_breakdown": True}
