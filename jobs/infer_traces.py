"""items/ -> traces/: sample thinking traces with ratings, keep the trace whose rating matches the human label.

python -m jobs.infer_traces CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from judgetrace.config import UserError, load_config, run_job
from judgetrace.corpus import read_manifests
from judgetrace.guideline import parse_guideline
from judgetrace.live import LiveLine
from judgetrace.prompts import PromptRenderer, load_template
from judgetrace.run_folder import RunFolder
from judgetrace.scale import ScaleConfig
from judgetrace.session import check_resources, connect_ray
from judgetrace.storage import Folder, encode_json
from judgetrace.trace_config import InferTracesConfig, fingerprint_model, hash_text, make_contract
from judgetrace.trace_report import print_summary, print_traces, summarise_run
from judgetrace.trace_worker import WorkerSpec
from judgetrace.versions import list_versions

STOPPED_EARLY_STATUS = 3
"""Exit status of a run that ended early and can be continued."""


class Inputs:
    """What a run reads before it starts: the corpus's manifests, its guideline, the template. Raises UserError."""

    def __init__(self, config: InferTracesConfig):
        self.config = config
        self.corpus = Folder(config.corpus)
        manifests = read_manifests(self.corpus)
        if not manifests:
            raise UserError(f"corpus = {config.corpus}: no finished corpus there; run jobs.prepare_corpus first")
        prepared = manifests[0]["config"]
        self.scale = ScaleConfig.model_validate(prepared["scale"])
        self.by_section = bool(prepared["guideline"]["by_section"])
        self.guideline = self._read_guideline()
        self.template = load_template(config.prompt.template)
        self.model_fingerprint = fingerprint_model(config.model)
        shards = [shard for manifest in manifests for shard in manifest["shards"]]
        self.shards = sorted((int(shard["name"][6:-8]), int(shard["units"])) for shard in shards)
        self.corpus_id = identify_corpus(manifests[0])
        self.num_units = sum(units for _, units in self.shards)
        if not self.num_units:
            raise UserError(f"corpus = {config.corpus}: it has no units; see its manifest for what was dropped and why")

    def _read_guideline(self) -> str:
        if self.config.guideline is None:
            return self.corpus.read_bytes("guideline.md").decode()
        folder, _, name = self.config.guideline.rpartition("/")
        try:
            return Folder(folder or ".").read_bytes(name).decode()
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise UserError(f"guideline = {self.config.guideline}: can't be read: {error}") from error

    def contract(self) -> dict[str, Any]:
        """Collect what the run's rows depend on."""
        return make_contract(self.config, self.corpus_id, self.guideline, self.template, self.model_fingerprint)

    def describe(self, total: int) -> dict[str, Any]:
        """Collect what a driver leaves for those who look at its run from elsewhere."""
        corpus = self.config.corpus if "://" in self.config.corpus else str(Path(self.config.corpus).resolve())
        return {
            "corpus": corpus,
            "units": total,
            "scale": self.scale.model_dump(mode="json"),
            "max_draws": self.config.sampling.max_draws,
            "config": self.config.model_dump(mode="json"),
        }

    def worker_spec(self, driver: int) -> WorkerSpec:
        """Collect what a worker needs."""
        config = self.config
        return WorkerSpec(
            run=config.run,
            corpus=config.corpus,
            driver=driver,
            model=config.model,
            engine=config.engine,
            prompt=config.prompt,
            template=self.template,
            guideline=self.guideline,
            by_section=self.by_section,
            scale=self.scale,
            thinking=config.thinking,
            sampling=config.sampling,
            acceptance=config.acceptance,
            commit_every_s=config.ledger.commit_every_s,
            keep_rejected_text=config.ledger.keep_rejected_text,
            drain_s=config.ledger.drain_s,
        )


def identify_corpus(manifest: dict[str, Any]) -> str:
    """Fingerprint a corpus by its first manifest: its source files, rules and shards, not the folder it lies in."""
    rules = {name: manifest["config"][name] for name in ("columns", "scale", "target", "split", "shards")}
    files = [{k: v for k, v in file.items() if k != "url"} for file in manifest["input"]]
    return hash_text(json.dumps([rules, files, manifest["shards"]], sort_keys=True))


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0 complete, 2 unusable input, 3 ended early and can be continued."""
    config = load_config(InferTracesConfig, "infer_traces", arguments)
    console = Console(highlight=False)
    inputs = Inputs(config)
    if config.dry_run:
        print_dry_run(console, inputs)
        return 0
    with connect_ray(config.cluster) as started_here:
        return infer(console, inputs, started_here)


def print_dry_run(console: Console, inputs: Inputs) -> None:
    """Print the resolved config and one rendered prompt."""
    console.print_json(inputs.config.model_dump_json())
    number, _ = inputs.shards[0]
    row = inputs.corpus.read_table(f"items/shard-{number:05d}.parquet").slice(0, 1).to_pylist()[0]
    scale = inputs.scale.of(row["dimension"])
    guideline = parse_guideline(inputs.guideline, inputs.by_section).guideline_for(row["dimension"])
    if scale is None or guideline is None:
        raise UserError(f"guideline: no section for the dimension {row['dimension']!r}")
    renderer = PromptRenderer(inputs.template, inputs.config.prompt.system)
    messages = renderer.render(json.loads(row["fields"]), guideline, row["dimension"], scale)
    console.print(f"\n[bold]Prompt of {row['item_id']}[/] (target label {row['target_label']}, which it must not hold)")
    for message in messages:
        console.print(f"--- {message['role']}\n{message['content']}", markup=False)
    console.print(f"---\n{inputs.num_units:,} units in {len(inputs.shards):,} shards")


def infer(console: Console, inputs: Inputs, started_here: bool) -> int:
    """Sample what is not decided yet; returns the exit status."""
    # Imported late: it needs Ray, which --help and --dry-run do not.
    from judgetrace.trace_run import TraceRun, drop_finished, needs_of, plan_shards

    config, run = inputs.config, RunFolder(Folder(inputs.config.run))
    check_resources("infer_traces", needs_of(config.engine), started_here)
    run.check_store()
    run.check_contract(inputs.contract())
    planned = plan_shards(inputs.shards, config.limit)
    total = sum(task.num_units for task in planned)
    driver = run.claim(time.time(), inputs.describe(total))
    tasks = drop_finished(run.folder, planned)
    if tasks:
        # More was appended, or failed units are retried: the run is not complete any more.
        run.folder.delete(["manifest.json"])
    before = summarise_run(run, inputs.corpus, total)
    decided_before = before["decided"] - before["outcomes"].get("failed", 0)
    console.print(
        f"run {config.run}: {total:,} units in {len(planned):,} shards, {decided_before:,} decided earlier; "
        f"{len(tasks):,} shards to go"
    )
    job = TraceRun(run, driver, config.limits, LiveLine(total, decided_before))
    if tasks:
        end = job.work(inputs.worker_spec(driver), tasks, config.cluster.wait_s)
    summary = summarise_run(run, inputs.corpus, total)
    print_traces(console, run)
    print_summary(console, run, summary, inputs.scale, config.sampling.max_draws)
    console.print(f"\nTraces: [bold]{run.folder.url}/traces[/]", soft_wrap=True)
    if tasks and not end.is_complete:
        console.print(f"[bold]Ended early[/]: {end.reason}\nRun the same command again to go on.", soft_wrap=True)
        return STOPPED_EARLY_STATUS
    left = total - summary["decided"] + summary["outcomes"].get("failed", 0)
    if left > 0:
        console.print(f"[bold]{left:,} units failed or were not reached[/]. Run the same command again to go on.")
        return STOPPED_EARLY_STATUS
    if config.limit is None:
        write_manifest(run, inputs, summary)
    return 0


def write_manifest(run: RunFolder, inputs: Inputs, summary: dict[str, Any]) -> None:
    """Write the manifest, last: the run is complete."""
    manifest = {
        "config": inputs.config.model_dump(mode="json"),
        "contract": inputs.contract(),
        "inputs": {"shards": len(inputs.shards), "units": inputs.num_units},
        "versions": list_versions(),
        **summary,
    }
    run.folder.write_atomic("manifest.json", encode_json(manifest))


if __name__ == "__main__":
    run_job(main)
