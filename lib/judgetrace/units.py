"""Make units of annotations: take out repeats, aggregate labels, join the item's texts, assign splits.

Pure functions on the tables of one bucket, which holds all annotations of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

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


def find_repeats(staged: pa.Table, known: pa.Table, names_annotators: bool) -> tuple[pa.Table, list[tuple[int, Fault]]]:
    """Take out annotations of units that are known already, and all but the first of an annotator about a unit.

    `staged` is in order of files and rows. Returns what stays, and (file_index, fault) of the rest. Annotations
    without an annotator id are never duplicates.
    """
    keys = pa.concat_tables([staged.select(["item_id", "dimension"]), known])
    units = encode_rows(keys, ["item_id", "dimension"])
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

    A unit's fields, extra columns and group are those of its first row.
    """
    units, left_out = aggregate_labels(annotations.select(ANNOTATIONS.names), rules.target, rules.scales)
    sources = _find_first_rows(annotations, units)
    assert sources["fields"].null_count == 0, "the first row of a unit carries its fields"
    columns = {name: units[name] for name in units.column_names}
    columns |= {name: sources[name] for name in ("group", "fields", "extra")}
    columns["split"] = assign_splits(sources["group"], rules.split)
    sources = _find_first_rows(annotations, left_out)
    dropped = {name: left_out[name] for name in left_out.column_names}
    dropped |= {name: sources[name] for name in ("group", "extra")}
    return (
        pa.table({name: columns[name] for name in ITEMS.names}, schema=ITEMS),
        pa.table({name: dropped[name] for name in DROPPED.names}, schema=DROPPED),
    )


def _find_first_rows(annotations: pa.Table, rows: pa.Table) -> pa.Table:
    """Find the first annotation of the (item_id, dimension) of each of `rows`."""
    pairs = pa.concat_tables([annotations.select(["item_id", "dimension"]), rows.select(["item_id", "dimension"])])
    codes = encode_rows(pairs, ["item_id", "dimension"])
    first_of = np.full(codes.max(initial=-1) + 1, -1, dtype=np.int64)
    distinct, first = np.unique(codes[: len(annotations)], return_index=True)
    first_of[distinct] = first
    return annotations.take(pa.array(first_of[codes[len(annotations) :]]))


def mix_items(units: pa.Table) -> pa.Table:
    """Order units by a hash of their item, so that the first shards are a fair sample for a pilot.

    The units of one item stay together, in their order: their prompts begin alike, which a prefix cache likes.
    """
    items = units["item_id"].combine_chunks().dictionary_encode()
    digests = [blake2b(item.encode(), digest_size=8, person=b"mix").digest() for item in items.dictionary.to_pylist()]
    ranks = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
    order = np.argsort(ranks[items.indices.to_numpy(zero_copy_only=False).astype(np.int64)], kind="stable")
    return units.take(pa.array(order))
