"""What becomes of a trained model outside of Ray: an adapter's base, a licence, a full disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.training.config import LoraConfig, OutputConfig
from judgetrace.training.export import (
    EXPORT_TRIES,
    ExportSpec,
    await_export,
    describe_base,
    export_checkpoint,
    export_rater,
    measure_export,
)
from judgetrace.training.models import add_adapter, load_base, write_model
from tests.small_rater import make_model, make_tokenizer


def test_an_adapter_names_the_base_of_the_config_and_not_the_folder_that_it_was_fetched_into(tmp_path):
    base = make_model()
    base.name_or_path = "/home/someone/.cache/judgetrace/models/base-1f6a"
    model = add_adapter(base, LoraConfig(), seed=0)
    state = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
    source = ModelConfig(path="s3://bucket/base", revision="v2")
    write_model(model, make_tokenizer(), state, tmp_path, base=source, merge=False, dtype=torch.float32)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == ("s3://bucket/base", "v2")
    assert found["peft_type"] == "LORA"


def save_base(folder: Path, dtype: torch.dtype, *, is_tied: bool = False) -> ModelConfig:
    """Save a random Llama whose weights fill all bits of a dtype, and a tokenizer."""
    base = make_model()
    base.config.tie_word_embeddings = is_tied
    base.tie_weights()
    base.to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return ModelConfig(path=str(folder))


def train_at_random(model: Any) -> dict[str, torch.Tensor]:
    """Draw trained weights in fp32, parts of one long tensor as those of DeepSpeed's checkpoints are."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    flat = torch.randn(sum(p.numel() for p in trained.values()), generator=torch.Generator().manual_seed(5))
    parts = flat.split([p.numel() for p in trained.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(trained.items(), parts, strict=True)}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def expect_weights(base: ModelConfig, state: dict[str, torch.Tensor], adapter: LoraConfig | None) -> dict[str, Any]:
    """The whole model in fp32, with peft's own merge."""
    model = add_adapter(load_base(base, torch.float32), adapter, seed=0)
    model.load_state_dict(state, strict=False)
    whole = model if adapter is None else model.merge_and_unload()
    return dict(whole.state_dict())


def give_state(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    """Let DeepSpeed read a checkpoint in which a worker's module, which holds the model, has this state."""
    read = "deepspeed.utils.zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint"
    monkeypatch.setattr(read, lambda *_, **__: {f"model.{name}": weights for name, weights in state.items()})


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize(
    "adapter", [LoraConfig(), LoraConfig(r=3, alpha=5, target_modules=("lm_head", "q_proj")), None]
)
@pytest.mark.parametrize("output", ["bfloat16", "float32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_rater_made_of_its_base_as_it_is_has_the_very_weights_of_one_made_in_fp32(
    tmp_path, monkeypatch, dtype, output, adapter, is_tied
):
    base = save_base(tmp_path / "base", dtype, is_tied=is_tied)
    state = train_at_random(add_adapter(load_base(base), adapter, seed=0))
    expected = {name: w.to(getattr(torch, output)) for name, w in expect_weights(base, state, adapter).items()}
    give_state(monkeypatch, state)
    spec = ExportSpec(str(tmp_path / "run"), base, adapter, 0, OutputConfig(dtype=output), ())

    names = export_rater(spec, tmp_path, "state")

    assert "model.safetensors" in names
    found = read_weights(tmp_path / "run/rater")
    assert expected.keys() - found.keys() == ({"lm_head.weight"} if is_tied else set())
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in found)
    assert json.loads((tmp_path / "run/rater/config.json").read_text())["dtype"] == output


def test_weights_that_workers_of_zero_3_have_divided_are_put_together(tmp_path):
    from deepspeed.utils.zero_to_fp32 import GatheredTensor

    model = make_model()
    state = train_at_random(model)
    # Of each weight one worker has the first half, the other the second; no number of numbers here is odd.
    halves = [(w.flatten()[: w.numel() // 2], w.flatten()[w.numel() // 2 :]) for w in state.values()]
    flat = [torch.cat(parts) for parts in zip(*halves, strict=True)]
    divided, offset = {}, 0
    for name, weights in state.items():
        half = weights.numel() // 2
        groups, ends = [[own] for own in flat], [0, len(flat[0])]
        divided[name] = GatheredTensor(groups, ends, offset, half, weights.shape)
        offset += half

    settings = {"base": ModelConfig(path="base"), "merge": True, "dtype": torch.float32}
    write_model(model, make_tokenizer(), divided, tmp_path, **settings)

    found = read_weights(tmp_path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], weights) for name, weights in state.items())


def test_an_adapter_alone_has_the_very_weights_of_the_checkpoint(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    base = save_base(tmp_path / "base", torch.bfloat16)
    state = train_at_random(add_adapter(load_base(base), LoraConfig(), seed=0))
    give_state(monkeypatch, state)
    output = OutputConfig(form="adapter", dtype="float32")

    export_rater(ExportSpec(str(tmp_path / "run"), base, LoraConfig(), 0, output, ()), tmp_path, "state")

    found = load_file(tmp_path / "run/rater/adapter_model.safetensors")
    # peft leaves the adapter's own name, "default", out of the file.
    assert found.keys() == {name.replace(".default", "") for name in state}
    assert all(torch.equal(found[name.replace(".default", "")], weights) for name, weights in state.items())


def test_a_base_is_held_in_its_own_dtype_and_one_layer_at_a_time_in_fp32(tmp_path, monkeypatch):
    from peft.tuners.lora import Linear

    base = save_base(tmp_path / "base", torch.bfloat16)
    model = add_adapter(load_base(base), LoraConfig(), seed=0)
    weights = [layer.get_base_layer().weight for layer in model.modules() if isinstance(layer, Linear)]
    wide, merge = [], Linear.merge

    def count(layer: Any, *arguments: Any, **more: Any) -> None:
        wide.append(sum(weight.dtype == torch.float32 for weight in weights))
        merge(layer, *arguments, **more)

    monkeypatch.setattr(Linear, "merge", count)
    settings = {"base": base, "merge": True, "dtype": torch.bfloat16}
    write_model(model, make_tokenizer(), train_at_random(model), tmp_path / "rater", **settings)

    # Seven layers of each of two blocks; peft asks them again when it lets go of them.
    assert len(weights) == 14
    assert (wide[:14], max(wide[14:], default=0)) == ([1] * 14, 0)


def test_the_memory_of_an_export_by_hand(tmp_path):
    # Embedding and output 400 x 16 each; a block has 16 x (16 + 8 + 8 + 16) of attention, 3 x 16 x 32 and two norms.
    parameters = 2 * 400 * 16 + 2 * (16 * 48 + 3 * 16 * 32 + 2 * 16) + 16
    # 16 for each row and column of its seven matrices.
    adapter = 2 * 16 * (32 + 24 + 24 + 32 + 3 * 48)
    half, whole = save_base(tmp_path / "half", torch.bfloat16), save_base(tmp_path / "whole", torch.float32)

    def measure(base: ModelConfig, lora: LoraConfig | None, output: str) -> int:
        return measure_export(ExportSpec("run", base, lora, 0, OutputConfig(dtype=output), ()))

    assert measure(half, LoraConfig(), "bfloat16") == 2 * parameters + (4 + 4) * adapter
    assert measure(whole, LoraConfig(), "bfloat16") == 4 * parameters + (4 + 4) * adapter
    assert measure(half, None, "bfloat16") == (2 + 4) * parameters
    assert measure(half, None, "float32") == (4 + 4) * parameters


class FullDisk:
    """A checkpoint that can't be fetched."""

    def __init__(self, error: Exception):
        self._error = error

    @contextmanager
    def as_directory(self) -> Iterator[str]:
        raise self._error
        yield ""


SPEC = ExportSpec("run", ModelConfig(path="base"), None, 0, OutputConfig(), ())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no room"), RuntimeError("I/O error: No space left on device")]
)
def test_a_disk_that_fills_up_under_the_rater_is_told_with_what_to_do(error):
    told = export_checkpoint(SPEC, FullDisk(error), "state")
    assert isinstance(told, UserError)
    assert "the rater could not be written: " in str(told)
    assert "Make room" in str(told)


def check_told(told: Any) -> None:
    assert isinstance(told, UserError)
    # As above: 2 x 17,488 + 8 x 8,192 bytes.
    assert "takes at least 100,512 bytes (0.0 GB) of main memory on one node" in str(told)
    assert "run the same command again: it goes on from the checkpoint, which is intact" in str(told)


def test_too_little_memory_for_the_rater_is_told_with_what_it_takes(tmp_path):
    base = save_base(tmp_path / "base", torch.bfloat16)
    spec = ExportSpec("run", base, LoraConfig(), 0, OutputConfig(), ())
    check_told(export_checkpoint(spec, FullDisk(MemoryError()), "state"))
    with pytest.raises(UserError) as raised:
        await_export(raise_in_turn(OutOfMemoryError("the node runs low on memory")), spec)
    check_told(raised.value)
    assert "the node runs low on memory" in str(raised.value)
    with pytest.raises(UserError) as raised:
        await_export(raise_in_turn(*[WorkerCrashedError()] * EXPORT_TRIES), spec)
    check_told(raised.value)


def raise_in_turn(*errors: Exception) -> Callable[[], list[str]]:
    """Make a task that meets these errors, one at each try, and then succeeds."""
    left = list(errors)

    def ask() -> list[str]:
        if left:
            raise left.pop(0)
        return ["config.json"]

    return ask


def test_an_export_whose_worker_is_lost_is_begun_again():
    lost = [WorkerCrashedError()] * (EXPORT_TRIES - 1)
    assert await_export(raise_in_turn(*lost), SPEC) == ["config.json"]
    with pytest.raises(UserError, match="own"):
        await_export(lambda: UserError("own"), SPEC)


def test_what_is_no_full_disk_is_raised():
    with pytest.raises(ConnectionResetError):
        export_checkpoint(SPEC, FullDisk(ConnectionResetError("reset")), "state")


def test_the_licence_of_a_base_named_at_a_hub_is_that_of_its_card_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ModelConfig(path="org/base", revision="v2")
    asked = []

    def download(path: str, name: str, revision: str | None) -> str:
        asked.append((path, name, revision))
        Path("card.md").write_text("---\nlicense: mit\n---\n")
        return str(tmp_path / "card.md")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert describe_base(base)["license"] == "mit"
    assert asked == [("org/base", "README.md", "v2")]


def test_offline_the_licence_of_a_base_at_a_hub_is_not_stated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = ModelConfig(path="org/base")
    assert describe_base(base) == {"path": "org/base", "revision": None, "license": None}
