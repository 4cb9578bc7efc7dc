"""The published shards of runs of infer_traces, as what other stages read them by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from judgetrace.ledger import current_shard_files
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


def list_trace_shards(runs: Sequence[str]) -> list[TraceShard]:
    """List the published shards of runs, in the order of runs and shards."""
    return [
        TraceShard(run, name) for run in runs for _, name in sorted(current_shard_files(Folder(run) / "traces").items())
    ]
