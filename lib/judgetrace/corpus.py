"""The canonical corpus: a folder of annotations, numbered shards of units, what was left out, and manifests.

corpus/annotations/shard-00000.parquet   schema ANNOTATIONS
corpus/items/shard-00000.parquet         schema ITEMS, a stated number of units each
corpus/dropped/, corpus/quarantine/      schemas DROPPED and QUARANTINE
corpus/guideline.md                      the guideline as given
corpus/manifest-00000.json               one for each run that added items; written last: its existence means complete

A bucket (hash of the item id) keeps its number of shards apart: shard % buckets is the bucket, so that each bucket is
written, replayed and appended to without knowing of the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.config import UserError
from judgetrace.labels import TargetConfig, aggregate_labels
from judgetrace.readers import Fault
from judgetrace.scale import ScaleConfig
from judgetrace.schema import ANNOTATIONS, DROPPED, ITEMS
from judgetrace.splits import SplitConfig, assign_splits
from judgetrace.staging import STAGED, Piece, QuarantineLog, Tally, read_pieces
from judgetrace.storage import Folder, encode_json, encode_parquet

FORMAT_VERSION = 1
_MANIFEST = re.compile(r"manifest-(\d{5})\.json")


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


@dataclass
class BucketResult:
    """What a reduce task hands back: counts and the names of what it wrote."""

    tally: Tally = field(default_factory=Tally)
    units: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, other: BucketResult) -> None:
        """Add the counts of another bucket."""
        self.tally.add(other.tally)
        self.units += other.units
        self.dropped.update(other.dropped)
        self.splits.update(other.splits)
        for dimension, counts in other.labels.items():
            self.labels.setdefault(dimension, Counter()).update(counts)
        self.shards += other.shards
        self.files += other.files


def name_shard(number: int) -> str:
    """Name the shard file of a number."""
    return f"shard-{number:05d}.parquet"


def name_manifest(generation: int) -> str:
    """Name the manifest of a generation."""
    return f"manifest-{generation:05d}.json"


def read_manifests(folder: Folder) -> list[dict[str, Any]]:
    """Read the manifests of a corpus, oldest first. Raises UserError where one in between is missing."""
    names = [name for name in folder.list_files(".json") if _MANIFEST.fullmatch(name)]
    manifests = [folder.read_json(name) for name in names]
    if [m["generation"] for m in manifests] != list(range(len(manifests))):
        raise UserError(f"{folder.url}: manifests {names} are not numbered without a gap; restore the missing one")
    if any(m["format_version"] != FORMAT_VERSION for m in manifests):
        raise UserError(f"{folder.url}: was written by another version of judgetrace; prepare it anew elsewhere")
    return manifests


def list_shards(folder: Folder) -> list[str]:
    """List the item shards of a complete corpus, by number. Raises UserError where there is no manifest."""
    manifests = read_manifests(folder)
    if not manifests:
        raise UserError(
            f"{folder.url}: no manifest: not a corpus, or its preparation did not finish; run prepare_corpus"
        )
    return sorted(f"items/{shard['name']}" for manifest in manifests for shard in manifest["shards"])


def write_bucket(folder: Folder, bucket: int, pieces: Sequence[Piece], rules: CorpusRules) -> BucketResult:
    """Gather one bucket's annotations and write its units, annotations, dropped rows and quarantine.

    The same input writes the same files. Raises RuntimeError where the generation has been finished by another run.
    """
    staged = read_pieces(folder, pieces)
    kept, faults = find_repeats(staged, _read_known_keys(folder, bucket, rules), rules.names_annotators)
    result = BucketResult(Tally(annotations=len(kept)))
    log = QuarantineLog()
    for file_index, fault in faults:
        log.add(rules.file_urls[file_index], fault)
        result.tally.add_fault(rules.file_urls[file_index], fault)
    units, dropped = make_units(kept, rules)
    result.units = len(units)
    result.dropped.update(dropped["reason"].to_pylist())
    result.splits.update(units["split"].to_pylist())
    for pair in pa.TableGroupBy(units, ["dimension", "target_label"]).aggregate([([], "count_all")]).to_pylist():
        result.labels.setdefault(pair["dimension"], Counter())[pair["target_label"]] += pair["count_all"]
    if folder.exists(name_manifest(rules.generation)):
        raise RuntimeError(f"{folder.url}: generation {rules.generation} was finished by another run meanwhile")
    _write_files(folder, bucket, rules, (kept, units, dropped), result)
    written = log.write(folder, f"quarantine/part-{rules.generation:05d}-reduce-{bucket:05d}.parquet")
    result.files += [written] if written else []
    return result


def _write_files(
    folder: Folder, bucket: int, rules: CorpusRules, tables: tuple[pa.Table, pa.Table, pa.Table], result: BucketResult
) -> None:
    kept, units, dropped = tables
    name = name_shard(rules.first_round * rules.num_buckets + bucket)
    if len(kept):
        order = [(column, "ascending") for column in ANNOTATIONS.names]
        folder.write_atomic(f"annotations/{name}", encode_parquet(kept.select(ANNOTATIONS.names).sort_by(order)))
        result.files.append(f"annotations/{name}")
    if len(dropped):
        folder.write_atomic(f"dropped/{name}", encode_parquet(dropped))
        result.files.append(f"dropped/{name}")
    for turn, start in enumerate(range(0, len(units), rules.units_per_shard)):
        shard = units.slice(start, rules.units_per_shard)
        name = name_shard((rules.first_round + turn) * rules.num_buckets + bucket)
        folder.write_atomic(f"items/{name}", encode_parquet(shard))
        result.shards.append({"name": name, "units": len(shard)})
        result.files.append(f"items/{name}")


def _read_known_keys(folder: Folder, bucket: int, rules: CorpusRules) -> pa.Table:
    """Read the (item_id, dimension) pairs of this bucket that earlier generations hold."""
    tables = [STAGED.empty_table().select(["item_id", "dimension"])]
    if rules.generation > 0:
        for manifest in read_manifests(folder)[: rules.generation]:
            for name in manifest["files"]:
                kind, _, file = name.partition("/")
                if kind in ("items", "dropped") and int(file[6:-8]) % rules.num_buckets == bucket:
                    tables.append(folder.read_table(name, ["item_id", "dimension"]))
    return pa.concat_tables(tables)


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
    units, dropped = aggregate_labels(annotations.select(ANNOTATIONS.names), rules.target, rules.scales)
    pairs = pa.concat_tables([annotations.select(["item_id", "dimension"]), units.select(["item_id", "dimension"])])
    codes = encode_rows(pairs, ["item_id", "dimension"])
    first_of = np.full(codes.max(initial=-1) + 1, -1, dtype=np.int64)
    distinct, first = np.unique(codes[: len(annotations)], return_index=True)
    first_of[distinct] = first
    sources = annotations.take(pa.array(first_of[codes[len(annotations) :]]))
    assert sources["fields"].null_count == 0, "the first row of a unit carries its fields"
    columns = {name: units[name] for name in units.column_names}
    columns |= {name: sources[name] for name in ("group", "fields", "extra")}
    columns["split"] = assign_splits(sources["group"], rules.split)
    return pa.table({name: columns[name] for name in ITEMS.names}, schema=ITEMS), dropped.cast(DROPPED)


def commit_manifest(folder: Folder, manifest: dict[str, Any]) -> None:
    """Write a manifest. Raises UserError where another run has written this generation's."""
    counts = manifest["counts"]
    assert counts["rows_in"] == counts["annotations"] + counts["rows_quarantined"], (
        f"rows in {counts['rows_in']} are not annotations {counts['annotations']} + quarantined "
        f"{counts['rows_quarantined']}: a bug in judgetrace"
    )
    name = name_manifest(manifest["generation"])
    if not folder.put_if_absent(name, encode_json(manifest)):
        raise UserError(f"{folder.url}/{name}: another run wrote it first; run the job again to add what is still new")


def delete_leftovers(folder: Folder, kinds: Sequence[str] = ("items", "annotations", "dropped", "quarantine")) -> None:
    """Delete the staging files, and files that no manifest lists: left by a run that was killed or stopped."""
    listed = {name for manifest in read_manifests(folder) for name in manifest["files"]}
    for kind in kinds:
        folder.delete(name for name in (f"{kind}/{n}" for n in (folder / kind).list_files()) if name not in listed)
    folder.delete(f"_staging/{name}" for name in (folder / "_staging").list_files(recursive=True))
