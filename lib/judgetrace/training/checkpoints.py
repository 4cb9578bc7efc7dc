"""A checkpoint's folder: DeepSpeed's state, how many workers saved it, and how far training was.

state/          what DeepSpeed saves, a part of it from each worker
layout.json     {"workers": N}
progress.json   progress.Progress
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from judgetrace.config import UserError
from judgetrace.storage import Folder
from judgetrace.training.faults import is_disk_full, is_lost_peer, is_out_of_memory
from judgetrace.training.progress import Progress

STATE = "state"
LAYOUT_FILE = "layout.json"


def save_state(engine: Any, folder: Path) -> None:
    """Save this worker's part of the state."""
    engine.save_checkpoint(str(folder), tag=STATE, exclude_frozen_parameters=True)


def save_progress(progress: Progress, workers: int, folder: Path) -> None:
    """Save what one worker saves for all."""
    progress.save(folder)
    Folder(str(folder)).write_json(LAYOUT_FILE, {"workers": workers})


def count_workers(folder: Path) -> int:
    """Count the workers that saved a checkpoint."""
    return int(Folder(str(folder)).read_json(LAYOUT_FILE)["workers"])


def explain_load_failure(error: BaseException, saved_by: int, workers: int) -> str | None:
    """Explain why `workers` can't load what was saved by as many or others; None for what may pass, or explains itself.

    A worker that is lost while the others load is replaced, and they load again.
    """
    if is_lost_peer(error) or is_out_of_memory(error):
        return None
    temporary = Path(tempfile.gettempdir())
    if is_disk_full(error, temporary):
        return (
            f"the last checkpoint could not be loaded: {error}\nMake room in {temporary} of this machine, and run the "
            "same command again; the checkpoint is intact."
        )
    if saved_by == workers:
        return None
    return (
        f"the last checkpoint was saved by {saved_by} worker(s), and {workers} can't load it: "
        f"{type(error).__name__}: {error}\nRun again with workers.num_workers = {saved_by} "
        "and without workers.max_workers."
    )


def convert_state(folder: Path, name: str) -> Path:
    """Convert a checkpoint's state so that any number of workers can load it; returns a folder that holds it as `name`.

    DeepSpeed's universal format. The caller deletes the folder.
    """
    from deepspeed.checkpoint import ds_to_universal

    target = Path(tempfile.mkdtemp(prefix="judgetrace-universal-"))
    arguments = argparse.Namespace(
        input_folder=str(folder / STATE),
        output_folder=str(target / name),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        # It talks much, and shows a bar for every file.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ds_to_universal.main(arguments)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def check_parts(folder: Path) -> None:
    """Raise UserError for a checkpoint that lacks a worker's part.

    DeepSpeed converts what parts there are, and would leave out the values of one that is lost.
    """
    found, expected = len(list((folder / STATE).glob("*_optim_states.pt"))), count_workers(folder)
    if found != expected:
        raise UserError(
            f"{folder}: the checkpoint is damaged: it has the states of {found} worker(s); {expected} saved it\n"
            "Bring the lost files of state/ back, or train in another run folder."
        )
