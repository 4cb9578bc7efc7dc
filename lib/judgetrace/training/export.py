"""Make the model folder of a rater from a checkpoint: weights, tokenizer, chat template, guideline, model card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.model_store import fetch_folder, is_folder
from judgetrace.storage import Folder
from judgetrace.training.config import LoraConfig, OutputConfig
from judgetrace.training.faults import is_disk_full, is_out_of_memory

RATER = "rater"
"""Where in the run folder the model lies."""
EXPORT_TRIES = 4
"""How often an export is begun whose worker is lost."""


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

    # Lazily: parts that ZeRO 3 has divided are put together one by one.
    state = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint), tag=state_tag, exclude_frozen_parameters=True, lazy_mode=True
    )
    model = add_adapter(load_base(spec.model), spec.adapter, spec.seed)
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
        if is_out_of_memory(error):
            return explain_memory(spec, error)
        temporary = Path(tempfile.gettempdir())
        if not is_disk_full(error, temporary):
            raise
        return UserError(
            f"the rater could not be written: {error}\nMake room (in {temporary} of the machine that writes it, or in "
            "the run folder), and run the same command again; its checkpoint is intact."
        )


def await_export(ask: Callable[[], list[str] | UserError], spec: ExportSpec) -> list[str]:
    """Ask for an export until a worker lives to its end; returns the names of the rater's files. Raises UserError.

    `ask` gets what export_checkpoint returns from a task with max_retries = 0: else Ray would for ever try again what
    takes too much memory.
    """
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    for tries_left in reversed(range(EXPORT_TRIES)):
        try:
            names = ask()
        except OutOfMemoryError as error:
            raise explain_memory(spec, error) from error
        except (NodeDiedError, WorkerCrashedError) as error:
            # The system ends what takes too much memory, too, and does not say why.
            if not tries_left:
                raise explain_memory(spec, error) from error
        else:
            break
    if isinstance(names, UserError):
        raise names
    return names


def explain_memory(spec: ExportSpec, error: Exception) -> UserError:
    """Explain that there was too little memory to make the rater."""
    needed = measure_export(spec)
    return UserError(
        f"the rater could not be made: {type(error).__name__}: {error}\nIt takes at least {needed:,} bytes "
        f"({needed / 1e9:.1f} GB) of main memory on one node. Make room for it (a larger node, or less beside it), and "
        "run the same command again: it goes on from the checkpoint, which is intact."
    )


def measure_export(spec: ExportSpec) -> int:
    """Measure the bytes that an export takes at least: the model, and the trained weights of the checkpoint in fp32.

    The model is in its base's dtype or in that of the output, whichever is larger; no weights are loaded to tell.
    """
    import torch

    from judgetrace.training.models import count_parameters, outline_model

    model = outline_model(spec.model, spec.adapter)
    width = getattr(torch, spec.output.dtype).itemsize
    held = sum(p.numel() * max(p.element_size(), width) for p in model.parameters())
    return int(held + torch.float32.itemsize * count_parameters(model)[1])


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
