"""Turn a labelled corpus (Parquet, CSV or JSONL, local or on S3) into annotations and numbered shards of units.

python -m jobs.prepare_corpus CONFIG.toml [--section.key=value ...]

source files --map--> staging by bucket --reduce--> corpus folder (see judgetrace.corpus for its files). Run it again
with more source files to append them; what is prepared stays as it is. One run at a time for a corpus.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from judgetrace.config import UserError, load_config, run_job
from judgetrace.corpus import (
    FORMAT_VERSION,
    BucketResult,
    commit_manifest,
    delete_leftovers,
    name_manifest,
    write_bucket,
)
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corpus_plan import (
    CorpusPlan,
    check_quarantine,
    describe_corrupt,
    describe_run,
    make_plan,
    print_dry_run,
)
from judgetrace.session import connect_ray
from judgetrace.sources import SourcePart
from judgetrace.staging import Piece, StageResult, is_hopeless, stage_parts
from judgetrace.tasks import run_tasks
from judgetrace.versions import list_versions


def main(arguments: list[str]) -> int:
    """Prepare or append; returns the exit status."""
    config = load_config(PrepareCorpusConfig, "prepare_corpus", arguments)
    plan = make_plan(config)
    if not plan.files:
        print(f"nothing new: every source file is in {config.corpus} already")
        return 0
    for warning in plan.warnings:
        print(f"warning: {warning}")
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


def stage_sources(plan: CorpusPlan) -> tuple[BucketResult, dict[int, list[Piece]]]:
    """Run the map stage; returns the counts so far and the pieces of each bucket."""
    folder, stage = plan.folder, plan.stage
    is_pilot = plan.config.limit is not None
    tasks = [plan.parts] if is_pilot else [[part] for part in plan.parts]
    total, done_bytes, all_bytes = BucketResult(), 0, sum(part.size_bytes for part in plan.parts)
    pieces: dict[int, list[Piece]] = {bucket: [] for bucket in range(stage.num_buckets)}

    def run(number: int, parts: list[SourcePart]) -> StageResult:
        return stage_parts(folder, parts, stage, number)

    for result in run_tasks("map", run, tasks, wait_s=plan.config.cluster.wait_s):
        total.tally.add(result.tally)
        total.files += result.quarantine
        done_bytes += result.size_bytes
        if is_hopeless(total.tally, plan.config.limits.max_quarantined_rate, done_bytes / max(all_bytes, 1)):
            check_quarantine(plan, total.tally)
        for bucket, piece in result.pieces.items():
            pieces[bucket].append(piece)
    if total.tally.unreadable and plan.config.source.on_corrupt_file == "stop":
        raise UserError(describe_corrupt(total.tally.unreadable))
    check_quarantine(plan, total.tally)
    return total, pieces


def reduce_buckets(plan: CorpusPlan, pieces: dict[int, list[Piece]], total: BucketResult) -> None:
    """Run the reduce stage and add its counts and the names of what it wrote."""
    folder, rules, tasks, wait_s = plan.folder, plan.rules, [*pieces.items()], plan.config.cluster.wait_s
    for result in run_tasks("reduce", lambda _, task: write_bucket(folder, *task, rules), tasks, wait_s=wait_s):
        total.add(result)


def make_manifest(plan: CorpusPlan, total: BucketResult) -> dict[str, Any]:
    """Make the manifest of this generation."""
    tally = total.tally
    counts = {
        "rows_in": tally.rows_in,
        "source_rows": tally.source_rows,
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


def print_summary(plan: CorpusPlan, manifest: dict[str, Any]) -> None:
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
