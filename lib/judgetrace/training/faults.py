"""What training can't go on from, and errors that tell of it or of something that passes. Knows no Ray and no data."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM_BYTES = 16 * 2**20
"""A disk with less room is full."""
_NO_ROOM = "No space left on device"
_LOST_PEER = ("gloo", "nccl", "connection ", "broken pipe")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


TRAINING_ADVICE = (
    "Lower training.micro_batch or set training.activation_checkpointing = true (the steps stay the same); or share "
    "more of what training holds out among workers with cluster/deepspeed/zero2.json or zero3.json, in another run "
    "folder. A worker must have room for the whole base at its start, with any of them. --dry-run estimates what a "
    "worker needs."
)
VALIDATION_ADVICE = (
    "It was validating: lower validation.batch (the ratings stay the same). Each of so many items at once keeps keys "
    "and values of its prompt and of up to validation.max_new_tokens beside the model."
)


class TrainingFaultError(RuntimeError):
    """Training can't go on, and trying again would not help."""


def is_disk_full(error: BaseException | None, folder: Path) -> bool:
    """Whether an error, or what caused it, came of a full disk; torch's own does not say, so `folder` is asked."""
    while error is not None:
        # safetensors' error is none of the system's.
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or _NO_ROOM in str(error):
            return True
        error = error.__cause__ or error.__context__
    return folder.exists() and shutil.disk_usage(folder).free < ROOM_BYTES


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error came of a worker that is lost: it is replaced, and all try again."""
    text = str(error).lower()
    return type(error).__module__.startswith("torch.distributed") or any(word in text for word in _LOST_PEER)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the machine, has no memory left."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


@contextmanager
def explaining_memory(advice: str = TRAINING_ADVICE) -> Iterator[None]:
    """Raise TrainingFaultError, with what to do, where the block runs out of memory."""
    try:
        yield
    except TrainingFaultError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingFaultError(f"a worker ran out of memory: {error}\n{advice}") from error
