"""Which traces are exported to be learned: those that train_rater would learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.ledger import table_keys
from judgetrace.schema import UnitKey
from judgetrace.storage import Folder
from judgetrace.teachable import NEEDED, find_faults, read_verdicts
from judgetrace.teachable_config import TeachableConfig
from judgetrace.trace_shards import TraceShard
from judgetrace.traces import read_traces
from judgetrace.training.hinted import choose_dropped

OVER_SHARE = "hinted_over_share"


@dataclass(frozen=True)
class TraceFilter:
    """Says of traces why they are not exported."""

    config: TeachableConfig
    dropped: frozenset[UnitKey] = frozenset()
    """Units whose hinted trace is one too many."""

    def find_faults(self, traces: pa.Table, shard: int) -> list[str | None]:
        """Find why accepted traces of a shard of the corpus may not teach; None where they may."""
        found = find_faults(traces, read_verdicts(self.config.verification, shard), wants_verified=self.config.verified)
        rows = zip(found, traces["hinted"].to_pylist(), table_keys(traces), strict=True)
        return [
            OVER_SHARE if fault is None and hinted and key in self.dropped else fault for fault, hinted, key in rows
        ]


def make_filter(shards: Iterable[TraceShard], config: TeachableConfig, split: str, seed: int = 0) -> TraceFilter:
    """Look through all traces of a split once, and choose which hinted ones are too many."""
    plain, hinted, num_others = TraceFilter(config), list[UnitKey](), 0
    for shard in shards:
        table = read_traces(Folder(shard.run), shard.name, (*NEEDED, "split"))
        table = table.filter(pc.and_(pc.equal(table["outcome"], "accepted"), pc.equal(table["split"], split)))
        may = [fault is None for fault in plain.find_faults(table, shard.number)]
        usable = table.filter(pa.array(may, pa.bool_()))
        own = table_keys(usable.filter(usable["hinted"]))
        hinted += own
        num_others += len(usable) - len(own)
    return TraceFilter(config, choose_keys(hinted, num_others, config.max_hinted_share, seed))


def choose_keys(hinted: Sequence[UnitKey], num_others: int, max_share: float, seed: int) -> frozenset[UnitKey]:
    """Choose the units whose hinted traces are beyond their share."""
    return frozenset(hinted[place] for place in choose_dropped(hinted, num_others, max_share, seed))
