"""A million items under three faults at once: engines die, nodes go and come, S3 fails. Simulated: a scripted engine.

The corpus is prepared on S3 undisturbed. Then `python -m jobs.infer_traces` runs on a cluster of raylets of this
machine: a head without CPUs, and nodes of one CPU. Until it ends,

- SIGKILL befalls a random engine's process at random moments, and likewise
- a node with all that runs on it, each third time all nodes at once; as many new ones join, and
- corpus and run are on S3 behind a proxy that answers 500 or 503 SlowDown, resets the connection or closes it in the
  middle of a body (GET), and lets what was done go unanswered (PUT, DELETE), each for a share of the requests.

A call that ends early is followed by the same command, as a person would, and counted. The S3 server is moto's: see
tests/s3_server.py.

items_per_s          items over the wall time from the first start of the command to its last end
lost, duplicated     units without a row, rows of units that have one already (tests/shard_oracle.py)
strange, otherwise   rows that are not of the corpus; units that ended otherwise than an undisturbed run ends them
broken               what else the oracle says against the run, the first five
peak_rss_mb          peak of the private memory (USS) of the driver and of all Ray workers, added up, read from
                     /proc/PID/smaps_rollup every 0.5 s; servers and proxy are not in it
engines_killed, nodes_killed, losses_of_nodes (moments at which one node, or all, went)
ended_early          how often the command ended with which other status before it was complete
requests_spoilt      of `requests` in all; `spoilt` tells by what
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig
from tests.bench import harness
from tests.bench.harness import say
from tests.bench.kills import Killed, Killer
from tests.bench.streaming_scale import MemoryWatch, read_private_bytes, write_prepare_config
from tests.scripted_engine import ScriptedEngine
from tests.test_job_node_faults import Nodes

FULL = {
    "items": 1_000_000,
    "nodes": 2,
    "slots": 64,
    "max_draws": 4,
    "commit_s": 5.0,
    "engine_kill_s": 15.0,
    "node_kill_s": 30.0,
    "spoilt_rate": 0.05,
    "seed": 1,
    "limit_s": 7200.0,
}
QUICK = {**FULL, "items": 20_000, "engine_kill_s": 5.0, "node_kill_s": 10.0}
FAULTS = ("500", "503", "reset", "truncate", "lost")
UNUSABLE_INPUT_STATUS = 2
MOST_TOLD = 5


class ClusterMemory(MemoryWatch):
    """Samples the driver and the workers that are below this process at the moment."""

    def sample(self) -> tuple[int, list[int]]:
        import psutil

        drivers, workers = [0], []
        for process in psutil.Process().children(recursive=True):
            try:
                command = process.cmdline() or [""]
                if command[0].startswith("ray::"):
                    workers.append(read_private_bytes(process.pid))
                elif "jobs.infer_traces" in command:
                    drivers.append(read_private_bytes(process.pid))
            except (psutil.NoSuchProcess, OSError):
                continue
        return max(drivers), workers


def run_config(folder: Path, corpus: str, run: str, options: Any) -> dict[str, Any]:
    return {
        "corpus": corpus,
        "run": run,
        "model": {"path": "scripted/none"},
        "engine": {
            "kind": "tests.bench.noted_engine:NotedEngine",
            "min_replicas": 1,
            "max_replicas": options.nodes,
            "num_cpus": 0.8,
            "slots": options.slots,
            "args": {"started": str(folder / "started")},
        },
        "sampling": {"max_draws": options.max_draws, "max_tokens": 100},
        "ledger": {"commit_every_s": options.commit_s},
    }


def run_to_the_end(config: Path, address: str, log: Path, killer: Killer, limit_s: float) -> list[int]:
    """Run the job, again and again where it ends early, while the killer does its work; returns all its statuses."""
    from tests.test_job_faults import started_job

    statuses: list[int] = []
    until = time.monotonic() + limit_s
    while not statuses or statuses[-1]:
        with started_job(str(config), address, log) as job:
            while job.poll() is None:
                killer.step()
                time.sleep(0.2)
                if time.monotonic() > until:
                    raise RuntimeError(f"not over after {limit_s:g} s; see {log}:\n{log.read_text()[-3000:]}")
        statuses.append(job.returncode)
        say(f"the command ended with status {job.returncode}; {killer.killed}")
        if job.returncode == UNUSABLE_INPUT_STATUS:
            raise RuntimeError(f"the command can't go on; see {log}:\n{log.read_text()[-3000:]}")
    return statuses


def disturb(folder: Path, corpus: str, run: str, options: Any) -> dict[str, Any]:
    """Run the job under all faults; returns its figures."""
    from tests.fault_proxy import mixed, proxied

    config = harness.write_config(folder / "infer.toml", run_config(folder, corpus, run, options))
    (folder / "started").mkdir()
    (folder / "phase").write_text("infer")
    every_s = (options.engine_kill_s, options.node_kill_s)
    with proxied(os.environ["AWS_ENDPOINT_URL"]) as proxy, cluster() as nodes:
        killer = Killer(nodes, folder / "started", options.nodes, *every_s, random.Random(options.seed))
        proxy.plan = mixed(dict.fromkeys(FAULTS, options.spoilt_rate / len(FAULTS)), options.seed)
        watch = ClusterMemory(os.getpid(), folder / "phase", 0.5)
        began = time.monotonic()
        statuses = run_to_the_end(config, nodes.address, folder / "infer.log", killer, options.limit_s)
        wall_s = time.monotonic() - began
        peaks = {name: value >> 20 for name, value in watch.end()["infer"].items()}
    return {
        "items_per_s": options.items / wall_s,
        "peak_rss_mb": peaks["total"],
        "wall_s": round(wall_s, 1),
        "peak_private_mb": peaks,
        **count_faults(killer.killed, statuses, proxy.count()),
    }


@contextmanager
def cluster() -> Iterator[Nodes]:
    """Start a cluster of a head alone; ends all its nodes."""
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


def count_faults(killed: Killed, statuses: list[int], befallen: Counter[str]) -> dict[str, Any]:
    spoilt = {fault: count for fault, count in befallen.items() if fault != "passed"}
    return {
        "engines_killed": killed.engines,
        "nodes_killed": killed.nodes,
        "losses_of_nodes": killed.losses,
        "ended_early": {str(status): count for status, count in Counter(statuses[:-1]).items()},
        "requests": befallen.total(),
        "requests_spoilt": sum(spoilt.values()),
        "spoilt": spoilt,
    }


def judge(corpus: str, run: str, options: Any) -> dict[str, Any]:
    """Hold the run against the oracle, and against what the scripted engine answers; shard by shard."""
    from tests.foretelling import foretell_units
    from tests.shard_oracle import check_shards

    engine = ScriptedEngine(EngineSpec(ModelConfig(path="none"), EngineConfig()))
    found = check_shards(run, corpus, partial(foretell_units, engine, max_draws=options.max_draws))
    if found.units != options.items:
        raise RuntimeError(f"{found.units} units in {corpus}; expected {options.items}")
    told = {key: value for key, value in vars(found).items() if key not in {"tally", "broken"}}
    return {
        **told,
        "num_broken": len(found.broken),
        "broken": [line[:500] for line in found.broken[:MOST_TOLD]],
        "outcomes": dict(found.tally.outcomes()),
        "draws": sum(found.tally.draws.values()),
    }


def main(arguments: list[str]) -> None:
    from tests.s3_server import serving_s3

    options = harness.apply_sizes(harness.make_parser("million", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    folder = harness.empty_folder(options.work)
    with serving_s3("million") as bucket:
        corpus, run = f"{bucket}/corpus", f"{bucket}/run"
        prepare = write_prepare_config(folder, options.items, corpus, cluster={"address": "local", "num_cpus": 2})
        seconds = harness.run_job("prepare_corpus", prepare, folder / "prepare.log")
        say(f"{options.items:,} items prepared on S3 in {seconds:.1f} s")
        figures = disturb(folder, corpus, run, options)
        say(f"complete after {figures['wall_s']} s; now the oracle")
        figures |= judge(corpus, run, options)
    harness.finish("million", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
