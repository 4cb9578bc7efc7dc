"""What train_rater's losses and gradients are held against: a plain loop over the same batches, in one process.

It shares the batches with the job and nothing else: transformers' model and peft's adapter in fp32, an example at a
time without any padding, cross-entropy of the answer's tokens by hand, torch's AdamW and clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Batch = Sequence[tuple[list[int], int]]
"""The examples of a step: tokens, and how many of them are the prompt."""


def read_batches(config: str, num_steps: int, num_cpus: float) -> list[Batch]:
    """Read the steps of a run of train_rater as one worker of one would see them. Takes a running Ray."""
    import ray

    from judgetrace.config import load_config
    from judgetrace.training.config import TrainRaterConfig
    from judgetrace.training.feed import FeedSpec, WorkerFeed
    from judgetrace.training.inputs import TrainInputs

    inputs = TrainInputs(load_config(TrainRaterConfig, "train_rater", [config]))
    spec = FeedSpec(inputs.config.run, tuple(inputs.shards), inputs.reading, inputs.encoding, inputs.order)

    def read() -> list[Batch]:
        steps = WorkerFeed(spec, 0, 1).steps(0, num_steps)
        return [[(example.tokens.tolist(), example.num_prompt) for example in step] for step in steps]

    return ray.get(ray.remote(num_cpus=num_cpus)(read).remote())


def train_plainly(
    batches: Sequence[Batch],
    model_folder: Path,
    *,
    learning_rate: float,
    warmup_steps: int,
    seed: int = 0,
    full_weights: bool = False,
    tell: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train in this process; returns loss (nats a learned token) and gradient norm before clipping of each step."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=torch.float32)
    if not full_weights:
        model = _wrap_in_adapter(model, seed)
    model.train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=0.01)
    curve = []
    for number, batch in enumerate(batches, start=1):
        num_learned = sum(len(tokens) - num_prompt for tokens, num_prompt in batch)
        total = 0.0
        for tokens, num_prompt in batch:
            ids = torch.tensor([tokens])
            log_probabilities = model(input_ids=ids).logits[0, num_prompt - 1 : -1].log_softmax(dim=-1)
            loss = -log_probabilities.gather(1, ids[0, num_prompt:, None]).sum() / num_learned
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(learned, 1.0).item()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, number / max(1, warmup_steps))
        optimizer.step()
        optimizer.zero_grad()
        curve.append({"loss": total, "grad_norm": norm})
        tell(f"plain step {number}: loss {total:.5f}")
    return curve


def _wrap_in_adapter(model: Any, seed: int) -> Any:
    """Wrap a model in the adapter that the job has by default: rank 16, alpha 32, on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
