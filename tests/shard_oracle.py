"""The oracle (oracle.py) of runs whose rows do not fit into memory as dictionaries: one shard at a time.

What is lost or repeated is counted, what else is wrong is told: a long run shall not end without its figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.accounting import Tally, tally_traces
from judgetrace.ledger import current_shard_files, read_tally
from judgetrace.schema import UNIT_KEY, unit_key
from judgetrace.storage import Folder
from tests.oracle import accepted_set, check_manifest, check_rows

Foretell = Callable[[list[dict[str, Any]]], set[tuple[Any, ...]]]
"""Says what units (rows of ITEM_COLUMNS) come to, as oracle.accepted_set says of a run's rows."""
ITEM_COLUMNS = [*UNIT_KEY, "target_label"]


@dataclass
class Findings:
    """What was found of a run. Without faults `lost`, `duplicated`, `strange`, `otherwise` are 0, `broken` is empty."""

    units: int = 0
    """Units of the corpus."""
    lost: int = 0
    """Units without a row."""
    duplicated: int = 0
    """Rows of units that have one already."""
    strange: int = 0
    """Rows that are not of their shard's units."""
    otherwise: int = 0
    """Units that ended otherwise than was foretold; the lost are among them."""
    broken: list[str] = field(default_factory=list)
    """What else the oracle says: of a shard, or of the manifest."""
    tally: Tally = field(default_factory=Tally)

    def count_shard(
        self, items: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], foretold: set[tuple[Any, ...]] | None
    ) -> None:
        """Count a shard's rows against its units, and hold each row against the oracle."""
        keys, found = {unit_key(item) for item in items}, Counter(map(unit_key, rows))
        self.units += len(items)
        self.lost += len(keys - found.keys())
        self.duplicated += sum(found.values()) - len(found)
        self.strange += len(found.keys() - keys)
        if foretold is not None:
            self.otherwise += len(foretold - accepted_set(rows))
        check_rows(list({unit_key(row): row for row in rows}.values()))


def check_shards(run: str, corpus: str, foretell: Foretell | None = None) -> Findings:
    """Check a complete run of infer_traces."""
    findings, units, folder = Findings(), Folder(corpus) / "items", Folder(run) / "traces"
    published = current_shard_files(folder)
    for name in units.list_files(".parquet"):
        number = int(name.removeprefix("shard-").removesuffix(".parquet"))
        items = units.read_table(name, ITEM_COLUMNS).to_pylist()
        rows = _read_rows(folder, published.pop(number, None), findings)
        try:
            findings.count_shard(items, rows, None if foretell is None else foretell(items))
        except AssertionError as error:
            findings.broken.append(f"{name}: {error}")
    for name in published.values():
        findings.strange += folder.read_table(name).num_rows
    try:
        check_manifest(run, findings.tally)
    except (AssertionError, FileNotFoundError) as error:
        findings.broken.append(f"manifest: {error}")
    return findings


def _read_rows(folder: Folder, name: str | None, findings: Findings) -> list[dict[str, Any]]:
    """Read a shard's rows, and add its footer's tally; says so where that is not the rows'."""
    if name is None:
        return []
    table, tally = folder.read_table(name), read_tally(folder, name)
    findings.tally += tally
    if tally != tally_traces(table):
        findings.broken.append(f"{name}: footer and rows differ")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
