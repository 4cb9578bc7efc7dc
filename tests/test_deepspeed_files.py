"""The files of cluster/deepspeed, against DeepSpeed's own config models."""

from __future__ import annotations

from pathlib import Path

import pytest

from judgetrace.training.deepspeed_config import complete_config, read_deepspeed_config
from judgetrace.training.outlook import SHARINGS, read_sharing

FILES = sorted((Path(__file__).parents[1] / "cluster" / "deepspeed").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_deepspeed_knows_every_key_of_a_file(file):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = read_deepspeed_config(str(file))
    # Its models refuse unknown fields, those of nested sections too.
    parsed = DeepSpeedZeroConfig(**config["zero_optimization"])
    assert parsed.stage == config["zero_optimization"]["stage"]
    assert parsed.contiguous_gradients
    assert set(config) == {"zero_optimization", "steps_per_print"}


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_deepspeed_takes_a_file_as_the_job_completes_it(file, on_gpu):
    from deepspeed.runtime.config import DeepSpeedConfig

    config = read_deepspeed_config(str(file))
    whole = complete_config(config, micro_batch=4, accumulated=3, max_grad_norm=1.0, on_gpu=on_gpu)
    parsed = DeepSpeedConfig(whole)
    assert (parsed.train_micro_batch_size_per_gpu, parsed.gradient_accumulation_steps) == (4, 3)
    assert parsed.bfloat16_config.enabled == on_gpu
    assert parsed.zero_force_ds_cpu_optimizer is False


def test_the_dry_run_knows_what_each_file_does():
    assert {file.stem: read_sharing(read_deepspeed_config(str(file))) for file in FILES} == SHARINGS
