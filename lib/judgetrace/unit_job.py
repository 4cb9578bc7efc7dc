"""What every job that asks units does between config and report: claim the run, work, sum up, write the manifest.

Needs a connected Ray. The jobs say what they ask, and show what came of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from judgetrace.accounting import Tally, add_tallies
from judgetrace.config import STOPPED_EARLY_STATUS, JobStatus
from judgetrace.decisions import Decider
from judgetrace.gate import GATE, find_stop, summarise_gate
from judgetrace.limits import LimitsConfig, RunLimits
from judgetrace.metrics import RunView, count_earlier
from judgetrace.products import TRACE_PRODUCT
from judgetrace.quota import COUNTED, count_accepted
from judgetrace.rating_config import RateItemsConfig
from judgetrace.run_folder import FencedError, RunFolder
from judgetrace.run_inputs import SHARDS_READ_AT_ONCE, RunInputs
from judgetrace.run_report import summarise_run, tally_run
from judgetrace.session import check_resources
from judgetrace.storage import Folder, encode_json
from judgetrace.trace_config import InferTracesConfig
from judgetrace.trace_shards import TraceShard, list_trace_shards
from judgetrace.traces import read_traces
from judgetrace.unit_run import NO_GOALS, LevelGoals, RunEnd, ShardTask, UnitRun, drop_finished, needs_of, plan_shards
from judgetrace.unit_worker import WorkerSpec
from judgetrace.verification_config import VerifyTracesConfig
from judgetrace.versions import list_versions

Show = Callable[[RunFolder, dict[str, Any]], None]
"""Shows a run and its summary (run_report.summarise_run) to a person."""


@dataclass(frozen=True)
class UnitJob:
    """One call of a job. `hit` is the outcome that it is after."""

    name: str
    config: InferTracesConfig | RateItemsConfig | VerifyTracesConfig
    inputs: RunInputs
    decider: Decider
    model_fingerprint: str
    hit: str
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What identifies the earlier runs that the rows depend on, by their key in the config."""

    def contract(self) -> dict[str, Any]:
        """Collect what the run's rows depend on."""
        inputs, config = self.inputs, self.config
        # Null rather than none of them, as of runs that began before there were any.
        read = {key: list(runs) or None for key, runs in self.reads.items()}
        return read | config.contract(
            **{
                "corpus": inputs.corpus_id,
                "guideline.by_section": str(inputs.by_section),
                "guideline": inputs.guideline,
                "prompt.template": inputs.template,
                "model.fingerprint": self.model_fingerprint,
            }
        )

    def plan(self) -> list[ShardTask]:
        """List the shards, and how many units of each, that the run covers."""
        decider, inputs = self.decider, self.inputs
        shards = inputs.shards if decider.selects_all else inputs.count_selected(decider)
        return plan_shards(shards, self.config.limit)

    def describe(self, total: int) -> dict[str, Any]:
        """Collect what a driver leaves for those who look at its run from elsewhere."""
        corpus = self.config.corpus if "://" in self.config.corpus else str(Path(self.config.corpus).resolve())
        return {
            "job": self.name,
            "product": self.decider.product.folder,
            "corpus": corpus,
            "units": total,
            "scale": self.inputs.scale.model_dump(mode="json"),
            "max_draws": self.decider.sampling.max_draws,
            "config": self.config.model_dump(mode="json"),
        }

    def worker_spec(self, driver: int) -> WorkerSpec:
        """Collect what a worker needs."""
        config, inputs = self.config, self.inputs
        return WorkerSpec(
            run=config.run,
            corpus=config.corpus,
            driver=driver,
            model=config.model,
            engine=config.engine,
            # The contract has the address as the driver sees it; workers must not see another.
            endpoint=None if config.endpoint is None else config.endpoint.resolve(),
            prompt=config.prompt,
            template=inputs.template,
            guideline=inputs.guideline,
            by_section=inputs.by_section,
            scale=inputs.scale,
            thinking=config.thinking,
            decider=self.decider,
            num_buckets=inputs.num_buckets,
            commit_every_s=config.ledger.commit_every_s,
            drain_s=config.ledger.drain_s,
            per_level=config.quota.per_level if isinstance(config, InferTracesConfig) else None,
        )

    def level_goals(self, before: Tally) -> LevelGoals:
        """Collect what is wanted of each level; `before` counts what earlier calls of the run decided."""
        config = self.config
        if not isinstance(config, InferTracesConfig):
            return NO_GOALS
        accepted = None
        if config.quota.per_level is not None:
            accepted = before.count_accepted() + self._count_accepted_earlier(config)
        return LevelGoals(config.gate, before.units, accepted)

    def _count_accepted_earlier(self, config: InferTracesConfig) -> Counter[str]:
        """Count what the `after` runs accepted of each level, in the splits that this run samples."""
        if not config.splits:
            return add_tallies(
                tally_run(Folder(run), self.inputs.corpus, TRACE_PRODUCT) for run in config.after
            ).count_accepted()

        def count(shard: TraceShard) -> Counter[str]:
            return count_accepted(read_traces(Folder(shard.run), shard.name, COUNTED), config.splits)

        # Their tallies tell no splits, and such a run may have sampled others too.
        with ThreadPoolExecutor(SHARDS_READ_AT_ONCE) as pool:
            return sum(pool.map(count, list_trace_shards(config.after)), Counter())

    def find_stop(self, summary: Mapping[str, Any]) -> str | None:
        """Say why the gate stops a run of this summary (run_report.summarise_run); None where it does not."""
        if not isinstance(self.config, InferTracesConfig):
            return None
        return find_stop(Tally.from_json(summary["tally"]).units, self.config.gate)


def run_units(console: Console, job: UnitJob, started_here: bool, show: Show) -> int:
    """Ask what is not decided yet; returns the job's exit status: 0 complete, 3 ended early and can be continued."""
    config, product, run = job.config, job.decider.product, RunFolder(Folder(job.config.run))
    check_resources(job.name, needs_of(config.engine), started_here)
    run.check_store()
    run.check_contract(job.contract())
    planned = job.plan()
    total = sum(task.num_units for task in planned)
    was_complete = run.has_manifest()
    driver = run.claim(time.time(), job.describe(total))
    tasks = drop_finished(run.folder, product, planned)
    _check_newest(run, driver, config.limits)
    if tasks and was_complete:
        # More was appended, or failed units are retried: the run is not complete any more. A manifest that was not
        # there before is a successor's, which overtook this driver while it was held up.
        run.folder.delete(["manifest.json"])
    before = summarise_run(run, job.inputs.corpus, product, total)
    view = RunView(total, count_earlier(before), job.hit)
    console.print(
        f"run {config.run}: {total:,} units in {len(planned):,} shards, {view.earlier.num_units:,} decided earlier; "
        f"{len(tasks):,} shards to go",
        markup=False,
    )
    limits = RunLimits(config.limits, config.endpoint)
    end = None
    if tasks:
        goals = job.level_goals(Tally.from_json(before["tally"]))
        call = UnitRun(job.name, run, driver, limits, view, levels=goals)
        end = call.work(job.worker_spec(driver), tasks, config.cluster.wait_s)
    summary = summarise_run(run, job.inputs.corpus, product, total)
    if isinstance(config, InferTracesConfig):
        tally = Tally.from_json(summary["tally"])
        summary["data_utilisation"] = tally.num_accepted / max(1, tally.num_tried)
        summary["gate"] = summarise_gate(tally.units, config.gate)
    show(run, summary)
    if config.endpoint is not None:
        tokens = summary["tokens"]
        summary["cost"] = config.endpoint.cost(tokens.get("prompt", 0), tokens.get("output", 0))
        console.print(f"Cost of all recorded tokens: {summary['cost']:,.4f}")
    return end_call(console, job, run, driver, summary=summary, end=end)


def end_call(
    console: Console, job: UnitJob, run: RunFolder, driver: int, *, summary: Mapping[str, Any], end: RunEnd | None
) -> int:
    """Say how a call ended, and write the manifest where the run is complete; returns the job's exit status.

    `end` is how its work ended; None where an earlier call had left nothing to ask.
    """
    config, stop = job.config, job.find_stop(summary)
    if end is not None and not end.is_complete:
        _tell_early_end(console, end.reason, stop)
        return end_early(config.limits, end.is_planned)
    if stop is not None:
        # The last units may have brought it below the gate, or an earlier call that the gate stopped decided them all.
        run.write_state(driver, run.read_states().get(driver, {}) | {"state": stop, "at": time.time()})
        _tell_early_end(console, stop, stop)
        return end_early(config.limits, is_planned=True)
    left = summary["units"] - summary["decided"] + summary["outcomes"].get("failed", 0)
    if left > 0:
        console.print(f"[bold]{left:,} units failed or were not reached[/]. Run the same command again to go on.")
        return STOPPED_EARLY_STATUS
    # A driver that was held up for long must not write over what its successor says.
    _check_newest(run, driver, config.limits)
    if config.limit is None:
        _write_manifest(run, job, summary)
    return 0


def _tell_early_end(console: Console, reason: str, stop: str | None) -> None:
    """Say why a call ended early and how to go on; `stop` is why the gate would end the next call at once."""
    if not reason.startswith(GATE):
        reason += "\n" + (stop or "Run the same command again to go on.")
    console.print(f"[bold]Ended early[/]: {escape(reason)}", soft_wrap=True)


def end_early(limits: LimitsConfig, is_planned: bool) -> JobStatus:
    """Return the status of a job that ended early; `is_planned` as in limits.StopReason."""
    return JobStatus(STOPPED_EARLY_STATUS, limits.early_status if is_planned else STOPPED_EARLY_STATUS)


def _check_newest(run: RunFolder, driver: int, limits: LimitsConfig) -> None:
    """Raise FencedError where a newer driver has taken over."""
    try:
        run.check_newest(driver)
    except FencedError as error:
        error.exit_status = limits.early_status
        raise


def _write_manifest(run: RunFolder, job: UnitJob, summary: Mapping[str, Any]) -> None:
    """Write the manifest, last: the run is complete. One that is there says the same of the same units, and stays."""
    manifest = {
        "job": job.name,
        "config": job.config.model_dump(mode="json"),
        "contract": job.contract(),
        "inputs": {"shards": len(job.inputs.shards), "units": job.inputs.num_units},
        "versions": list_versions(),
        **summary,
    }
    run.folder.put_if_absent("manifest.json", encode_json(manifest))
