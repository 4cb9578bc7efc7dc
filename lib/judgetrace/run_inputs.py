"""What a job that asks units reads before it starts: the corpus's manifests, its guideline, the prompt template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.corpus import name_shard, read_finished
from judgetrace.decisions import Decider
from judgetrace.fingerprints import hash_text
from judgetrace.prompts import load_template
from judgetrace.scale import ScaleConfig
from judgetrace.schema import ITEMS, TARGET_AGGREGATE, UNIT_KEY
from judgetrace.storage import CorruptFileError, Folder, read_text
from judgetrace.traces import read_earlier

SHARDS_READ_AT_ONCE = 16


class RunInputs:
    """A prepared corpus, and what its units are asked with. Raises UserError for what can't be used.

    `shipped` is the template to ask with where the config names none.
    """

    def __init__(self, corpus: str, guideline: str | None, template: str | None, shipped: str = "rate_item.jinja"):
        self.corpus = Folder(corpus)
        manifests = read_finished(self.corpus)
        prepared = manifests[0]["config"]
        self.scale = ScaleConfig.model_validate(prepared["scale"])
        self.by_section = bool(prepared["guideline"]["by_section"])
        self.num_buckets = int(manifests[0]["buckets"])
        self.guideline = self._read_guideline(guideline)
        self.template = load_template(template, shipped)
        shards = [shard for manifest in manifests for shard in manifest["shards"]]
        files = [name for manifest in manifests for name in manifest["files"] if name.startswith("dropped/")]
        self.dropped_shards = sorted(int(name[len("dropped/shard-") : -len(".parquet")]) for name in files)
        self.shards = sorted((int(shard["name"][6:-8]), int(shard["units"])) for shard in shards)
        self.corpus_id = identify_corpus(manifests[0])
        self.splits = describe_splits(manifests)
        self.num_units = sum(units for _, units in self.shards)
        if not self.num_units:
            raise UserError(f"corpus = {corpus}: it has no units; see its manifest for what was dropped and why")

    def _read_guideline(self, path: str | None) -> str:
        if path is None:
            return self.corpus.read_bytes("guideline.md").decode()
        return read_text("guideline", path)

    def check_dimensions(self, wanted: Sequence[str]) -> None:
        """Raise UserError for dimensions of which the corpus has no unit."""
        known = {name for manifest in read_finished(self.corpus) for name in manifest["counts"]["labels"]}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UserError(f"dimensions: {unknown[:5]}: no units of these; the corpus has {sorted(known)[:20]}")

    def count_selected(self, decider: Decider) -> Iterator[tuple[int, int]]:
        """Yield (shard, units that a run covers), in order of shards; reads few columns of the items.

        A shard that can't be read counts with all of its units, for a worker to say what is broken.
        """
        numbers = self._list_shards(decider)
        with ThreadPoolExecutor(SHARDS_READ_AT_ONCE) as pool:
            counts = pool.map(lambda number: self._count_selected(number, decider), numbers)
            yield from zip(numbers, counts, strict=True)

    def read_first_unit(self, decider: Decider) -> dict[str, Any] | None:
        """Read the first unit (a row of schema.ITEMS) that a run covers; None where it covers none."""
        for number in self._list_shards(decider):
            units = read_units(self.corpus, number, self.num_buckets, decider)
            if units.num_rows:
                return dict(units.slice(0, 1).to_pylist()[0])
        return None

    def _list_shards(self, decider: Decider) -> list[int]:
        numbers = {number for number, _ in self.shards}
        return sorted(numbers | set(self.dropped_shards) if decider.asks_dropped else numbers)

    def _count_selected(self, shard: int, decider: Decider) -> int:
        columns = [*UNIT_KEY, "target_label", "split"]
        try:
            return int(read_units(self.corpus, shard, self.num_buckets, decider, columns).num_rows)
        except CorruptFileError:
            return dict(self.shards).get(shard, 1)


def describe_splits(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect how a corpus is split: the rule, the column of the groups that it keeps whole, units of each split."""
    prepared, units = manifests[0]["config"], Counter[str]()
    for manifest in manifests:
        units.update(manifest.get("counts", {}).get("splits", {}))
    return {"rule": prepared["split"], "group": prepared["columns"].get("group"), "units": dict(sorted(units.items()))}


def identify_corpus(manifest: dict[str, Any]) -> str:
    """Fingerprint a corpus by its first manifest: its source files, rules and shards, not the folder it lies in."""
    rules = {name: manifest["config"][name] for name in ("columns", "scale", "target", "split", "shards")}
    files = [{k: v for k, v in file.items() if k != "url"} for file in manifest["input"]]
    return hash_text(json.dumps([rules, files, manifest["shards"]], sort_keys=True))


def read_units(
    corpus: Folder, shard: int, num_buckets: int, decider: Decider, columns: list[str] | None = None
) -> pa.Table:
    """Read the units of a shard that a run covers (schema.ITEMS, or some of its columns)."""
    items = read_shard(corpus, shard, decider.asks_dropped, columns)
    before = _read_units_before(corpus, shard, num_buckets, items)
    earlier = read_earlier(decider.earlier_runs, shard, decider.earlier_columns if columns is None else ())
    return decider.select_units(items, before, earlier)


def read_shard(corpus: Folder, shard: int, with_dropped: bool, columns: list[str] | None = None) -> pa.Table:
    """Read all units of a shard (schema.ITEMS, or some of its columns), with or without the items that were dropped.

    A dropped item is a unit without target label; its file has the number of its bucket's first shard. A shard may have
    either file alone. Raises CorruptFileError, of a file that is gone too; StoreError.
    """
    schema = ITEMS if columns is None else pa.schema([ITEMS.field(name) for name in columns])
    name = name_shard(shard)
    items = schema.empty_table()
    if not with_dropped or corpus.exists(f"items/{name}"):
        items = _read_items(corpus, f"items/{name}", columns)
        with corpus.parsing(f"items/{name}"):
            items = items.select(schema.names).cast(schema)
    if with_dropped and corpus.exists(f"dropped/{name}"):
        dropped = corpus.read_table(f"dropped/{name}")
        items = pa.concat_tables([items, _without_targets(dropped).select(schema.names)])
    return items


def _read_items(corpus: Folder, name: str, columns: list[str] | None) -> pa.Table:
    try:
        return corpus.read_table(name, columns)
    except FileNotFoundError as error:
        raise CorruptFileError(
            f"{corpus.url}/{name}: is not there, while the corpus's manifest has it\n"
            "Restore the file from a copy, or make it again."
        ) from error


def _without_targets(dropped: pa.Table) -> pa.Table:
    """Make units (schema.ITEMS) without target label of dropped items (schema.DROPPED)."""
    blank = {
        "target_source": pa.array([TARGET_AGGREGATE] * len(dropped), pa.string()),
        "target_label": pa.nulls(len(dropped), pa.string()),
        "accepted_labels": pa.array([[]] * len(dropped), pa.list_(pa.string())),
    }
    return pa.table([blank[n] if n in blank else dropped[n] for n in ITEMS.names], schema=ITEMS)


def _read_units_before(corpus: Folder, shard: int, num_buckets: int, items: pa.Table) -> pa.Table:
    """Read the keys of the shard before this one in its bucket, where an item's units may lie in both."""
    if shard >= num_buckets and set(items.column("target_source").to_pylist()) - {TARGET_AGGREGATE}:
        with suppress(FileNotFoundError):
            return corpus.read_table(f"items/{name_shard(shard - num_buckets)}", list(UNIT_KEY))
    return ITEMS.empty_table()
