"""Which traces are exported to be learned: those that train_rater would learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.ledger import table_keys
from judgetrace.schema import UnitKey
from judgetrace.storage import Folder
from judgetrace.teachable import NEEDED, OVER_SHARE, find_faults, read_verdicts
from judgetrace.teachable_config import TeachableConfig
from judgetrace.trace_shards import TraceShard
from judgetrace.traces import read_traces
from judgetrace.training.hinted import choose_dropped


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
    """Choose which hinted traces of a split are too many; only where some may teach are the traces looked through."""
    plain, hinted, num_others = TraceFilter(config), list[UnitKey](), 0
    if not config.verification or config.max_hinted_share >= 1:
        return plain
    for shard in shards:
        table = read_traces(Folder(shard.run), shard.name, (*NEEDED, "split"))
        table = table.filter(pc.and_(pc.equal(table["outcome"], "accepted"), pc.equal(table["split"], split)))
        may = [fault is None for fault in plain.find_faults(table, shard.number)]
        usable = table.filter(pa.array(may, pa.bool_()))
        own = table_keys(usable.filter(usable["hinted"]))
        hinted += own
        num_others += len(usable) - len(own)
    dropped = choose_dropped(hinted, num_others, config.max_hinted_share, seed)
    return TraceFilter(config, frozenset(hinted[place] for place in dropped))
