"""What several runs of infer_traces came to together: one outcome for each unit that any of them asked about.

Read shard by shard: runs over one corpus have a unit in the same shard, so no more than a shard's keys are in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from judgetrace.accounting import Tally, add_tallies, name_level
from judgetrace.schema import UNIT_KEY
from judgetrace.storage import Folder
from judgetrace.trace_shards import TraceShard, list_trace_shards
from judgetrace.traces import name_units, read_traces

READ = (*UNIT_KEY, "target_label", "outcome")
"""Columns of schema.TRACES that `unite_units` reads."""
_READERS = 4


def tally_together(runs: Sequence[str]) -> Tally:
    """Tally the units of runs as those of one; counts units alone, no draws and no tokens."""
    shards: dict[int, list[TraceShard]] = {}
    for shard in list_trace_shards(runs):
        shards.setdefault(shard.number, []).append(shard)
    with ThreadPoolExecutor(_READERS) as pool:
        return add_tallies(pool.map(_tally_shard, shards.values()))


def _tally_shard(shards: Sequence[TraceShard]) -> Tally:
    return unite_units(pa.concat_tables([read_traces(Folder(shard.run), shard.name, READ) for shard in shards]))


def unite_units(rows: pa.Table) -> Tally:
    """Tally rows of several runs (columns READ), one run after the other, with one outcome for each unit.

    Accepted where any run has a trace of it; else what the last run that asked about it says.
    """
    units: dict[str, tuple[str, str]] = {}
    names, *columns = (name_units(rows), rows["dimension"], rows["target_label"], rows["outcome"])
    for name, dimension, label, outcome in zip(names.to_pylist(), *(c.to_pylist() for c in columns), strict=True):
        if name not in units or units[name][1] != "accepted":
            units[name] = (name_level(dimension, label), outcome)
    return Tally(units=Counter(name_level(*unit) for unit in units.values()))
