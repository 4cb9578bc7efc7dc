"""Turn a labelled corpus (Parquet, CSV or JSONL, local or on S3) into annotations and numbered shards of units.

python -m jobs.prepare_corpus CONFIG.toml [--section.key=value ...]

source files --map--> staging by bucket --reduce--> corpus folder (see judgetrace.corpus for its files). Run it again
with more source files to append them; what is prepared stays as it is. One run at a time for a corpus.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT, UserError, load_config, run_job
from judgetrace.corpus import (
    FORMAT_VERSION,
    BucketResult,
    CorpusRules,
    commit_manifest,
    delete_leftovers,
    find_repeats,
    make_units,
    name_manifest,
    read_manifests,
    write_bucket,
)
from judgetrace.guideline import Guideline, GuidelineConfig, parse_guideline
from judgetrace.intake import ColumnsConfig, IntakeRules, admit_batch
from judgetrace.labels import TargetConfig, check_rule
from judgetrace.readers import read_column_names, read_part
from judgetrace.scale import ScaleConfig
from judgetrace.session import RayConfig, connect_ray
from judgetrace.sources import (
    SourceConfig,
    SourceFile,
    SourcePart,
    estimate_rows,
    list_source_files,
    plan_parts,
)
from judgetrace.splits import SplitConfig
from judgetrace.staging import STAGED, Piece, StagePlan, StageResult, Tally, limit_batches, stage_parts
from judgetrace.storage import Folder, open_filesystem

ROWS_PER_BUCKET = 200_000
BYTES_PER_BUCKET = 256 << 20
MAX_RETRIES = 3


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
        tally, pieces, quarantine = stage_sources(plan)
        staged_s = time.monotonic() - started
        total = reduce_buckets(plan, pieces)
    rows_in, empty_cells = tally.rows_in, tally.empty_cells
    tally.add(total.tally)
    check_quarantine(plan, tally, rows_in)
    manifest = make_manifest(plan, rows_in, empty_cells, tally, total, quarantine)
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
    if manifests:
        files = find_new_files(config, guideline, manifests, files)
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
    numbers = [int(shard["name"][6:-8]) for manifest in manifests for shard in manifest["shards"]]
    rules = CorpusRules(
        target=config.target,
        scales=config.scale,
        split=config.split,
        units_per_shard=config.shards.units_per_shard,
        num_buckets=num_buckets,
        generation=len(manifests),
        first_round=max(numbers) // num_buckets + 1 if numbers else len(manifests),
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


def find_new_files(
    config: PrepareCorpusConfig, guideline: Guideline, manifests: list[dict[str, Any]], files: list[SourceFile]
) -> list[SourceFile]:
    """Find the files that no earlier run took. Raises UserError where the corpus can't be appended to."""
    if any(manifest["config"]["limit"] for manifest in manifests):
        raise UserError(f"{config.corpus}: is a pilot (--limit) and can't be appended to; prepare into another folder")
    earlier, now = describe_units(manifests[0]), describe_units(describe_run(config, guideline))
    changed = [name for name in now if now[name] != earlier.get(name)] + [name for name in earlier if name not in now]
    if changed:
        shown = [f"  {name}: was {earlier.get(name)!r}, is {now.get(name)!r}" for name in changed[:5]]
        raise UserError(
            f"{config.corpus}: holds units of another config; changed: {', '.join(changed[:20])}\n"
            + "\n".join(shown)
            + "\nundo the change, or prepare into another folder"
        )
    known = {file["url"]: file["fingerprint"] for manifest in manifests for file in manifest["input"]}
    altered = [file.url for file in files if known.get(file.url, file.fingerprint) != file.fingerprint]
    if altered:
        raise UserError(
            f"{len(altered)} source file(s) changed since they were prepared: {altered[:5]}\n"
            "give new rows in new files, or prepare everything into another folder"
        )
    return [file for file in files if file.url not in known]


def describe_run(config: PrepareCorpusConfig, guideline: Guideline) -> dict[str, Any]:
    """Describe what decides the units of a run, as a manifest does."""
    resolved = config.model_dump(mode="json")
    return {"config": resolved, "guideline_sha256": sha256(guideline.text.encode()).hexdigest()}


def describe_units(run: dict[str, Any]) -> dict[str, Any]:
    """List what must not change between the runs of a corpus: dotted key -> value."""
    resolved = run["config"]
    found = {"source.layout": resolved["source"]["layout"], "guideline": run["guideline_sha256"]}
    found["guideline.by_section"] = resolved["guideline"]["by_section"]
    for section in ("columns", "scale", "target", "split"):
        found |= {f"{section}.{key}": value for key, value in resolved[section].items()}
    return found


def check_sources(config: PrepareCorpusConfig, parts: list[SourcePart]) -> None:
    """Raise UserError for files that can't be opened, and for columns that are not there."""
    corrupt = [f"{part.file.url}: {part.fault}" for part in parts if part.fault]
    if corrupt and config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(corrupt))
    first_parts = {part.file.url: part for part in parts if not part.fault}
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(lambda part: check_columns(config, part), first_parts.values()))


def check_columns(config: PrepareCorpusConfig, part: SourcePart) -> None:
    """Raise UserError where a file lacks a column of the config."""
    try:
        found = read_column_names(part.file, part.delimiter)
    except (pa.ArrowInvalid, EOFError) as error:
        if config.source.on_corrupt_file == "quarantine":
            return
        raise UserError(describe_corrupt([f"{part.file.url}: {error}"])) from error
    required = config.columns.name_columns()
    if part.file.format == "jsonl":
        # Keys may be left out of single lines.
        needed = {config.columns.item_id, *config.columns.label_columns}
        required = {name: key for name, key in required.items() if name in needed}
    for name, key in required.items():
        if found is not None and name not in found:
            raise UserError(f"{part.file.url}: no column {name!r}; found: {found[:40]}\nset {key} to one of them")


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


def stage_sources(plan: Plan) -> tuple[Tally, dict[int, list[Piece]], list[str]]:
    """Run the map stage; returns the counts, each bucket's pieces and the quarantine files."""
    single = plan.config.limit is not None
    tasks = [plan.parts] if single else [[part] for part in plan.parts]
    folder, stage = plan.folder, plan.stage
    tally, pieces, quarantine = Tally(), {bucket: [] for bucket in range(stage.num_buckets)}, []  # type: ignore[var-annotated]
    for result in run_tasks("map", lambda number, parts: stage_parts(folder, parts, stage, number), tasks):
        assert isinstance(result, StageResult)
        tally.add(result.tally)
        for bucket, piece in result.pieces.items():
            pieces[bucket].append(piece)
        quarantine += [result.quarantine] if result.quarantine else []
    if tally.unreadable and plan.config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(tally.unreadable))
    check_quarantine(plan, tally, tally.rows_in)
    return tally, pieces, quarantine


def reduce_buckets(plan: Plan, pieces: dict[int, list[Piece]]) -> BucketResult:
    """Run the reduce stage; returns the counts and the names of what it wrote."""
    folder, rules = plan.folder, plan.rules
    total = BucketResult()
    tasks = list(pieces.items())
    for result in run_tasks("reduce", lambda _, task: write_bucket(folder, task[0], task[1], rules), tasks):
        total.add(result)
    return total


def run_tasks(stage: str, run: Callable[[int, Any], Any], tasks: list[Any]) -> Iterator[Any]:
    """Run one task a block on Ray Data and yield results as they come; says now and then how far it is."""
    import cloudpickle
    import ray

    def call(batch: dict[str, Any]) -> dict[str, Any]:
        number, task = cloudpickle.loads(batch["task"][0])
        try:
            result = run(number, task)
        except UserError as error:
            result = error
        return {"result": np.array([cloudpickle.dumps(result)], dtype=object)}

    rows = [{"task": cloudpickle.dumps(pair)} for pair in enumerate(tasks)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = dataset.map_batches(call, batch_size=1, num_cpus=1, max_retries=MAX_RETRIES)
    told = started = time.monotonic()
    for done, row in enumerate(results.iter_rows(), start=1):
        result = cloudpickle.loads(row["result"])
        if isinstance(result, UserError):
            raise result
        yield result
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{stage}: {done} of {len(tasks)} tasks, {told - started:.0f} s", flush=True)


def check_quarantine(plan: Plan, tally: Tally, rows_in: int) -> None:
    """Raise UserError where more rows were quarantined than the config bears."""
    limit = plan.config.limits.max_quarantined_rate
    if tally.num_quarantined <= limit * rows_in:
        return
    raise UserError(
        f"{tally.num_quarantined} of {rows_in} rows can't be used, more than limits.max_quarantined_rate = {limit}\n"
        f"reasons: {dict(tally.quarantined.most_common())}\nfor example:\n  "
        + "\n  ".join(tally.examples)
        + f"\nall of them: {plan.folder.url}/quarantine/; mend the source or the config, or raise the limit"
    )


def make_manifest(
    plan: Plan, rows_in: int, empty_cells: int, tally: Tally, total: BucketResult, quarantine: list[str]
) -> dict[str, Any]:
    """Make the manifest of this generation."""
    counts = {
        "rows_in": rows_in,
        "rows_quarantined": tally.num_quarantined,
        "annotations": total.tally.annotations,
        "units": total.units,
        "empty_cells": empty_cells,
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
        "files": sorted([*total.files, *quarantine]),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("pyarrow", "ray")}},
    }


def print_dry_run(plan: Plan) -> None:
    """Print the resolved config and one unit made of the first rows."""
    print(json.dumps(plan.config.model_dump(mode="json"), indent=1, ensure_ascii=False))
    print(f"\n{len(plan.files)} source file(s), {len(plan.parts)} part(s), {plan.rules.num_buckets} bucket(s)")
    part, tally = plan.parts[0], Tally()
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
