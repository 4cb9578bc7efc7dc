"""traces/ of several runs -> suspects/, noise.md: units that no draw of any proposal reaches, with what was drawn.

python -m jobs.list_noise CONFIG.toml [--section.key=value ...]

Samples nothing, and does it all again at every call.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from judgetrace.config import OneOrMore, UserError, load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.label_noise import MIN_DRAWS, READ, find_suspects, rank_suspect
from judgetrace.ledger import table_keys
from judgetrace.noise_report import write_noise
from judgetrace.run_inputs import RunInputs
from judgetrace.scale import ScaleConfig
from judgetrace.schema import UNIT_KEY
from judgetrace.session import RayConfig, connect_ray
from judgetrace.storage import Folder, encode_json, encode_parquet
from judgetrace.tasks import run_tasks
from judgetrace.traces import check_trace_runs, read_earlier


class ListNoiseConfig(BaseModel):
    """List the units of a corpus that no draw of any proposal reaches: suspected label noise."""

    model_config = ConfigDict(extra="forbid")

    corpus: str = Field(description="The corpus folder; local path, s3:// or any fsspec URL.")
    runs: OneOrMore = Field(min_length=1, description="Complete runs of infer_traces over it: all proposals.")
    output: str = Field(description="The folder to write suspects/, noise.md and manifest.json into.")
    min_draws: int = Field(default=MIN_DRAWS, ge=1, description="Draws with a rating that must have missed the label.")
    show: int = Field(default=100, ge=0, description="Suspects in noise.md at most; suspects/ has all of them.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status."""
    config = load_config(ListNoiseConfig, "list_noise", arguments)
    if config.output.rstrip("/") in {run.rstrip("/") for run in config.runs}:
        raise UserError("output is one of the runs; give another folder")
    inputs = RunInputs(config.corpus, None, None)
    runs = check_trace_runs("runs", config.runs, inputs.corpus_id)
    output = Folder(config.output)
    # What an earlier call left may be of other runs.
    output.delete(["manifest.json", *(f"suspects/{name}" for name in (output / "suspects").list_files())])
    tasks = [NoiseTask(config, inputs.scale, shard) for shard, units in inputs.shards if units]
    counts: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    with connect_ray(config.cluster):
        for found in run_tasks("list_noise", list_shard, tasks, wait_s=config.cluster.wait_s):
            counts.update(found.counts)
            first = heapq.nsmallest(config.show, [*first, *found.first], key=rank_suspect)
    output.write_atomic("noise.md", write_noise(first, counts).encode())
    manifest = {"job": "list_noise", "config": config.model_dump(mode="json"), "runs": runs, "counts": dict(counts)}
    output.write_atomic("manifest.json", encode_json(manifest))
    console = open_console()
    console.print(f"{counts['suspects']:,} of {counts['units']:,} units are suspects: no draw reached them")
    print_place(console, "Listing", f"{config.output}/noise.md")
    return 0


@dataclass(frozen=True)
class NoiseTask:
    """A shard of the corpus to look through."""

    config: ListNoiseConfig
    scale: ScaleConfig
    shard: int


@dataclass(frozen=True)
class ShardNoise:
    """What was found in a shard: counts, and its first suspects (rows of label_noise.SUSPECTS)."""

    counts: Counter[str]
    first: list[dict[str, Any]]


def list_shard(_: int, task: NoiseTask) -> ShardNoise:
    """Write the suspects of a shard; returns its counts and first suspects."""
    config = task.config
    columns = [name for name in READ if name not in (*UNIT_KEY, "outcome")]
    tables = [read_earlier([run], task.shard, columns) for run in config.runs]
    suspects = find_suspects(tables, task.scale, config.min_draws)
    (Folder(config.output) / "suspects").write_atomic(f"shard-{task.shard:05d}.parquet", encode_parquet(suspects))
    units = {key for table in tables for key in table_keys(table)}
    counts = Counter(units=len(units), suspects=suspects.num_rows)
    return ShardNoise(counts, suspects.slice(0, config.show).to_pylist())


if __name__ == "__main__":
    run_job(main)
