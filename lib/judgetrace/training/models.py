"""Load a base, put an adapter on it, and write what training made of it. Knows no DeepSpeed and no Ray."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from judgetrace.engine import ModelConfig
from judgetrace.model_store import fetch_folder
from judgetrace.training.config import LoraConfig


def load_base(model: ModelConfig, dtype: torch.dtype | None = None) -> Any:
    """Load a base, in the dtype that its config or else its weights have unless told; one by URL is fetched."""
    from transformers import AutoModelForCausalLM

    folder = fetch_folder(model.path)
    base = AutoModelForCausalLM.from_pretrained(str(folder), revision=model.revision, dtype=dtype or "auto")
    base.config.use_cache = False
    return base


def outline_model(model: ModelConfig, adapter: LoraConfig | None) -> Any:
    """Make a model for training without its weights, on torch's meta device: it has shapes, and takes no memory.

    Of a base by URL all but the weights is fetched.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = fetch_folder(model.path, weights=False)
    config = AutoConfig.from_pretrained(str(folder), revision=model.revision)
    with torch.device("meta"):
        return add_adapter(AutoModelForCausalLM.from_config(config), adapter, seed=0)


def add_adapter(base: Any, adapter: LoraConfig | None, seed: int) -> Any:
    """Put a new LoRA adapter on a base, its first values a function of the seed; None leaves all weights to train."""
    if adapter is None:
        return base
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    modules = adapter.target_modules
    peft_config = PeftConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(base, peft_config)


def count_parameters(model: Any) -> tuple[int, int]:
    """Count parameters: all, and those that are trained."""
    sizes = [(p.ds_numel if hasattr(p, "ds_numel") else p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def write_model(
    model: Any,
    tokenizer: Any,
    state: Mapping[str, Any],
    folder: Path,
    *,
    base: ModelConfig,
    merge: bool,
    dtype: torch.dtype,
) -> None:
    """Write a model with trained weights, and its tokenizer, as a Hugging Face folder.

    model  the base with its adapter, as it was made for training; its base in any dtype
    state  the trained weights by the model's own names, in fp32, each a tensor or what gives one by `contiguous`, as
           those that DeepSpeed has not gathered yet; others keep their values
    base   where the base came from, for whoever loads the adapter alone
    """
    has_adapter = hasattr(model, "peft_config")
    _fill_weights(model, state, torch.float32 if has_adapter else dtype)
    if has_adapter and merge:
        model = _merge_adapter(model, dtype)
    model = model.to(dtype)
    # The tied output layer is the embedding itself, not a second copy of it.
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    if not has_adapter or merge:
        model.config.use_cache = True
    model.save_pretrained(folder)
    if has_adapter and not merge:
        _name_base(folder / "adapter_config.json", base)
    tokenizer.save_pretrained(folder)


def _fill_weights(model: Any, state: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Put trained weights into a model, one after the other, as `dtype`."""
    own = model.state_dict(keep_vars=True)
    unexpected = sorted(state.keys() - own.keys())
    missing = sorted({name for name, p in model.named_parameters() if p.requires_grad} - state.keys())
    assert not unexpected, f"the checkpoint has weights that the model lacks: {unexpected[:5]}"
    assert not missing, f"the checkpoint lacks trained weights: {missing[:5]}"
    for name, lazy in state.items():
        weights = lazy.contiguous().detach()
        assert weights.shape == own[name].shape, f"{name}: {weights.shape} in the checkpoint, {own[name].shape} here"
        # A copy: the checkpoint's may be a part of one long tensor, which would stay for its sake.
        own[name].data = weights.to(dtype if weights.is_floating_point() else weights.dtype, copy=True)


def _merge_adapter(model: Any, dtype: torch.dtype) -> Any:
    """Merge a LoRA adapter into its base, in fp32 one layer after the other, which is then `dtype`; returns the base.

    So a weight is rounded once, and no more than one layer takes the memory of fp32.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            weight.data = weight.data.float()
            layer.merge()
            weight.data = weight.data.to(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")
        return model.merge_and_unload()


def _name_base(adapter_config: Path, base: ModelConfig) -> None:
    """Name an adapter's base as the run did; peft names the folder it was loaded from, maybe one machine's cache."""
    found = json.loads(adapter_config.read_text(encoding="utf-8"))
    found |= {"base_model_name_or_path": base.path, "revision": base.revision}
    adapter_config.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
