"""Write how training went, for TensorBoard and as a table; both anew as a whole, so that a resumed run has one curve.

RUN/metrics.parquet             schema progress.METRICS
RUN/tensorboard/events.out...   the same for TensorBoard
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from judgetrace.storage import Folder, encode_parquet
from judgetrace.training.progress import Progress

EVENTS = "tensorboard/events.out.tfevents.0000000000.judgetrace"
_CURVES = ("loss", "squared_error", "learning_rate", "grad_norm", "padding_share", "num_tokens", "seconds")


def write_curves(progress: Progress, run: Folder) -> None:
    """Write both files."""
    run.write_atomic("metrics.parquet", encode_parquet(progress.tabulate()))
    run.write_atomic(EVENTS, encode_events(progress))


def encode_events(progress: Progress) -> bytes:
    """Encode a history as an event file. Its times are those of the steps: a longer history begins with the same."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as name:
        with SummaryWriter(name) as writer:
            for row in progress.history:
                curves = {f"train/{key}": row[key] for key in _CURVES}
                curves |= {f"validation/{key}": value for key, value in (row["validation"] or {}).items()}
                for tag, value in curves.items():
                    if value is not None:
                        writer.add_scalar(tag, value, row["step"], walltime=row["at"])
        (file,) = Path(name).iterdir()
        return file.read_bytes()
