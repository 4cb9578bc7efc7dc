"""A run of traces in one process, without Ray, to be killed at any step: claim, clear up, work on all shards, publish.

Everything but Ray's pool is the real thing; the engine is scripted.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.control import Orders, WorkerReport
from judgetrace.decisions import TraceDecider
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.products import TRACE_PRODUCT
from judgetrace.prompts import PromptConfig, load_template
from judgetrace.run_failures import explain_broken
from judgetrace.run_folder import RunFolder
from judgetrace.sampling import SamplingConfig
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder, encode_parquet
from judgetrace.unit_run import drop_finished, plan_shards
from judgetrace.unit_worker import UnitWorker, WorkerSpec
from tests.trace_tables import make_items


class DeafLink:
    """Stands where the driver is, and never asks for a drain."""

    async def report(self, report: WorkerReport) -> Orders:
        return Orders()

    async def report_fenced(self, message: str) -> None:
        print(message, flush=True)


def write_corpus(url: str, num_shards: int, num_units: int) -> None:
    """Write the shards of a corpus, which a worker reads and nothing else of it."""
    for shard in range(num_shards):
        items = make_items(num_units, prefix=f"shard{shard}")
        Folder(url).write_atomic(f"items/shard-{shard:05d}.parquet", encode_parquet(items))


SCRIPTED_ENGINE = "tests.scripted_engine:ScriptedEngine"


def make_spec(
    corpus: str, run: str, driver: int, script: dict[str, Any], commit_every_s: float = 0.1, kind: str = SCRIPTED_ENGINE
) -> WorkerSpec:
    return WorkerSpec(
        run=run,
        corpus=corpus,
        driver=driver,
        model=ModelConfig(path="none"),
        engine=EngineConfig(kind=kind, slots=8, args=script),
        endpoint=None,
        prompt=PromptConfig(),
        template=load_template(None),
        guideline="Rate the text.",
        by_section=False,
        scale=ScaleConfig(values=("1", "2", "3", "4", "5")),
        thinking=ThinkingConfig(),
        decider=TraceDecider(SamplingConfig(max_draws=6, max_tokens=100), AcceptanceConfig()),
        num_buckets=1,
        commit_every_s=commit_every_s,
        drain_s=0.5,
    )


def work(
    corpus: str,
    run: str,
    script: dict[str, Any],
    commit_every_s: float = 0.1,
    shards: list[tuple[int, int]] | None = None,
    kind: str = SCRIPTED_ENGINE,
) -> None:
    """Do what is left of a run, as its newest driver; `shards` are (number, units), all of the corpus by default."""
    folder = RunFolder(Folder(run))
    if shards is None:
        names = (Folder(corpus) / "items").list_files(".parquet")
        shards = [(number, Folder(corpus).read_table(f"items/{name}").num_rows) for number, name in enumerate(names)]
    driver = folder.claim(0.0)
    tasks = drop_finished(folder.folder, TRACE_PRODUCT, plan_shards(shards, None))
    if not tasks:
        return
    worker = UnitWorker(make_spec(corpus, run, driver, script, commit_every_s, kind), DeafLink())
    with ThreadPoolExecutor(len(tasks)) as pool:
        calls = [pool.submit(worker, {"shard": [task.number], "num_units": [task.num_units]}) for task in tasks]
    worker.close()
    ends = [call.result() for call in calls]
    broken = {int(end["shard"][0]): str(end["broken"][0]) for end in ends if end["broken"][0]}
    if broken:
        raise explain_broken(broken)


def start(endpoint: str, *arguments: Any) -> Any:
    """Start `work` in a process of its own, which reaches S3 at `endpoint`."""
    context = multiprocessing.get_context("forkserver")
    # Imports once, not once for every process that is to be killed.
    context.set_forkserver_preload(["tests.lone_worker", "tests.scripted_engine", "s3fs"])
    process = context.Process(target=_work_there, args=(endpoint, *arguments), daemon=True)
    process.start()
    return process


def _work_there(endpoint: str, *arguments: Any) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    work(*arguments)
