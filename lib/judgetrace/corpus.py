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

import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.schema import ANNOTATIONS
from judgetrace.sources import SourceFile
from judgetrace.staging import STAGED, Piece, QuarantineLog, RowCounts, read_pieces
from judgetrace.storage import Folder, encode_json, encode_parquet
from judgetrace.units import CorpusRules, find_repeats, make_units, mix_items, settle_groups

FORMAT_VERSION = 2
_MANIFEST = re.compile(r"manifest-(\d{5})\.json")


@dataclass
class BucketResult:
    """What a reduce task hands back: counts and the names of what it wrote."""

    tally: RowCounts = field(default_factory=RowCounts)
    annotations: int = 0
    units: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, other: BucketResult) -> None:
        """Add the counts of another bucket."""
        self.tally.add(other.tally)
        self.annotations += other.annotations
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


def read_finished(folder: Folder) -> list[dict[str, Any]]:
    """Read the manifests of a corpus that others can work on. Raises UserError where there is none."""
    manifests = read_manifests(folder)
    if not manifests:
        raise UserError(f"corpus = {folder.url}: no finished corpus there (no manifest); run jobs.prepare_corpus first")
    return manifests


def list_shards(folder: Folder) -> list[str]:
    """List the item shards of a complete corpus, by number. Raises UserError where there is no manifest."""
    return sorted(f"items/{shard['name']}" for manifest in read_finished(folder) for shard in manifest["shards"])


def write_bucket(folder: Folder, bucket: int, pieces: Sequence[Piece], rules: CorpusRules) -> BucketResult:
    """Gather one bucket's annotations and write its units, annotations, dropped rows and quarantine.

    The same input writes the same files. Raises RuntimeError where the generation has been finished by another run.
    """
    known = _read_known_units(folder, bucket, rules)
    staged, strays = settle_groups(read_pieces(folder, pieces), known)
    kept, repeats = find_repeats(staged, known, rules.names_annotators)
    result = BucketResult(annotations=len(kept))
    log = QuarantineLog(folder, f"quarantine/part-{rules.generation:05d}-reduce-{bucket:05d}")
    for file_index, fault in [*strays, *repeats]:
        log.add(rules.file_urls[file_index], fault)
        result.tally.add_fault(rules.file_urls[file_index], fault)
    units, dropped = make_units(kept, rules)
    units = mix_items(units)
    result.units = len(units)
    result.dropped.update(dropped["reason"].to_pylist())
    result.splits.update(units["split"].to_pylist())
    for pair in pa.TableGroupBy(units, ["dimension", "target_label"]).aggregate([([], "count_all")]).to_pylist():
        result.labels.setdefault(pair["dimension"], Counter())[pair["target_label"]] += pair["count_all"]
    if folder.exists(name_manifest(rules.generation)):
        raise RuntimeError(f"{folder.url}: generation {rules.generation} was finished by another run meanwhile")
    _write_files(folder, bucket, rules, (kept, units, dropped), result)
    result.files += log.close()
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


def _read_known_units(folder: Folder, bucket: int, rules: CorpusRules) -> pa.Table:
    """Read item_id, dimension and group of the units of this bucket that earlier generations hold."""
    names = ["item_id", "dimension", "group"]
    tables = [STAGED.empty_table().select(names)]
    if rules.generation > 0:
        for manifest in read_manifests(folder)[: rules.generation]:
            for name in manifest["files"]:
                if name.startswith(("items/", "dropped/")) and _read_shard_number(name) % rules.num_buckets == bucket:
                    tables.append(folder.read_table(name, names))
    return pa.concat_tables(tables)


def number_next_round(manifests: Sequence[dict[str, Any]], num_buckets: int) -> int:
    """Find the first round of shards that no earlier generation uses, for no kind of file."""
    names = [name for manifest in manifests for name in manifest["files"] if "/shard-" in name]
    return max((_read_shard_number(name) // num_buckets + 1 for name in names), default=0)


def _read_shard_number(name: str) -> int:
    return int(name.rpartition("/shard-")[2].removesuffix(".parquet"))


def find_new_files(
    folder: Folder, manifests: Sequence[dict[str, Any]], run: dict[str, Any], files: Sequence[SourceFile]
) -> list[SourceFile]:
    """Find the source files that no earlier run took.

    `run` holds `config` and `guideline_sha256` as a manifest does. Raises UserError where the corpus can't be appended
    to: a pilot, another config, a source file that changed.
    """
    if any(manifest["config"]["limit"] for manifest in manifests):
        raise UserError(f"{folder.url}: is a pilot (--limit) and can't be appended to; prepare into another folder")
    for manifest in manifests[:1]:
        _check_same_units(folder, _list_unit_keys(manifest), _list_unit_keys(run))
    known = {file["url"]: file["fingerprint"] for manifest in manifests for file in manifest["input"]}
    altered = [file.url for file in files if known.get(file.url, file.fingerprint) != file.fingerprint]
    if altered:
        raise UserError(
            f"{len(altered)} source file(s) changed since they were prepared: {altered[:5]}\n"
            "give new rows in new files, or prepare everything into another folder"
        )
    return [file for file in files if file.url not in known]


def _check_same_units(folder: Folder, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [key for key in sorted({*earlier, *now}) if earlier.get(key) != now.get(key)]
    if changed:
        shown = [f"  {key}: was {earlier.get(key)!r}, is {now.get(key)!r}" for key in changed[:5]]
        raise UserError(
            f"{folder.url}: holds units of another config; changed: {', '.join(changed[:20])}\n"
            + "\n".join(shown)
            + "\nundo the change, or prepare into another folder"
        )


def _list_unit_keys(run: dict[str, Any]) -> dict[str, Any]:
    """List what must not change between the runs of a corpus: dotted key -> value."""
    config = run["config"]
    found = {"guideline": run["guideline_sha256"], "guideline.by_section": config["guideline"]["by_section"]}
    found["source.layout"] = config["source"]["layout"]
    for section in ("columns", "scale", "target", "split"):
        found |= {f"{section}.{key}": value for key, value in config[section].items()}
    return found


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
    folder.delete_all_below("_staging")
