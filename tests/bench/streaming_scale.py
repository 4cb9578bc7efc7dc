"""Streaming scale: 10,000 and 1,000,000 units through prepare_corpus and infer_traces. Simulated: an instant engine.

Each size runs in a process of its own, warm: it starts Ray, sends a small corpus through both jobs, and only then is
measured, calling the jobs' own main(). The input is Parquet files on local disk, a row an item with one label of 1..5;
a unit gets one draw at latency 0. Both sizes have the same workers: two CPUs for prepare_corpus, one engine.

items_per_s          units over the wall time of both jobs' main(), at the large size; also for each job
rss_ratio            peak of the private memory (USS) of driver and workers, large over small; read from
                     /proc/PID/smaps_rollup every 0.5 s (small size: 0.1 s), while the measured jobs run, of the process
                     that called main() and of all Ray workers below it (its "ray::" processes), added up
vs_ray_data_llm      units/s of infer_traces over rows/s of ray.data.llm's processor, both with the model's chat
                     template and tokenizer and the same instant engine, from when the engine is up to the end of the
                     execution (both start-ups apart; ray.data.llm's rows are held until then, and 5 s longer).
                     There vLLMEngineStage keeps its wrapper, its request and output models and its batching; only the
                     AsyncLLM inside is replaced by one whose generate() answers at once. It reads the same item
                     shards and writes Parquet; best batch size of a grid.
vs_ray_data_llm_bare the same with no template and no tokenizer on either side (ray.data.llm: the engine stage alone),
                     at the batch size found best with them
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from judgetrace.engine import Prompt
from judgetrace.scale import Scale
from judgetrace.vllm_engine import make_prompts
from tests.bench import harness
from tests.bench.harness import say
from tests.scripted_engine import ScriptedEngine

FULL = {"small": 10_000, "large": 1_000_000, "compared": 20_000, "slots": 64, "warm_up": 2_000}
QUICK = {"small": 2_000, "large": 20_000, "compared": 4_000, "slots": 64, "warm_up": 500}
BATCH_SIZES = (64, 256, 1024)
OUTPUT_TOKENS = 20
ANSWER = "It reads well. <rating>3</rating>"
WORDS = ("the", "of", "a", "reader", "finds", "this", "text", "clear", "warm", "sharp", "dull", "long", "short", "kind")


class InstantEngine(ScriptedEngine):
    """A scripted engine that answers at once; writes when it was up into the file `engine.args.up`.

    With `engine.args.tokenizer` it tokenizes as VllmEngine does, with that model's template.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._tokenizer = None
        if self._script.get("tokenizer"):
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self._script["tokenizer"])
        note_time(Path(self._script["up"]))

    def make_prompts(self, conversations: Any) -> list[Prompt]:
        if self._tokenizer is None:
            return super().make_prompts(conversations)
        return make_prompts(self._tokenizer, conversations, {})


class InstantAsyncLLM:
    """What ray.data.llm takes for vLLM's AsyncLLM; answers at once."""

    def __init__(self) -> None:
        from vllm.outputs import CompletionOutput, RequestOutput

        self._make_output, self._make_completion = RequestOutput, CompletionOutput

    async def generate(self, request_id: str, prompt: Any, **_: Any) -> AsyncIterator[Any]:
        completion = self._make_completion(0, ANSWER, list(range(100, 100 + OUTPUT_TOKENS)), None, None)
        completion.finish_reason = "stop"
        token_ids = prompt.get("prompt_token_ids") or [0]
        yield self._make_output(request_id, None, token_ids, None, [completion], finished=True)


def make_instant_stage(up: Path) -> type:
    """Make vLLMEngineStage's class with an instant engine in its wrapper, and nothing else changed."""
    import asyncio

    from ray.llm._internal.batch.stages.base import StatefulStageUDF
    from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF, vLLMEngineWrapper

    class InstantStage(vLLMEngineStageUDF):
        def __init__(self, data_column: str, expected_input_keys: list[str], model: str, **kwargs: Any):
            StatefulStageUDF.__init__(self, data_column, expected_input_keys)
            self.model, self.should_continue_on_error = model, False
            self.engine_kwargs = kwargs["engine_kwargs"]
            self.llm = object.__new__(vLLMEngineWrapper)
            self.llm.request_id, self.llm.idx_in_batch_column = 0, self.IDX_IN_BATCH_COLUMN
            self.llm.model, self.llm.task_type = model, kwargs["task_type"]
            self.llm.semaphore = asyncio.Semaphore(-(-11 * self.engine_kwargs["max_num_seqs"] // 10))
            self.llm.engine = InstantAsyncLLM()
            note_time(up)

    return InstantStage


def note_time(path: Path) -> None:
    path.write_text(str(time.time()))


def write_source(folder: Path, num_units: int) -> None:
    """Write the source, 50,000 rows at a time; at least two files, so that both CPUs have one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    num_files = max(2, num_units // 100_000)
    bounds = np.linspace(0, num_units, num_files + 1).astype(int)
    for number in range(num_files):
        with pq.ParquetWriter(folder / f"part-{number:03d}.parquet", source_schema()) as writer:
            for first in range(bounds[number], bounds[number + 1], 50_000):
                rows = range(first, min(first + 50_000, bounds[number + 1]))
                texts = [" ".join(WORDS[(i * 7 + k * (i % 5 + 1)) % len(WORDS)] for k in range(20)) for i in rows]
                columns = [[f"item-{i:07d}" for i in rows], texts, [1 + i * 3 % 5 for i in rows]]
                writer.write_table(pa.table(columns, schema=source_schema()))


def source_schema() -> Any:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("text", pa.string()), ("label", pa.int64())])


def write_configs(folder: Path, num_units: int, slots: int) -> tuple[Path, Path]:
    infer = infer_config(folder / "corpus", folder, slots)
    return (
        write_prepare_config(folder, num_units, str(folder / "corpus")),
        harness.write_config(folder / "infer.toml", infer),
    )


def write_prepare_config(folder: Path, num_units: int, corpus: str, **sections: Any) -> Path:
    """Write so many items as a source, and the config of prepare_corpus for them; `sections` are added."""
    write_source(folder / "source", num_units)
    (folder / "guideline.md").write_text("Rate how well the text reads, from 1 (badly) to 5 (very well).\n")
    prepare = {
        "corpus": corpus,
        "source": {"paths": [str(folder / "source")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(folder / "guideline.md")},
        "target": {"rule": "single"},
        # The job's own choice, but at least two, so that both CPUs have one.
        "shards": {"units_per_shard": 1000, "buckets": 2 if num_units < 200_000 else None},
        **sections,
    }
    return harness.write_config(folder / "prepare.toml", prepare)


def infer_config(corpus: Path, folder: Path, slots: int, limit: int | None = None, tokenizes: bool = False) -> Any:
    script = {"output_tokens": OUTPUT_TOKENS, "up": str(folder / "up")}
    if tokenizes:
        script["tokenizer"] = str(harness.MODEL)
    return {
        "corpus": str(corpus),
        "run": str(folder / "run"),
        "limit": limit,
        "model": {"path": "scripted/none"},
        "engine": {"kind": "tests.bench.streaming_scale:InstantEngine", "slots": slots, "args": script},
        "sampling": {"max_draws": 1, "max_tokens": 100},
    }


def run_both(folder: Path, num_units: int, slots: int) -> dict[str, float]:
    """Call both jobs' main(); returns the seconds of each. The file `phase` names the job that runs."""
    from jobs import infer_traces, prepare_corpus

    configs = dict(zip(("prepare", "infer"), write_configs(folder, num_units, slots), strict=True))
    seconds = {}
    for name, main in (("prepare", prepare_corpus.main), ("infer", infer_traces.main)):
        (folder / "phase").write_text(name)
        began = time.monotonic()
        if main([str(configs[name])]):
            raise RuntimeError(f"{name} failed")
        seconds[name] = time.monotonic() - began
        (folder / "phase").write_text("")
    return seconds


def measure_jobs(folder: Path, options: Any, num_units: int) -> dict[str, Any]:
    with harness.own_ray():
        run_both(folder / "warm", options.warm_up, options.slots)
        return run_both(folder / "measured", num_units, options.slots)


def measure_infer(folder: Path, options: Any, tokenizes: bool) -> dict[str, Any]:
    """Run infer_traces over the first shards of the large corpus, warm; returns units/s once its engine is up."""
    from jobs.infer_traces import main

    with harness.own_ray():
        for name, limit in (("warm", options.warm_up), ("measured", options.compared)):
            run = folder / f"infer-{'tokens' if tokenizes else 'bare'}-{name}"
            run.mkdir(parents=True)
            config = infer_config(folder / "large/measured/corpus", run, options.slots, limit, tokenizes)
            path = harness.write_config(run / "infer.toml", config)
            began = time.time()
            if main([str(path)]):
                raise RuntimeError("infer_traces failed")
            ended = time.time()
    return {"rate": limit / (ended - float((run / "up").read_text())), "wall_rate": limit / (ended - began)}


def measure_processor(folder: Path, options: Any, tokenizes: bool, batch_size: int) -> dict[str, Any]:
    """Run ray.data.llm over the same units; returns rows/s once its engine is up."""
    import ray

    name = f"rdl-{'tokens' if tokenizes else 'bare'}-{batch_size}"
    up_file, began_file = folder / f"{name}-up", folder / f"{name}-began"
    corpus = folder / "large/measured/corpus"
    shards = sorted((corpus / "items").glob("*.parquet"))[: max(1, options.compared // 1000)]
    guideline = (corpus / "guideline.md").read_text()
    settings: dict[str, Any] = {"engine_kwargs": {"max_num_seqs": options.slots, "disable_log_stats": True}}
    if not tokenizes:
        settings |= dict.fromkeys(("chat_template_stage", "tokenize_stage", "detokenize_stage"), False)

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        if not began_file.exists():
            harness.wait_until(up_file.exists, 120)
            time.sleep(5)
            note_time(began_file)
        messages = render_prompt(guideline, row["fields"])
        prompt = {"messages": messages} if tokenizes else {"prompt": messages[0]["content"]}
        return {**prompt, "item_id": row["item_id"], "sampling_params": {"temperature": 1.0, "max_tokens": 100}}

    with harness.own_ray(num_cpus=4):
        began = time.time()
        rows = ray.data.read_parquet([str(shard) for shard in shards], columns=["item_id", "fields"])
        rows = rows.repartition(target_num_rows_per_block=batch_size).map(ask, num_cpus=0.1)
        processor = harness.build_llm_processor(make_instant_stage(up_file), batch_size, options.slots, settings)
        done = processor(rows).select_columns(["item_id", "generated_text", "num_generated_tokens"])
        done.write_parquet(str(folder / name))
        ended = time.time()
    num_rows = count_rows(folder / name)
    return {
        "rows": num_rows,
        "rate": num_rows / (ended - float(began_file.read_text())),
        "wall_rate": num_rows / (ended - began),
    }


def count_rows(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def render_prompt(guideline: str, fields: str) -> list[dict[str, str]]:
    """Render the prompt that infer_traces renders of the same unit."""
    return make_renderer().render(json.loads(fields), guideline, "", Scale(values=("1", "2", "3", "4", "5")))


@functools.cache
def make_renderer() -> Any:
    from judgetrace.prompts import PromptRenderer, load_template

    return PromptRenderer(load_template(None))


class MemoryWatch:
    """Samples the private memory of a process and its Ray workers while the file `phase` names a job."""

    def __init__(self, root: int, phase: Path, every_s: float):
        self._root, self._phase, self._every_s = root, phase, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peaks: dict[str, dict[str, int]] = {}
        self._thread.start()

    def end(self) -> dict[str, dict[str, int]]:
        self._stop.set()
        self._thread.join()
        return self.peaks

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            phase = self._phase.read_text() if self._phase.exists() else ""
            if phase:
                driver, workers = self.sample()
                peak = self.peaks.setdefault(phase, {"total": 0, "driver": 0, "largest_worker": 0})
                found = {"total": driver + sum(workers), "driver": driver, "largest_worker": max(workers, default=0)}
                for name, value in found.items():
                    peak[name] = max(peak[name], value)

    def sample(self) -> tuple[int, list[int]]:
        """Read the bytes of the driver, and of each worker."""
        import psutil

        workers = []
        for process in psutil.Process(self._root).children(recursive=True):
            try:
                if (process.cmdline() or [""])[0].startswith("ray::"):
                    workers.append(read_private_bytes(process.pid))
            except (psutil.NoSuchProcess, OSError):
                continue
        return read_private_bytes(self._root), workers


def read_private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def run_part(folder: Path, options: Any, part: str, phase: Path | None = None) -> dict[str, Any]:
    """Run a part of this benchmark in a process of its own; returns its result, with peaks of memory if asked."""
    command = [sys.executable, "-m", "tests.bench.streaming_scale", "--work", str(folder), "--part", part]
    command += [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in FULL]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=harness.ROOT, env=harness.job_environment(), stdout=log, stderr=log)
        # The small size's jobs end within seconds.
        watch = MemoryWatch(process.pid, phase, 0.1 if "small" in part else 0.5) if phase else None
        status = process.wait()
        peaks = watch.end() if watch else {}
    if status:
        raise RuntimeError(f"part {part} ended with status {status}; see {folder}/log")
    result = json.loads((folder / f"{part}.json").read_text())
    say(f"{part}: {json.dumps(result)}" + (f" {json.dumps(peaks)}" if peaks else ""))
    return {**result, "peaks": peaks}


def do_part(folder: Path, options: Any, part: str) -> None:
    kind, *rest = part.split("-")
    if kind == "jobs":
        result = measure_jobs(folder / rest[0], options, getattr(options, rest[0]))
    elif kind == "infer":
        result = measure_infer(folder, options, rest[0] == "tokens")
    else:
        result = measure_processor(folder, options, rest[0] == "tokens", int(rest[1]))
    (folder / f"{part}.json").write_text(json.dumps(result))


def compare(folder: Path, options: Any, kind: str, batch_sizes: Iterable[int]) -> dict[str, Any]:
    """Compare infer_traces with ray.data.llm at its best batch size of some."""
    ours = run_part(folder, options, f"infer-{kind}")
    theirs = {size: run_part(folder, options, f"rdl-{kind}-{size}") for size in batch_sizes}
    best = max(theirs, key=lambda size: theirs[size]["rate"])
    return {
        "ratio": ours["rate"] / theirs[best]["rate"],
        "infer_traces": round(ours["rate"], 1),
        "ray_data_llm": {size: round(result["rate"], 1) for size, result in theirs.items()},
        "best_batch_size": best,
        "ratio_with_start_up": ours["wall_rate"] / theirs[best]["wall_rate"],
    }


def main(arguments: list[str]) -> None:
    parser = harness.make_parser("streaming_scale", __doc__)
    parser.add_argument("--part", help="used by the benchmark itself: run one part in this process")
    options = harness.apply_sizes(parser, arguments, FULL, QUICK)
    harness.use_job_environment()
    if options.part:
        do_part(Path(options.work), options, options.part)
        return
    harness.prepare_demo()
    folder = harness.empty_folder(options.work)
    sizes = ("small", "large")
    jobs = {name: run_part(folder, options, f"jobs-{name}", folder / name / "measured/phase") for name in sizes}
    tokens = compare(folder, options, "tokens", BATCH_SIZES)
    bare = compare(folder, options, "bare", [tokens["best_batch_size"]])
    peaks = {name: max(peak["total"] for peak in jobs[name]["peaks"].values()) for name in sizes}
    large = jobs["large"]
    figures = {
        "items_per_s": options.large / (large["prepare"] + large["infer"]),
        "rss_ratio": peaks["large"] / peaks["small"],
        "vs_ray_data_llm": tokens["ratio"],
        "vs_ray_data_llm_bare": bare["ratio"],
        "items_per_s_by_job": {job: round(options.large / large[job], 1) for job in ("prepare", "infer")},
        "peak_private_mb": {
            size: {job: {k: v >> 20 for k, v in peak.items()} for job, peak in jobs[size]["peaks"].items()}
            for size in sizes
        },
        "with_tokenizer": tokens,
        "without_tokenizer": bare,
    }
    harness.finish("streaming_scale", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    # What goes to the workers must be importable by name there, not be part of __main__.
    from tests.bench.streaming_scale import main as imported_main

    imported_main(sys.argv[1:])
