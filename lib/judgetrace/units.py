"""Make units of annotations: settle groups, take out repeats, aggregate labels, join texts, assign splits.

Pure functions on the tables of one bucket, which holds all annotations of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.batches import Fault
from judgetrace.labels import TargetConfig, aggregate_labels
from judgetrace.scale import ScaleConfig
from judgetrace.schema import ANNOTATIONS, DROPPED, ITEMS
from judgetrace.splits import SplitConfig, assign_splits


@dataclass(frozen=True)
class CorpusRules:
    """What turns a bucket's annotations into units and shards."""

    target: TargetConfig
    scales: ScaleConfig
    split: SplitConfig
    units_per_shard: int
    num_buckets: int
    generation: int
    first_round: int  # shards are numbered round * num_buckets + bucket; earlier generations have the lower rounds
    file_urls: list[str]  # of this generation, by file_index
    names_annotators: bool = True


def settle_groups(staged: pa.Table, known: pa.Table) -> tuple[pa.Table, list[tuple[int, Fault]]]:
    """Give all rows of an item the group that the first of them tells, or else the item's id.

    `staged` is in order of files and rows; `known` (item_id, group) are the units that are prepared already, whose
    group comes first. Rows of an item that is told two groups are taken out, since no split would be right for it.
    Returns what stays, and (file_index, fault) of the rest.
    """
    names = ["item_id", "group"]
    table = pa.concat_tables([known.select(names), staged.select(names)])
    items, groups = encode_rows(table, ["item_id"]), table["group"].combine_chunks()
    telling = np.flatnonzero(groups.is_valid().to_numpy(zero_copy_only=False))
    first_of = np.full(items.max(initial=-1) + 1, -1, dtype=np.int64)
    distinct, first = np.unique(items[telling], return_index=True)
    first_of[distinct] = telling[first]
    settled = groups.take(pa.array(first_of[items], mask=first_of[items] < 0))
    own, detail_of = items[len(known) :], _describe_two_groups(items, table["item_id"], settled, groups)
    spoilt = np.isin(own, list(detail_of))
    places = staged.select(["file_index", "row"]).filter(pa.array(spoilt)).to_pylist()
    faults = [
        (place["file_index"], Fault(place["row"], 1, "two_groups", detail_of[item]))
        for place, item in zip(places, own[spoilt].tolist(), strict=True)
    ]
    filled = pc.coalesce(settled.slice(len(known)), staged["item_id"].combine_chunks())
    settled_rows = staged.set_column(staged.column_names.index("group"), "group", filled)
    return settled_rows.filter(pa.array(~spoilt)), faults


def _describe_two_groups(items: np.ndarray, item_ids: Any, settled: Any, groups: Any) -> dict[int, str]:
    """Describe the items of which some row tells another group than the settled one: number of the item -> detail."""
    differs = np.flatnonzero(pc.fill_null(pc.not_equal(groups, settled), False).to_numpy(zero_copy_only=False))
    told = [column.take(pa.array(differs)).to_pylist() for column in (item_ids, settled, groups)]
    return {
        item: f"{name}: {first!r} and {other!r}"[:200]
        for item, name, first, other in zip(items[differs].tolist(), *told, strict=True)
    }


def find_repeats(staged: pa.Table, known: pa.Table, names_annotators: bool) -> tuple[pa.Table, list[tuple[int, Fault]]]:
    """Take out annotations of units that are known already, and all but the first of an annotator about a unit.

    `staged` is in order of files and rows. Returns what stays, and (file_index, fault) of the rest. Annotations
    without an annotator id are never duplicates.
    """
    names = ["item_id", "dimension"]
    keys = pa.concat_tables([staged.select(names), known.select(names)])
    units = encode_rows(keys, names)
    own, earlier = units[: len(staged)], units[len(staged) :]
    reasons = np.where(np.isin(own, earlier), "already_prepared", "").astype(object)
    if names_annotators and len(staged):
        annotators = encode_rows(staged, ["annotator_id"])
        pairs = own * (annotators.max() + 1) + annotators
        repeated = np.ones(len(staged), dtype=bool)
        repeated[np.unique(pairs, return_index=True)[1]] = False
        named = pc.not_equal(staged["annotator_id"], "").to_numpy()
        reasons[repeated & named & (reasons == "")] = "duplicate"
    faulty = np.flatnonzero(reasons != "")
    rows = (
        staged.take(pa.array(faulty)).select(["file_index", "row", "item_id", "dimension", "annotator_id"]).to_pylist()
    )
    faults = [
        (
            row["file_index"],
            Fault(row["row"], 1, reason, "{item_id} / {dimension} / {annotator_id}".format(**row)[:200]),
        )
        for row, reason in zip(rows, reasons[faulty].tolist(), strict=True)
    ]
    return staged.filter(pa.array(reasons == "")), faults


def encode_rows(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Give rows numbers so that rows equal in some string columns have equal numbers."""
    codes = np.zeros(len(table), dtype=np.int64)
    for name in names:
        encoded = table[name].combine_chunks().dictionary_encode()
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
        codes = np.unique(codes, return_inverse=True)[1]
    return codes


def make_units(annotations: pa.Table, rules: CorpusRules) -> tuple[pa.Table, pa.Table]:
    """Make the units (schema ITEMS) and dropped rows of annotations (schema STAGED, in order of files and rows).

    A unit's fields and extra columns are those of its first row; its group has been settled.
    """
    units, dropped = aggregate_labels(annotations.select(ANNOTATIONS.names), rules.target, rules.scales)
    return _add_texts(units, annotations, rules.split, ITEMS), _add_texts(dropped, annotations, rules.split, DROPPED)


def _add_texts(table: pa.Table, annotations: pa.Table, split: SplitConfig, schema: pa.Schema) -> pa.Table:
    """Add group, fields, extra and split to a table of items and dimensions; returns it as `schema`."""
    pairs = pa.concat_tables([annotations.select(["item_id", "dimension"]), table.select(["item_id", "dimension"])])
    codes = encode_rows(pairs, ["item_id", "dimension"])
    first_of = np.full(codes.max(initial=-1) + 1, -1, dtype=np.int64)
    distinct, first = np.unique(codes[: len(annotations)], return_index=True)
    first_of[distinct] = first
    sources = annotations.take(pa.array(first_of[codes[len(annotations) :]]))
    assert sources["fields"].null_count == 0, "the first row of a unit carries its fields"
    assert sources["group"].null_count == 0, "all rows of an item have its group"
    columns = {name: table[name] for name in table.column_names}
    columns |= {name: sources[name] for name in ("group", "fields", "extra")}
    columns["split"] = assign_splits(sources["group"], split)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def mix_items(units: pa.Table) -> pa.Table:
    """Order units by a hash of their item, so that the first shards are a fair sample for a pilot.

    The units of one item stay together, in their order: their prompts begin alike, which a prefix cache likes.
    """
    items = units["item_id"].combine_chunks().dictionary_encode()
    digests = [blake2b(item.encode(), digest_size=8, person=b"mix").digest() for item in items.dictionary.to_pylist()]
    ranks = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
    order = np.argsort(ranks[items.indices.to_numpy(zero_copy_only=False).astype(np.int64)], kind="stable")
    return units.take(pa.array(order))
