"""Engine ratio: useful output tokens/s of the job over bare vLLM and over ray.data.llm. Real model.

Three systems keep an engine of their own alive, all with the same model and vLLM arguments, threads and max_num_seqs:

job            unit_job.run_units, as jobs.infer_traces calls it: Ray Data's map_batches over shards, actor, scheduler,
               parser, ledger on disk; sampling.max_draws 1, so that a unit is one draw
bare           vllm.LLM.generate over all prompts of the round at once, in a process of its own, no Ray
ray.data.llm   build_processor with its chat template, tokenizer, engine and detokenizer stages, at the best batch size
               of a grid, chosen in round 0; its input comes in blocks of one batch

Rounds are interleaved (job, bare, ray.data.llm, job, ...); round 0 warms up and chooses. A round has the same units for
all: prompts from the embedded human ratings, seeds by unit, output lengths log-normal by unit, with ignore_eos. Each
system waits for a file before a round. `idle_cpu` is the share of all cores that the waiting systems take together.

tokens/s of a round: all its output tokens, over the time from the first request handed to vLLM's generate to the last
one's end, as noted around that call: for the job in VllmEngine.generate, for ray.data.llm in the wrapper's
generate_async, for bare vLLM around LLM.generate. Start-up is apart, ramp-up and tail are in. The figures are medians
over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from judgetrace.cpu_threads import count_cpus
from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig
from judgetrace.unit_run import ActorLink
from judgetrace.unit_worker import UnitWorker, WorkerSpec
from judgetrace.vllm_engine import VllmEngine, engine_arguments, find_cpu_dtype
from tests.bench import harness
from tests.bench.harness import say

FULL = {"units": 128, "rounds": 5, "slots": 32, "mean_tokens": 32, "sigma": 0.7}
QUICK = {"units": 64, "rounds": 1, "slots": 32, "mean_tokens": 16, "sigma": 0.7}
SHARDS_PER_ROUND = 4
MAX_TOKENS = 256
MAX_MODEL_LEN = 512
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # As one engine of judgetrace takes for itself; Ray gives its workers fewer.
    "OMP_NUM_THREADS": str(count_cpus()),
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
SYSTEMS = ("job", "bare", "ray.data.llm")


def vllm_arguments(slots: int) -> dict[str, Any]:
    """Give the vLLM arguments that all three use."""
    # Rounds have other prompts, so there is little to find in a cache; off, it is the same for all.
    own = {"max_model_len": MAX_MODEL_LEN, "enable_prefix_caching": False}
    arguments = engine_arguments(
        ModelConfig(path=str(harness.MODEL)), EngineConfig(slots=slots, args=own), find_cpu_dtype(), MAX_MODEL_LEN
    )
    return {name: value for name, value in arguments.items() if name not in ("model", "revision")}


def choose_length(item_id: str, mean: float, sigma: float) -> int:
    """Choose a unit's number of output tokens: log-normal, a function of its id."""
    chance = random.Random(hashlib.blake2b(item_id.encode(), digest_size=8).digest())
    value = chance.lognormvariate(0.0, sigma) * mean / 2.718281828 ** (sigma**2 / 2)
    return max(1, min(MAX_TOKENS - 1, round(value)))


def choose_seed(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=4).digest(), "big")


class Notes:
    """A file to which processes append when a request began and ended, and its tokens."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, item_id: str, began: float, tokens: int) -> None:
        os.write(self._file, f"{item_id} {began:.4f} {time.time():.4f} {tokens}\n".encode())


class FixedLengthEngine(VllmEngine):
    """VllmEngine with output lengths that the benchmark chose; it notes when each request began and ended."""

    def __init__(self, spec: EngineSpec):
        bench = spec.engine.args["bench"]
        arguments = {key: value for key, value in spec.engine.args.items() if key != "bench"}
        super().__init__(replace(spec, engine=spec.engine.model_copy(update={"args": arguments})))
        self._mean, self._sigma, self._notes = bench["mean"], bench["sigma"], Notes(bench["notes"])
        self._sampling_params = functools.partial(self._sampling_params, ignore_eos=True)

    async def generate(self, request: Any) -> Any:
        item_id = request.request_id.split("\x1f")[0]
        began = time.time()
        length = choose_length(item_id, self._mean, self._sigma)
        fixed = replace(request, max_tokens=length, stop=(), seed=choose_seed(item_id))
        completion = await super().generate(fixed)
        self._notes.add(item_id, began, completion.output_tokens)
        return completion


class GatedActor(UnitWorker):
    """The job's actor (unit_run.UnitActor), whose calls wait until their shard's round begins."""

    def __init__(self, spec: WorkerSpec, control: Any):
        super().__init__(spec, ActorLink(control))
        self._gates = Path(spec.engine.args["bench"]["gates"])

    def __call__(self, batch: Any) -> Any:
        wait_for(self._gates / f"job-{int(batch['shard'][0]) // SHARDS_PER_ROUND}")
        return super().__call__(batch)


def make_noting_stage(notes: str, up: str) -> type:
    """Make vLLMEngineStage's class; it notes when its engine is up, and when each request began and ended."""
    from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

    class NotingStage(vLLMEngineStageUDF):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self._bench_notes = Notes(notes)
            Path(up).touch()

        async def _generate_with_error_handling(self, row: Any, batch_uuid: Any) -> Any:
            began, item_id = time.time(), row["item_id"]
            result = await super()._generate_with_error_handling(row, batch_uuid)
            self._bench_notes.add(item_id, began, result["num_generated_tokens"])
            return result

    return NotingStage


@dataclass(frozen=True)
class GatedSource:
    """Gives the rows of a round once it begins; one task at a time, so that no row of a later round is in the way."""

    rounds: str
    gates: str
    batch_size: int

    def __call__(self, batch: Any) -> Any:
        import pandas as pd

        number = int(batch["round"][0])
        gate, skip = Path(self.gates) / f"rdl-{self.batch_size}-{number}", Path(self.gates) / f"skip-{self.batch_size}"
        while not gate.exists():
            if skip.exists():
                raise RuntimeError("this batch size is not the best")
            time.sleep(0.1)
        return pd.DataFrame(json.loads(Path(self.rounds).read_text())[number])


def wait_for(path: Path) -> None:
    """Wait for a file; end with the process that started this one."""
    parent = os.getppid()
    while not path.exists():
        if os.getppid() != parent:
            sys.exit("the benchmark ended")
        time.sleep(0.1)


@dataclass(frozen=True)
class Unit:
    """A unit of a round: what all systems ask."""

    item_id: str
    messages: list[dict[str, str]]
    length: int


class Bench:
    """The folder, the units of all rounds, and the three systems."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        self.gates = folder / "gates"
        self.gates.mkdir()
        # One more than is run: no system may end, and take CPU for it, while another is measured.
        self.num_rounds = options.rounds + 2
        self.batch_sizes = sorted({16, 64, options.units})
        self.units: list[list[Unit]] = []
        self._threads: list[threading.Thread] = []
        self.bare: subprocess.Popen[bytes] | None = None
        self.failures: list[BaseException] = []

    def prepare(self) -> None:
        """Prepare the corpus; read the rounds' units back as the job will ask them."""
        from jobs import prepare_corpus
        from judgetrace.config import load_config
        from judgetrace.run_inputs import RunInputs
        from judgetrace.trace_config import InferTracesConfig

        config = harness.demo_corpus_config(self.folder, self.options.units // SHARDS_PER_ROUND)
        if prepare_corpus.main([str(harness.write_config(self.folder / "prepare.toml", config))]):
            raise RuntimeError("prepare_corpus failed")
        path = harness.write_config(self.folder / "infer.toml", self.job_config())
        self.config = load_config(InferTracesConfig, "infer_traces", [str(path)])
        self.inputs = RunInputs(self.config.corpus, self.config.guideline, self.config.prompt.template)
        self.units = [self._read_round(number) for number in range(self.num_rounds)]

    def job_config(self) -> dict[str, Any]:
        options = self.options
        bench = {
            "mean": options.mean_tokens,
            "sigma": options.sigma,
            "notes": str(self.folder / "notes-job"),
            "gates": str(self.gates),
        }
        return {
            "corpus": str(self.folder / "corpus"),
            "run": str(self.folder / "run"),
            "limit": options.units * self.num_rounds,
            "model": {"path": str(harness.MODEL)},
            "engine": {
                "kind": "tests.bench.engine_ratio:FixedLengthEngine",
                "num_cpus": 1,
                "slots": options.slots,
                # All at once, so that the shards of later rounds, which wait, hold up none of this one.
                "shards_at_once": SHARDS_PER_ROUND * self.num_rounds,
                "args": {**vllm_arguments(options.slots), "bench": bench},
                "env": ENVIRONMENT,
            },
            "prompt": {"template": "jobs/demo_prompt.jinja"},
            "sampling": {"max_draws": 1, "max_tokens": MAX_TOKENS},
        }

    def _read_round(self, number: int) -> list[Unit]:
        from judgetrace.guideline import parse_guideline
        from judgetrace.prompts import PromptRenderer

        renderer = PromptRenderer(self.inputs.template)
        guideline = parse_guideline(self.inputs.guideline, False).guideline_for("") or ""
        units = []
        for shard in range(number * SHARDS_PER_ROUND, (number + 1) * SHARDS_PER_ROUND):
            for row in self.inputs.corpus.read_table(f"items/shard-{shard:05d}.parquet").to_pylist():
                scale = self.inputs.scale.of(row["dimension"])
                assert scale is not None
                messages = renderer.render(json.loads(row["fields"]), guideline, row["dimension"], scale)
                length = choose_length(row["item_id"], self.options.mean_tokens, self.options.sigma)
                units.append(Unit(row["item_id"], messages, length))
        return units

    def start(self) -> None:
        """Start all engines; returns when all are up."""
        rounds = [
            [{"item_id": u.item_id, "messages": u.messages, "sampling_params": sampling_params(u)} for u in units]
            for units in self.units
        ]
        (self.folder / "rounds.json").write_text(json.dumps(rounds))
        self._start_thread(self._run_job)
        for size in self.batch_sizes:
            self._start_thread(functools.partial(self._run_processor, size))
        self._start_bare()
        marks = [self.gates / f"up-{size}" for size in self.batch_sizes] + [self.gates / "up-bare"]
        self._wait(lambda: all(mark.exists() for mark in marks), 400)
        say("bare vLLM and ray.data.llm are up")

    def _wait(self, true: Any, limit_s: float) -> None:
        if not harness.wait_until(lambda: self.failures or true(), limit_s) or self.failures:
            raise RuntimeError(f"a system failed or did not end in {limit_s} s: {self.failures}; see {self.folder}")

    def _start_thread(self, work: Any) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised in the main thread
                self.failures.append(error)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def _run_job(self) -> None:
        from rich.console import Console

        from judgetrace import unit_run
        from judgetrace.fingerprints import check_model
        from judgetrace.unit_job import UnitJob, run_units

        unit_run.UnitActor = GatedActor  # type: ignore[misc,assignment]
        with (self.folder / "job.log").open("w") as log:
            fingerprint = check_model(self.config.model, self.config.endpoint)
            job = UnitJob("infer_traces", self.config, self.inputs, self.config.decider(), fingerprint, hit="accepted")
            run_units(Console(file=log), job, started_here=False, show=lambda run, summary: None)

    def _run_processor(self, batch_size: int) -> None:
        import ray

        up = self.gates / f"up-{batch_size}"
        stage = make_noting_stage(str(self.folder / f"notes-rdl-{batch_size}"), str(up))
        settings = {
            "engine_kwargs": vllm_arguments(self.options.slots),
            "runtime_env": {"env_vars": dict(ENVIRONMENT)},
        }
        processor = harness.build_llm_processor(stage, batch_size, self.options.slots, settings)
        source = GatedSource(str(self.folder / "rounds.json"), str(self.gates), batch_size)
        numbers = ray.data.from_items(
            [{"round": n} for n in range(self.num_rounds)], override_num_blocks=self.num_rounds
        )
        rows = numbers.map_batches(source, batch_size=1, concurrency=1, num_cpus=0.1)
        try:
            for _ in processor(rows.repartition(target_num_rows_per_block=batch_size)).iter_rows():
                pass
        except Exception:
            if not (self.gates / f"skip-{batch_size}").exists():
                raise
        (self.gates / f"ended-{batch_size}").touch()

    def end_processors(self, batch_sizes: list[int]) -> None:
        """Let some of ray.data.llm's executions end without sampling the rounds that are left."""
        for size in batch_sizes:
            (self.gates / f"skip-{size}").touch()
        self._wait(lambda: all((self.gates / f"ended-{size}").exists() for size in batch_sizes), 120)

    def _start_bare(self) -> None:
        command = [sys.executable, "-m", "tests.bench.engine_ratio", "--bare", "--work", str(self.folder)]
        environment = {**harness.job_environment(), **ENVIRONMENT}
        log = (self.folder / "bare.log").open("w")
        command += [f"--slots={self.options.slots}"]
        self.bare = subprocess.Popen(command, cwd=harness.ROOT, env=environment, stdout=log, stderr=log)

    def measure(self, system: str, number: int) -> float:
        """Let a system do a round; returns its tokens/s."""
        is_job = system == "job"
        label = {"job": "job", "bare": "bare"}.get(system, system.replace("ray.data.llm", "rdl"))
        notes = self.folder / f"notes-{label}"
        (self.gates / f"{label}-{number}").touch()
        ids = {"all"} if system == "bare" else {unit.item_id for unit in self.units[number]}

        def found() -> list[list[str]]:
            lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
            return [line for line in lines if (len(line) == 4 and line[0] in ids) or line[0] == f"round-{number}"]

        self._wait(lambda: len(found()) == (1 if system == "bare" else len(ids)), 300)
        lines = found()
        tokens = sum(int(line[3]) for line in lines)
        expected = sum(unit.length for unit in self.units[number])
        if tokens != expected:
            raise RuntimeError(f"{system} gave {tokens} tokens in round {number}, not {expected}")
        seconds = max(float(line[2]) for line in lines) - min(float(line[1]) for line in lines)
        say(f"round {number}, {system}: {tokens / seconds:.1f} tokens/s ({tokens} in {seconds:.1f} s)")
        if is_job:
            time.sleep(1.0)  # for the commit of its last units
        return tokens / seconds

    def stop(self) -> None:
        """End bare vLLM with its engine's processes, which would outlive it."""
        import psutil

        bare = psutil.Process(self.bare.pid) if self.bare and self.bare.poll() is None else None
        for process in [bare, *bare.children(recursive=True)] if bare else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if bare:
            self.bare.wait(30)


def sampling_params(unit: Unit) -> dict[str, Any]:
    return {"temperature": 1.0, "max_tokens": unit.length, "ignore_eos": True, "seed": choose_seed(unit.item_id)}


def serve_bare(folder: Path, slots: int) -> None:
    """Run the rounds with vllm.LLM.generate, each when its gate opens."""
    from vllm import LLM, SamplingParams

    rounds = json.loads((folder / "rounds.json").read_text())
    llm = LLM(model=str(harness.MODEL), **vllm_arguments(slots))
    tokenizer, notes = llm.get_tokenizer(), Notes(str(folder / "notes-bare"))
    (folder / "gates/up-bare").touch()
    for number, requests in enumerate(rounds):
        prompts = [
            {
                "prompt_token_ids": list(
                    tokenizer.apply_chat_template(
                        r.pop("messages"), add_generation_prompt=True, tokenize=True, return_dict=False
                    )
                )
            }
            for r in requests
        ]
        wait_for(folder / f"gates/bare-{number}")
        began = time.time()
        outputs = llm.generate(
            prompts, [SamplingParams(**request["sampling_params"]) for request in requests], use_tqdm=False
        )
        notes.add(f"round-{number}", began, sum(len(output.outputs[0].token_ids) for output in outputs))


def measure_idle_cpu(seconds: float) -> float:
    """Measure what share of all cores is busy while every engine waits."""
    import psutil

    return psutil.cpu_percent(interval=seconds) / 100


def run_rounds(bench: Bench) -> dict[str, Any]:
    bench.start()
    rates: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    warm = {system: bench.measure(system, 0) for system in ("job", "bare")}
    grid = {size: bench.measure(f"ray.data.llm-{size}", 0) for size in bench.batch_sizes}
    best = max(grid, key=lambda size: grid[size])
    bench.end_processors([size for size in bench.batch_sizes if size != best])
    time.sleep(10)
    idle = measure_idle_cpu(5)
    say(f"best batch size {best}; idle engines take {idle:.1%} of the cores")
    for number in range(1, bench.options.rounds + 1):
        for system in SYSTEMS:
            name = f"ray.data.llm-{best}" if system == "ray.data.llm" else system
            rates[system].append(bench.measure(name, number))
    ratios = {
        other: [mine / theirs for mine, theirs in zip(rates["job"], rates[other], strict=True)]
        for other in ("bare", "ray.data.llm")
    }
    return {
        "vs_bare_vllm": statistics.median(ratios["bare"]),
        "vs_ray_data_llm": statistics.median(ratios["ray.data.llm"]),
        "tokens_per_s": {system: round(statistics.median(values), 1) for system, values in rates.items()},
        "rounds": {system: [round(value, 1) for value in values] for system, values in rates.items()},
        "ratios": {other: [round(value, 3) for value in values] for other, values in ratios.items()},
        "grid": {size: round(rate, 1) for size, rate in grid.items()},
        "best_batch_size": best,
        "warm_up": {system: round(rate, 1) for system, rate in warm.items()},
        "idle_cpu": idle,
    }


def main(arguments: list[str]) -> None:
    parser = harness.make_parser("engine_ratio", __doc__)
    parser.add_argument("--bare", action="store_true", help="used by the benchmark itself: run bare vLLM here")
    options = harness.apply_sizes(parser, arguments, FULL, QUICK)
    harness.use_job_environment()
    if options.bare:
        serve_bare(Path(options.work), options.slots)
        return
    harness.prepare_demo()
    os.chdir(harness.ROOT)
    bench = Bench(harness.empty_folder(options.work), options)
    # More logical CPUs than there are: whatever waits for a gate must not hold up another system.
    with harness.own_ray(num_cpus=16):
        bench.prepare()
        say(f"{options.units} units a round, {sum(u.length for u in bench.units[1])} output tokens in round 1")
        try:
            figures = run_rounds(bench)
        finally:
            bench.stop()
    harness.finish("engine_ratio", figures, {key: getattr(options, key) for key in FULL}, simulated=False)
    os._exit(0)  # the systems' threads wait for a round that never comes


if __name__ == "__main__":
    # The classes must be importable by name in the workers, not as part of __main__.
    from tests.bench.engine_ratio import main as imported_main

    imported_main(sys.argv[1:])
