"""DeepSpeed's own config: a file that says how states are shared out, completed by what the job knows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from judgetrace.config import UserError
from judgetrace.storage import Folder

FILLED_IN = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
"""What the job says itself: from [training], and from whether workers have GPUs."""


def read_deepspeed_config(path: str) -> dict[str, Any]:
    """Read a DeepSpeed config. Raises UserError for one that can't be used."""
    folder, _, name = path.rpartition("/")
    try:
        config = json.loads(Folder(folder or ".").read_bytes(name))
    except FileNotFoundError as error:
        raise UserError(f"deepspeed = {path}: no such file; cluster/deepspeed has some to choose from") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"deepspeed = {path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"deepspeed = {path}: found a {type(config).__name__}; expected a JSON object")
    taken = [name for name in FILLED_IN if name in config]
    if taken:
        raise UserError(f"deepspeed = {path}: remove {taken}; the job fills them in from [training] and [workers]")
    config = _drop_nulls(config)
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if not isinstance(zero, dict) or stage not in (1, 2, 3):
        raise UserError(f"deepspeed = {path}: zero_optimization.stage is {stage!r}; expected 1, 2 or 3")
    for name in ("offload_optimizer", "offload_param"):
        if not isinstance(zero.get(name, {}), dict):
            raise UserError(f"deepspeed = {path}: zero_optimization.{name} is {zero[name]!r}; expected an object")
    autos = list(_find_autos(config))
    if autos:
        raise UserError(
            f"deepspeed = {path}: {', '.join(autos)} is 'auto', which transformers' Trainer fills in and this job does "
            "not\nGive a value, or leave it out for DeepSpeed's own default."
        )
    return config


def _drop_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is null: DeepSpeed takes it for its default."""
    given = {name: value for name, value in config.items() if value is not None}
    return {name: _drop_nulls(value) if isinstance(value, Mapping) else value for name, value in given.items()}


def _find_autos(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in config.items():
        if value == "auto":
            yield f"{above}{name}"
        elif isinstance(value, Mapping):
            yield from _find_autos(value, f"{above}{name}.")


def zero_stage(config: Mapping[str, Any]) -> int:
    """Return the ZeRO stage of a config."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def offloads(config: Mapping[str, Any]) -> bool:
    """Whether optimizer states lie in a worker's main memory instead of its GPU's."""
    return str(config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")) != "none"


def offloads_parameters(config: Mapping[str, Any]) -> bool:
    """Whether parameters lie there too."""
    return str(config.get("zero_optimization", {}).get("offload_param", {}).get("device", "none")) != "none"


def complete_config(
    config: Mapping[str, Any],
    *,
    micro_batch: int,
    accumulated: int,
    max_grad_norm: float,
    on_gpu: bool,
    universal: bool = False,
) -> dict[str, Any]:
    """Complete a config for workers that accumulate so many micro-batches: bf16 on GPUs, fp32 on CPUs.

    `universal` says that a checkpoint of another number of workers is to be loaded.
    """
    return {
        # The optimizer is torch's AdamW in every case: the same recipe on a laptop and on a cluster.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        **config,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulated,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": on_gpu},
        "checkpoint": {**config.get("checkpoint", {}), "load_universal": universal},
    }
