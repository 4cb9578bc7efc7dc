"""Make DeepSpeed's engine of a base, an adapter and the recipe. Knows no data and no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from judgetrace.engine import ModelConfig
from judgetrace.training.build_lock import LEFT_OUT
from judgetrace.training.config import LoraConfig, TrainingConfig
from judgetrace.training.deepspeed_config import zero_stage
from judgetrace.training.loss import LevelTarget, RaterModule
from judgetrace.training.models import add_adapter, load_base
from judgetrace.training.order import EpochOrder
from judgetrace.training.shared_prefix import can_share_prefix


@dataclass(frozen=True)
class Passes:
    """How a worker goes through its share of a step."""

    micro_batch: int
    """Examples in a pass, at most."""
    accumulated: int
    """Passes before the optimizer steps; the same in all workers, whatever their shares."""


def share_step(order: EpochOrder, workers: int, micro_batch: int) -> Passes:
    """Compute the passes of the worker with the largest share of a step."""
    share = math.ceil(order.lanes / workers) * (order.batch // order.lanes)
    micro = min(micro_batch, share)
    return Passes(micro, math.ceil(share / micro))


def make_engine(
    model: ModelConfig,
    adapter: LoraConfig | None,
    training: TrainingConfig,
    *,
    config: Mapping[str, Any],
    targets: Sequence[LevelTarget],
    on_gpu: bool,
) -> Any:
    """Make the engine; torch's process group must be there.

    config   a completed DeepSpeed config
    targets  for the ordinal loss, by label; none turns it off
    """
    import deepspeed

    _leave_out_shm_comm()
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", dist_init_required=False)
    rater = add_adapter(load_base(model, torch.bfloat16 if on_gpu else torch.float32), adapter, training.seed)
    if training.activation_checkpointing:
        if adapter is not None:
            # The frozen embedding's output needs a gradient, or nothing behind it has one.
            rater.enable_input_require_grads()
        rater.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Workers that share a model's parts go through it equally often, whatever their examples begin with; activations
    # that are computed again leave no keys and values.
    shares_prefix = zero_stage(config) < 3 and not training.activation_checkpointing and can_share_prefix(rater)
    module = RaterModule(rater, targets, shares_prefix)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up(step, training.warmup_steps))
    engine, *_ = deepspeed.initialize(
        model=module, model_parameters=learned, optimizer=optimizer, lr_scheduler=schedule, config=dict(config)
    )
    return engine


def _leave_out_shm_comm() -> None:
    """Keep DeepSpeed from compiling what training has no use for: minutes, on each machine.

    That is all that it asks this table, which it would fill by trying all its extensions.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {LEFT_OUT: False}


def warm_up(step: int, warmup_steps: int) -> float:
    """Compute the share of the learning rate in a step, counted from 0: it rises evenly, then stays."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
