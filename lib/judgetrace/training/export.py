"""Make the model folder of a rater from a checkpoint: weights, tokenizer, chat template, guideline, model card."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.model_store import fetch_folder, is_folder
from judgetrace.storage import Folder
from judgetrace.training.config import LoraConfig, OutputConfig
from judgetrace.training.faults import is_disk_full

RATER = "rater"
"""Where in the run folder the model lies."""


@dataclass(frozen=True)
class ExportSpec:
    """What a rater is made from; can be pickled."""

    run: str
    model: ModelConfig
    adapter: LoraConfig | None
    seed: int
    output: OutputConfig
    texts: tuple[tuple[str, str], ...]
    """Further files, as (name, text)."""


def export_rater(spec: ExportSpec, checkpoint: Path, state_tag: str) -> list[str]:
    """Write RUN/rater from a checkpoint's folder; returns the names of its files. Needs memory for the whole model."""
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    from judgetrace.training.encoding import load_tokenizer
    from judgetrace.training.models import add_adapter, load_base, write_model

    state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=state_tag, exclude_frozen_parameters=True)
    model = add_adapter(load_base(spec.model, torch.float32), spec.adapter, spec.seed)
    folder = Path(tempfile.mkdtemp(prefix="judgetrace-rater-"))
    try:
        write_model(
            model,
            load_tokenizer(spec.model.path, spec.model.revision),
            {name.removeprefix("model."): weights for name, weights in state.items()},
            folder,
            base=spec.model,
            merge=spec.output.form == "merged",
            dtype=getattr(torch, spec.output.dtype),
        )
        for name, text in spec.texts:
            (folder / name).write_text(text, encoding="utf-8")
        return upload(folder, Folder(spec.run) / RATER)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export_checkpoint(spec: ExportSpec, checkpoint: Any, state_tag: str) -> list[str] | UserError:
    """Export Ray Train's checkpoint; a UserError is returned, since Ray would raise it as an error of a task."""
    try:
        with checkpoint.as_directory() as name:
            return export_rater(spec, Path(name), state_tag)
    except UserError as error:
        return error
    except Exception as error:
        temporary = Path(tempfile.gettempdir())
        if not is_disk_full(error, temporary):
            raise
        return UserError(
            f"the rater could not be written: {error}\nMake room (in {temporary} of the machine that writes it, or in "
            "the run folder), and run the same command again; its checkpoint is intact."
        )


def upload(source: Path, target: Folder) -> list[str]:
    """Copy the files of a local folder; what else `target` held is deleted. Returns their names."""
    files = sorted(file for file in source.rglob("*") if file.is_file())
    names = [str(file.relative_to(source)) for file in files]
    for file, name in zip(files, names, strict=True):
        with file.open("rb") as data, target.open_for_write(name) as sink:
            shutil.copyfileobj(data, sink, 1 << 24)
    target.delete(set(target.list_files(recursive=True)) - set(names))
    return names


def describe_base(model: ModelConfig) -> dict[str, Any]:
    """Read what a base says of itself: its licence, from the head of its README.md."""
    readme = _find_readme(model)
    lines = readme.read_text(encoding="utf-8").splitlines() if readme is not None else []
    licence = next((line.partition(":")[2].strip() for line in lines[:40] if line.startswith("license:")), None)
    return {"path": model.path, "revision": model.revision, "license": licence}


def _find_readme(model: ModelConfig) -> Path | None:
    """Find a base's README.md in its folder, or at the hub that it is named at; None where it has none."""
    if is_folder(model.path):
        readme = fetch_folder(model.path, weights=False) / "README.md"
        return readme if readme.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RevisionResolutionError

    try:
        return Path(hf_hub_download(model.path, "README.md", revision=model.revision))
    except (OSError, ValueError, EntryNotFoundError, RevisionResolutionError):
        # Without a connection and a copy: the card says that nothing is stated.
        return None
