"""What becomes of a trained model outside of Ray: an adapter's base, a licence, a full disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.training.config import LoraConfig, OutputConfig
from judgetrace.training.export import ExportSpec, describe_base, export_checkpoint
from judgetrace.training.models import add_adapter, write_model
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
