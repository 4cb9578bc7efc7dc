"""The published shards of runs of infer_traces, as what other stages read them by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from judgetrace.config import UserError
from judgetrace.ledger import current_shard_files, is_finished
from judgetrace.storage import Folder


@dataclass(frozen=True)
class TraceShard:
    """A published shard of a run of infer_traces."""

    run: str
    name: str

    @property
    def number(self) -> int:
        """The shard's number, which is the corpus's."""
        return int(self.name[6:11])

    @property
    def is_finished(self) -> bool:
        """Whether all of its units are decided; else its run may go on, and replace the file."""
        return is_finished(self.name)

    def make_gone_error(self) -> UserError:
        """Make the error of a reader that does not find the file any more."""
        return UserError(
            f"{self.run}/traces/{self.name} is gone: infer_traces went on in its run since this one began\n"
            "Begin anew in another run folder, and leave the traces as they are until its end."
        )


def check_shards(shards: Sequence[TraceShard]) -> None:
    """Raise UserError for a shard that is not there any more."""
    for shard in shards:
        if not shard.is_finished and not (Folder(shard.run) / "traces").exists(shard.name):
            raise shard.make_gone_error()


def list_trace_shards(runs: Sequence[str]) -> list[TraceShard]:
    """List the published shards of runs, in the order of runs and shards."""
    return [
        TraceShard(run, name) for run in runs for _, name in sorted(current_shard_files(Folder(run) / "traces").items())
    ]
