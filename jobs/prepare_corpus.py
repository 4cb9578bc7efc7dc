"""Turn a labelled corpus (Parquet, CSV or JSONL, local or on S3) into annotations and numbered shards of units.

python -m jobs.prepare_corpus CONFIG.toml [--section.key=value ...]

source files --map--> staging by bucket --reduce--> corpus folder (see judgetrace.corpus for its files). Run it again
with more source files to append them; what is prepared stays as it is. One run at a time for a corpus.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.columns import ColumnsConfig, check_columns
from judgetrace.config import STRICT, UserError, load_config, run_job
from judgetrace.corpus import (
    FORMAT_VERSION,
    BucketResult,
    commit_manifest,
    delete_leftovers,
    find_new_files,
    name_manifest,
    number_next_round,
    read_manifests,
    write_bucket,
)
from judgetrace.guideline import Guideline, GuidelineConfig, parse_guideline
from judgetrace.intake import IntakeRules, admit_batch
from judgetrace.labels import TargetConfig, check_rule
from judgetrace.readers import read_part
from judgetrace.scale import ScaleConfig
from judgetrace.session import RayConfig, connect_ray
from judgetrace.sources import (
    SourceConfig,
    SourceFile,
    SourcePart,
    estimate_rows,
    is_corruption,
    list_source_files,
    plan_parts,
)
from judgetrace.splits import SplitConfig
from judgetrace.staging import STAGED, Piece, RowCounts, StagePlan, limit_batches, stage_parts
from judgetrace.storage import Folder, open_filesystem
from judgetrace.tasks import run_tasks
from judgetrace.units import CorpusRules, find_repeats, make_units
from judgetrace.versions import list_versions

ROWS_PER_BUCKET = 50_000
BYTES_PER_BUCKET = 256 << 20


class ShardsConfig(BaseModel):
    """How the corpus is cut."""

    model_config = STRICT

    units_per_shard: int = Field(default=1000, ge=1, description="Units in an item shard; a bucket's last has fewer.")
    buckets: int | None = Field(
        default=None, ge=1, description="Reduce tasks of the first run, kept by later ones; null: by the input's size."
    )


class LimitsConfig(BaseModel):
    """What bad input is borne."""

    model_config = STRICT

    max_quarantined_rate: float = Field(default=0.05, ge=0, le=1, description="Above this share of rows the job stops.")
    max_text_bytes: int = Field(default=1_000_000, ge=1, description="An item with more text than this is quarantined.")


class PrepareCorpusConfig(BaseModel):
    """Prepare a labelled corpus for the other jobs."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    corpus: str = Field(description="The output folder: a local path or any fsspec URL.")
    source: SourceConfig
    columns: ColumnsConfig
    scale: ScaleConfig
    guideline: GuidelineConfig
    target: TargetConfig = TargetConfig()
    split: SplitConfig = SplitConfig()
    shards: ShardsConfig = ShardsConfig()
    limits: LimitsConfig = LimitsConfig()
    cluster: RayConfig = RayConfig()
    dry_run: bool = Field(
        default=False,
        validation_alias=AliasChoices("dry_run", "dry-run"),
        description="Check config and input without a cluster, show one unit, and end.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="A pilot: only the first N rows, in order of files. It can't be appended to."
    )

    @model_validator(mode="after")
    def _check_sections(self) -> PrepareCorpusConfig:
        check_rule(self.target, self.scale)
        wide = self.source.layout == "wide"
        if wide != (self.columns.labels is not None):
            raise ValueError(f"source.layout {self.source.layout} goes with columns.{'labels' if wide else 'label'}")
        if self.target.rule == "per_annotator" and not wide and self.columns.annotator_id is None:
            raise ValueError("target.rule per_annotator needs columns.annotator_id")
        if self.guideline.by_section and self.columns.dimension is None:
            raise ValueError("guideline.by_section needs columns.dimension")
        return self


@dataclass(frozen=True)
class Plan:
    """What a run will do: all that is known without a cluster."""

    config: PrepareCorpusConfig
    folder: Folder
    guideline: Guideline
    files: list[SourceFile]
    parts: list[SourcePart]
    stage: StagePlan
    rules: CorpusRules


def main(arguments: list[str]) -> int:
    """Prepare or append; returns the exit status."""
    config = load_config(PrepareCorpusConfig, "prepare_corpus", arguments)
    plan = make_plan(config)
    if not plan.files:
        print(f"nothing new: every source file is in {config.corpus} already")
        return 0
    if config.dry_run:
        print_dry_run(plan)
        return 0
    started = time.monotonic()
    plan.folder.write_atomic("guideline.md", plan.guideline.text.encode())
    delete_leftovers(plan.folder)
    with connect_ray(config.cluster):
        total, pieces = stage_sources(plan)
        staged_s = time.monotonic() - started
        reduce_buckets(plan, pieces, total)
    check_quarantine(plan, total.tally)
    manifest = make_manifest(plan, total)
    manifest["seconds"] = {"map": round(staged_s, 1), "total": round(time.monotonic() - started, 1)}
    commit_manifest(plan.folder, manifest)
    delete_leftovers(plan.folder)
    print_summary(plan, manifest)
    return 0


def make_plan(config: PrepareCorpusConfig) -> Plan:
    """Check everything that can be checked without a cluster. Raises UserError."""
    folder = Folder(config.corpus)
    guideline = read_guideline(config.guideline)
    if config.guideline.by_section:
        check_sections(config, guideline)
    files = list_source_files(config.source)
    manifests = read_manifests(folder)
    files = find_new_files(folder, manifests, describe_run(config, guideline), files)
    parts = plan_parts(files, config.source.delimiter)
    check_sources(config, parts)
    intake = IntakeRules(
        columns=config.columns,
        scales=config.scale,
        guideline=guideline,
        layout=config.source.layout,
        max_text_bytes=config.limits.max_text_bytes,
        needs_annotator=config.target.rule == "per_annotator",
    )
    num_buckets = manifests[0]["buckets"] if manifests else config.shards.buckets or choose_buckets(config, parts)
    rules = CorpusRules(
        target=config.target,
        scales=config.scale,
        split=config.split,
        units_per_shard=config.shards.units_per_shard,
        num_buckets=num_buckets,
        generation=len(manifests),
        first_round=number_next_round(manifests, num_buckets),
        file_urls=[file.url for file in files],
        names_annotators=config.source.layout == "wide" or config.columns.annotator_id is not None,
    )
    stage = StagePlan(intake, num_buckets, len(manifests), config.limit)
    return Plan(config, folder, guideline, files, parts, stage, rules)


def read_guideline(config: GuidelineConfig) -> Guideline:
    """Read the guideline. Raises UserError where it can't be read or cut into sections."""
    filesystem, path = open_filesystem(config.path)
    try:
        text = filesystem.cat_file(path).decode()
        return parse_guideline(text, config.by_section)
    except FileNotFoundError as error:
        raise UserError(f"guideline.path: {config.path}: no such file") from error
    except ValueError as error:
        raise UserError(f"guideline.path: {config.path}: {error}") from error


def check_sections(config: PrepareCorpusConfig, guideline: Guideline) -> None:
    """Raise UserError where a dimension with a scale of its own has no section."""
    missing = [name for name in config.scale.dimensions if guideline.guideline_for(name) is None]
    if missing:
        raise UserError(
            f"{config.guideline.path}: no section for the dimension(s) {missing[:5]} of scale.dimensions\n"
            f"found: {sorted(guideline.sections)[:20]}; add '## NAME' headings, or drop guideline.by_section"
        )


def check_sources(config: PrepareCorpusConfig, parts: list[SourcePart]) -> None:
    """Raise UserError for files that can't be opened, and for columns that are not there."""
    faults = [f"{part.file.url}: {part.fault}" for part in parts if part.fault]
    readable = {part.file.url: part for part in parts if not part.fault}
    with ThreadPoolExecutor(max_workers=16) as pool:
        faults += filter(None, pool.map(lambda part: find_header_fault(config, part), readable.values()))
    if faults and config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(faults))


def find_header_fault(config: PrepareCorpusConfig, part: SourcePart) -> str | None:
    """Check the columns of a file; returns what is broken where they can't be read."""
    try:
        check_columns(part.file, part.delimiter, config.columns)
    except Exception as error:
        if not is_corruption(error):
            raise
        return f"{part.file.url}: {error}"
    return None


def describe_corrupt(corrupt: list[str]) -> str:
    """Say which files are broken and what can be done."""
    return (
        f"{len(corrupt)} source file(s) are corrupt or truncated:\n  "
        + "\n  ".join(corrupt[:5])
        + "\nreplace them, or use what can be read of them with --source.on_corrupt_file=quarantine"
    )


def choose_buckets(config: PrepareCorpusConfig, parts: list[SourcePart]) -> int:
    """Choose the number of buckets so that one fits a task's memory."""
    labels = config.columns.labels
    cells = len(labels) if isinstance(labels, list) else 1 if labels is None else 5
    by_rows = estimate_rows(parts) * cells // ROWS_PER_BUCKET
    return int(max(by_rows, sum(part.size_bytes for part in parts) // BYTES_PER_BUCKET) + 1)


def stage_sources(plan: Plan) -> tuple[BucketResult, dict[int, list[Piece]]]:
    """Run the map stage; returns the counts so far and the pieces of each bucket."""
    folder, stage = plan.folder, plan.stage
    is_pilot = plan.config.limit is not None
    tasks = [plan.parts] if is_pilot else [[part] for part in plan.parts]
    total = BucketResult()
    pieces: dict[int, list[Piece]] = {bucket: [] for bucket in range(stage.num_buckets)}
    for result in run_tasks("map", lambda number, parts: stage_parts(folder, parts, stage, number), tasks):
        total.tally.add(result.tally)
        total.files += [result.quarantine] if result.quarantine else []
        for bucket, piece in result.pieces.items():
            pieces[bucket].append(piece)
    if total.tally.unreadable and plan.config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(total.tally.unreadable))
    check_quarantine(plan, total.tally)
    return total, pieces


def reduce_buckets(plan: Plan, pieces: dict[int, list[Piece]], total: BucketResult) -> None:
    """Run the reduce stage and add its counts and the names of what it wrote."""
    folder, rules = plan.folder, plan.rules
    for result in run_tasks("reduce", lambda _, task: write_bucket(folder, task[0], task[1], rules), [*pieces.items()]):
        total.add(result)


def describe_run(config: PrepareCorpusConfig, guideline: Guideline) -> dict[str, Any]:
    """Describe what decides the units of a run, as its manifest does."""
    resolved = config.model_dump(mode="json")
    return {"config": resolved, "guideline_sha256": sha256(guideline.text.encode()).hexdigest()}


def check_quarantine(plan: Plan, tally: RowCounts) -> None:
    """Raise UserError where more rows were quarantined than the config bears."""
    limit = plan.config.limits.max_quarantined_rate
    if tally.num_quarantined <= limit * tally.rows_in:
        return
    raise UserError(
        f"{tally.num_quarantined} of {tally.rows_in} rows are unusable, over limits.max_quarantined_rate = {limit}\n"
        f"reasons: {dict(tally.quarantined.most_common())}\nfor example:\n  "
        + "\n  ".join(tally.examples)
        + f"\nall of them: {plan.folder.url}/quarantine/; mend the source or the config, or raise the limit"
    )


def make_manifest(plan: Plan, total: BucketResult) -> dict[str, Any]:
    """Make the manifest of this generation."""
    tally = total.tally
    counts = {
        "rows_in": tally.rows_in,
        "rows_quarantined": tally.num_quarantined,
        "annotations": total.annotations,
        "units": total.units,
        "empty_cells": tally.empty_cells,
        "quarantined": dict(sorted(tally.quarantined.items())),
        "dropped": dict(sorted(total.dropped.items())),
        "splits": dict(sorted(total.splits.items())),
        "labels": {name: dict(sorted(found.items())) for name, found in sorted(total.labels.items())},
    }
    return {
        "format_version": FORMAT_VERSION,
        "generation": plan.rules.generation,
        **describe_run(plan.config, plan.guideline),
        "buckets": plan.rules.num_buckets,
        "input": [asdict(file) for file in plan.files],
        "counts": counts,
        "shards": sorted(total.shards, key=lambda shard: str(shard["name"])),
        "files": sorted(total.files),
        "versions": list_versions(),
    }


def print_dry_run(plan: Plan) -> None:
    """Print the resolved config and one unit made of the first rows."""
    print(json.dumps(plan.config.model_dump(mode="json"), indent=1, ensure_ascii=False))
    print(f"\n{len(plan.files)} source file(s), {len(plan.parts)} part(s), {plan.rules.num_buckets} bucket(s)")
    part, tally = plan.parts[0], RowCounts()
    staged = [STAGED.empty_table()]
    for batch in limit_batches(read_part(part, list(plan.config.columns.name_columns())), 1000):
        admitted = admit_batch(batch, plan.stage.rules)
        index = pa.array([0] * len(admitted.annotations), pa.int32())
        staged.append(admitted.annotations.append_column(STAGED.field("file_index"), index))
        for fault in admitted.faults:
            tally.add_fault(part.file.url, fault)
    known = staged[0].select(["item_id", "dimension"])
    kept, _ = find_repeats(pa.concat_tables(staged), known, plan.rules.names_annotators)
    units, dropped = make_units(kept, plan.rules)
    print(f"of the first rows: {len(kept)} annotations, {len(units)} units, {len(dropped)} dropped")
    if tally.num_quarantined:
        print(f"quarantined: {dict(tally.quarantined)}\n  " + "\n  ".join(tally.examples))
    if len(units):
        unit = units.slice(0, 1).to_pylist()[0]
        print("one unit:\n" + json.dumps(unit, indent=1, ensure_ascii=False))
        told = plan.guideline.guideline_for(unit["dimension"]) or ""
        print(f"its guideline ({len(told)} characters):\n{told[:1000]}")


def print_summary(plan: Plan, manifest: dict[str, Any]) -> None:
    """Print what was done, and where it is."""
    counts = manifest["counts"]
    print(
        f"rows in      {counts['rows_in']}\n"
        f"annotations  {counts['annotations']}\n"
        f"quarantined  {counts['rows_quarantined']} {counts['quarantined'] or ''}\n"
        f"units        {counts['units']} {counts['splits']}\n"
        f"dropped      {sum(counts['dropped'].values())} {counts['dropped'] or ''}\n"
        f"shards       {len(manifest['shards'])} in {plan.folder.url}/items\n"
        f"manifest     {plan.folder.url}/{name_manifest(manifest['generation'])}, {manifest['seconds']['total']} s"
    )


if __name__ == "__main__":
    run_job(main)
