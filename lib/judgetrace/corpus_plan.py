"""What a run of prepare_corpus will do, as far as it is known without a cluster; and what it can't do, and why."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from judgetrace.columns import ColumnsConfig, check_columns
from judgetrace.config import UserError
from judgetrace.corpus import find_new_files, number_next_round, read_manifests
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corruption import is_corruption
from judgetrace.guideline import Guideline, GuidelineConfig, parse_guideline
from judgetrace.intake import IntakeRules, admit_batch
from judgetrace.readers import is_head_whole, read_part
from judgetrace.sources import (
    GUESSED_ROW_BYTES,
    SourceFile,
    SourcePart,
    estimate_bytes,
    estimate_rows,
    list_source_files,
    plan_parts,
)
from judgetrace.staging import STAGED, RowCounts, StagePlan, limit_batches
from judgetrace.storage import Folder, read_text
from judgetrace.text_files import measure_row_bytes
from judgetrace.units import CorpusRules, find_repeats, make_units, settle_groups

ROWS_PER_BUCKET = 50_000
MAX_ROWS_PER_BUCKET = 500_000
BYTES_PER_BUCKET = 256 << 20
MIN_BYTES_PER_BUCKET = 32 << 20
MAX_BUCKET_EXCESS = 4


@dataclass(frozen=True)
class CorpusPlan:
    """What a run will do: all that is known without a cluster."""

    config: PrepareCorpusConfig
    folder: Folder
    guideline: Guideline
    files: list[SourceFile]
    parts: list[SourcePart]
    stage: StagePlan
    rules: CorpusRules
    warnings: tuple[str, ...] = ()


def make_plan(config: PrepareCorpusConfig) -> CorpusPlan:
    """Check everything that can be checked without a cluster. Raises UserError."""
    folder = Folder(config.corpus)
    guideline = _read_guideline(config.guideline)
    if config.guideline.by_section:
        _check_sections(config, guideline)
    files = list_source_files(config.source)
    manifests = read_manifests(folder)
    files = find_new_files(folder, manifests, describe_run(config, guideline), files)
    parts = plan_parts(files, config.source.delimiter, config.source.quote)
    warnings = _check_sources(config, parts, bool(manifests))
    intake = IntakeRules(
        columns=config.columns,
        scales=config.scale,
        guideline=guideline,
        layout=config.source.layout,
        max_text_bytes=config.limits.max_text_bytes,
        needs_annotator=config.target.rule == "per_annotator",
    )
    if manifests:
        num_buckets = manifests[0]["buckets"]
        warnings += _warn_of_few_buckets(num_buckets, choose_buckets(config.columns, parts))
    else:
        num_buckets = config.shards.buckets or choose_buckets(config.columns, parts)
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
    return CorpusPlan(config, folder, guideline, files, parts, stage, rules, tuple(warnings))


def _read_guideline(config: GuidelineConfig) -> Guideline:
    """Read the guideline. Raises UserError where it can't be read or cut into sections."""
    text = read_text("guideline.path", config.path)
    try:
        return parse_guideline(text, config.by_section)
    except ValueError as error:
        raise UserError(f"guideline.path = {config.path}: {error}") from error


def _check_sections(config: PrepareCorpusConfig, guideline: Guideline) -> None:
    """Raise UserError where a dimension with a scale of its own has no section."""
    missing = [name for name in config.scale.dimensions if guideline.guideline_for(name) is None]
    if missing:
        raise UserError(
            f"{config.guideline.path}: no section for the dimension(s) {missing[:5]} of scale.dimensions\n"
            f"found: {sorted(guideline.sections)[:20]}; add '## NAME' headings, or drop guideline.by_section"
        )


def _check_sources(config: PrepareCorpusConfig, parts: list[SourcePart], appends: bool) -> list[str]:
    """Raise UserError for files that can't be opened, and for columns that are not there; returns warnings."""
    faults = [f"{part.file.url}: {part.fault}" for part in parts if part.fault]
    readable = {part.file.url: part for part in parts if not part.fault}
    with ThreadPoolExecutor(max_workers=16) as pool:
        found = list(pool.map(lambda part: _find_columns(config, part), readable.values()))
    faults += [fault for _, fault in found if fault]
    if faults and config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(faults))
    is_sure = not appends and all(part.file.format != "jsonl" or is_head_whole(part.file) for part in readable.values())
    return _check_labels(config, [names for names, _ in found if names], is_sure=is_sure)


def _check_labels(config: PrepareCorpusConfig, found: list[list[str]], is_sure: bool) -> list[str]:
    """Raise UserError for label columns that no file has; returns a warning where that is not sure."""
    known = {name for names in found for name in names}
    missing = [name for name in config.columns.label_columns if name not in known]
    if not found or not missing:
        return []
    told = f"columns.labels: {missing[:5]} ({len(missing)}) occur in no source file"
    if is_sure:
        raise UserError(f"{told}; found: {sorted(known)[:40]}\nleave them out, or name them as the files do")
    return [f"{told}, as far as their first bytes tell; what is nowhere counts as empty cells"]


def _find_columns(config: PrepareCorpusConfig, part: SourcePart) -> tuple[list[str] | None, str | None]:
    """Find the columns of a file, and what is broken where they can't be read. Raises UserError for missing ones."""
    try:
        return check_columns(part, config.columns), None
    except Exception as error:
        if not is_corruption(error):
            raise
        return None, f"{part.file.url}: {error}"


def describe_corrupt(corrupt: list[str]) -> str:
    """Say which files are broken and what can be done."""
    return (
        f"{len(corrupt)} source file(s) are corrupt or truncated:\n  "
        + "\n  ".join(corrupt[:5])
        + "\nreplace them, or use what can be read of them with --source.on_corrupt_file=quarantine"
    )


def choose_buckets(columns: ColumnsConfig, parts: list[SourcePart]) -> int:
    """Choose the number of buckets so that one fits a task's memory.

    The rows of text files are estimated, and label cells may be empty: their buckets are not made small for many rows
    of few bytes.
    """
    labels = columns.labels
    cells = len(labels) if isinstance(labels, list) else 1 if labels is None else 5
    texts = [part for part in parts if part.file.format != "parquet"]
    exact = sum(part.num_rows or 0 for part in parts) * cells // ROWS_PER_BUCKET
    rows = estimate_rows(texts, measure_row_bytes([part.file for part in texts]) or GUESSED_ROW_BYTES) * cells
    by_text = min(rows // ROWS_PER_BUCKET, estimate_bytes(texts) // MIN_BYTES_PER_BUCKET)
    by_rows = exact + max(by_text, rows // MAX_ROWS_PER_BUCKET)
    return max(by_rows, estimate_bytes(parts) // BYTES_PER_BUCKET) + 1


def _warn_of_few_buckets(kept: int, wanted: int) -> list[str]:
    """Warn where the files to append need far more buckets than the corpus has, which can't change."""
    if wanted <= MAX_BUCKET_EXCESS * kept:
        return []
    return [
        f"this corpus has {kept} bucket(s), as its first run chose; the new files alone would have {wanted}, so that a "
        f"reduce task needs some {wanted / kept:.0f} times its usual memory\n"
        f"append them in some {math.ceil(wanted / kept)} runs of fewer files each, or prepare all files into another "
        f"folder; there --shards.buckets={wanted} or more leaves room for what will be appended"
    ]


def describe_run(config: PrepareCorpusConfig, guideline: Guideline) -> dict[str, Any]:
    """Describe what decides the units of a run, as its manifest does."""
    resolved = config.model_dump(mode="json")
    return {"config": resolved, "guideline_sha256": sha256(guideline.text.encode()).hexdigest()}


def check_quarantine(plan: CorpusPlan, tally: RowCounts) -> None:
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


def print_dry_run(plan: CorpusPlan) -> None:
    """Print the resolved config and one unit made of the first rows."""
    print(json.dumps(plan.config.model_dump(mode="json"), indent=1, ensure_ascii=False))
    print(f"\n{len(plan.files)} source file(s), {len(plan.parts)} part(s), {plan.rules.num_buckets} bucket(s)")
    part, tally = plan.parts[0], RowCounts()
    staged = [STAGED.empty_table()]
    columns = plan.config.columns
    for batch in limit_batches(read_part(part, list(columns.name_columns()), columns.extra is None), 1000):
        admitted = admit_batch(batch, plan.stage.rules)
        index = pa.array([0] * len(admitted.annotations), pa.int32())
        staged.append(admitted.annotations.append_column(STAGED.field("file_index"), index))
        for fault in admitted.faults:
            tally.add_fault(part.file.url, fault)
    settled, strays = settle_groups(pa.concat_tables(staged), staged[0])
    for _, fault in strays:
        tally.add_fault(part.file.url, fault)
    kept, _ = find_repeats(settled, staged[0], plan.rules.names_annotators)
    units, dropped = make_units(kept, plan.rules)
    print(f"of the first rows: {len(kept)} annotations, {len(units)} units, {len(dropped)} dropped")
    if tally.num_quarantined:
        print(f"quarantined: {dict(tally.quarantined)}\n  " + "\n  ".join(tally.examples))
    if len(units):
        unit = units.slice(0, 1).to_pylist()[0]
        print("one unit:\n" + json.dumps(unit, indent=1, ensure_ascii=False))
        told = plan.guideline.guideline_for(unit["dimension"]) or ""
        print(f"its guideline ({len(told)} characters):\n{told[:1000]}")
