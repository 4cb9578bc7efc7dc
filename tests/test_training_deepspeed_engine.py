"""DeepSpeed's engine, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train_runs import ROOT, make_tiny_model

SCRIPT = """
import sys
import torch.distributed as dist
from judgetrace.engine import ModelConfig
from judgetrace.training.config import LoraConfig, TrainingConfig
from judgetrace.training.deepspeed_config import complete_config, read_deepspeed_config
from judgetrace.training.deepspeed_engine import make_engine

model, meeting, deepspeed = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
config = complete_config(
    read_deepspeed_config(deepspeed), micro_batch=1, accumulated=1, max_grad_norm=1.0, on_gpu=False
)
engine = make_engine(ModelConfig(path=model), LoraConfig(), TrainingConfig(), config=config, targets=[], on_gpu=False)
print("engine:", type(engine).__name__)
"""


@pytest.mark.served
@pytest.mark.parametrize("stage", ["zero1", "zero3_offload"])
def test_nothing_is_compiled_before_training_begins(tmp_path: Path, stage: str) -> None:
    model, extensions = make_tiny_model(tmp_path / "tiny"), tmp_path / "extensions"
    command = [sys.executable, "-c", SCRIPT, str(model), str(tmp_path / "meeting")]
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(extensions), "DS_ACCELERATOR": "cpu"}
    environment |= {"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT}", "LOCAL_RANK": "0"}
    command.append(str(ROOT / f"cluster/deepspeed/{stage}.json"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert "engine: DeepSpeedEngine" in done.stdout, done.stderr
    assert not [path for path in extensions.rglob("*") if path.is_file()]
