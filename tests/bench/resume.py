"""Resume: what SIGKILL of the whole job at random moments costs. Simulated: the scripted engine, with latency.

The real command line `python -m jobs.infer_traces` runs in a session of its own. One run is left alone; another is
killed with SIGKILL (its process group) at random moments and started again by the same command until it is complete.
The moments: a share of the kills falls into start-up, the others split the undisturbed run's sampling time at random
(seeded). Every draw appends a line to a file that all runs share, before it begins. From these lines and the final
traces:

lost, duplicated     units missing in the traces, units there more than once
accepted_set_equal   the same units accepted by the same draws, ratings and traces as in the undisturbed run
redone_rate          (unit, run) pairs in which a draw was sampled that an earlier run had begun already, over units
redone_bound         kills x (slots + units/s of the undisturbed run x commit interval) / units
wall_overhead        seconds from each run's first draw to its last one (to begin), added up, over those of the
                     undisturbed run, minus 1: start-up and shut-down apart
lingered_s           how long at most a killed job's workers, which are in process groups of their own, went on
survivors            processes of a killed job that still lived 10 s after the kill (then they are killed here)
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.job_process import JobProcess
from tests.scripted_engine import ScriptedEngine

FULL = {"units": 10000, "kills": 20, "slots": 32, "latency_s": 0.1, "commit_s": 1.0, "seed": 1, "startup_kills": 3}
QUICK = {"units": 600, "kills": 3, "slots": 32, "latency_s": 0.1, "commit_s": 1.0, "seed": 1, "startup_kills": 1}
LINGER_S = 2.0
"""About how long Ray's workers, which are in groups of their own, go on after the kill: they must miss their raylet."""


class CountedEngine(ScriptedEngine):
    """A scripted engine that notes every draw in `engine.args.draw_log` before it begins."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._log = os.open(self._script["draw_log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def generate(self, request: Any) -> Any:
        item_id, _, _, index = request.request_id.split("\x1f")[:4]
        os.write(self._log, f"{os.getpid()} {time.time():.3f} {item_id} {index}\n".encode())
        return await super().generate(request)


@dataclass(frozen=True)
class NotedDraw:
    """A line of the draw log."""

    process: int
    at: float
    item_id: str
    index: int


@dataclass(frozen=True)
class Attempt:
    """One start of the job. Times are seconds since the epoch; `draws_at` are the begins of its draws, in order."""

    started_at: float
    ended_at: float
    draws_at: list[float]
    survivors: tuple[str, ...] = ()

    @property
    def sampling_s(self) -> float:
        return self.draws_at[-1] - self.draws_at[0] if self.draws_at else 0.0

    @property
    def startup_s(self) -> float | None:
        return self.draws_at[0] - self.started_at if self.draws_at else None


def read_draws(log: Path) -> list[NotedDraw]:
    if not log.exists():
        return []
    fields = [line.split() for line in log.read_text().splitlines()]
    return [NotedDraw(int(f[0]), float(f[1]), f[2], int(f[3])) for f in fields if len(f) == 4]


def make_corpus(folder: Path, num_units: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [f"i{n:06d}" for n in range(num_units)]
    labels = [1 + n * 7 % 5 for n in range(num_units)]
    pq.write_table(pa.table({"id": ids, "text": [f"Text {i}." for i in ids], "label": labels}), folder / "src.parquet")
    (folder / "guideline.md").write_text("Rate it from 1 to 5.\n")
    config = {
        "corpus": str(folder / "corpus"),
        "source": {"paths": [str(folder / "src.parquet")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(folder / "guideline.md")},
        "target": {"rule": "single"},
        "shards": {"units_per_shard": 500},
        "cluster": {"address": "local", "num_cpus": 2},
    }
    harness.run_job("prepare_corpus", harness.write_config(folder / "prepare.toml", config), folder / "prepare.log")


def write_run_config(folder: Path, name: str, options: Any) -> Path:
    run = folder / name
    run.mkdir()
    config = {
        "corpus": str(folder / "corpus"),
        "run": str(run / "run"),
        "model": {"path": "scripted/none"},
        "engine": {
            "kind": "tests.bench.resume:CountedEngine",
            "num_cpus": 1,
            "slots": options.slots,
            "args": {"latency_s": options.latency_s, "draw_log": str(run / "draws.log")},
        },
        "sampling": {"max_draws": 16, "max_tokens": 100},
        "ledger": {"commit_every_s": options.commit_s},
        "cluster": {"address": "local", "num_cpus": 2},
    }
    return harness.write_config(run / "config.toml", config)


class Job:
    """One start of the command line, and the draws that it begins."""

    def __init__(self, config: Path, temp_dir: Path):
        self._log = config.parent / "draws.log"
        self._seen = len(read_draws(self._log))
        self._seen_bytes = self._log.stat().st_size if self._log.exists() else 0
        self._started_at = time.time()
        self._process = JobProcess("infer_traces", config, config.parent / "job.log", temp_dir)

    def has_begun(self) -> bool:
        return self._log.exists() and self._log.stat().st_size > self._seen_bytes

    def has_ended(self) -> bool:
        return self._process.has_ended()

    def wait(self) -> Attempt:
        self._process.wait()
        return Attempt(self._started_at, time.time(), self._draws_at())

    def kill(self) -> Attempt:
        """SIGKILL the process group and see that nothing of the job survives."""
        ended_at = time.time()
        survivors = self._process.kill()
        return Attempt(self._started_at, ended_at, self._draws_at(), survivors)

    def _draws_at(self) -> list[float]:
        return sorted(draw.at for draw in read_draws(self._log)[self._seen :])


def plan_kills(options: Any, sampling_s: float, startup_s: float) -> list[tuple[str, float]]:
    """Choose the moments: ("start", seconds after the start) or ("draw", seconds after the first draw)."""
    chance = random.Random(options.seed)
    in_startup = min(options.startup_kills, options.kills)
    num_points = options.kills - in_startup
    span = max(0.2 * sampling_s, sampling_s - LINGER_S * num_points)
    points = sorted(chance.uniform(0.0, span) for _ in range(num_points))
    gaps = [point - earlier for earlier, point in zip([0.0, *points], points, strict=False)]
    moments = [("draw", gap) for gap in gaps]
    for _ in range(in_startup):
        moments.insert(chance.randrange(len(moments) + 1), ("start", chance.uniform(0.2, 1.0) * startup_s))
    return moments


def run_with_kills(config: Path, temp: Path, moments: list[tuple[str, float]]) -> list[Attempt]:
    """Start the job once a moment, kill it then; at last let it end."""
    attempts = []
    for number, (since, seconds) in enumerate(moments):
        job = Job(config, temp / f"k{number:02d}")
        if since == "draw":
            harness.wait_until(lambda job=job: job.has_begun() or job.has_ended(), 120)
        if not job.has_ended():
            time.sleep(seconds)
        if job.has_ended():
            attempts.append(job.wait())
            say(f"complete before kill {number + 1} of {len(moments)}")
            return attempts
        attempts.append(job.kill())
        say(f"kill {number + 1} of {len(moments)}: {seconds:.2f} s after the {since}; {describe(attempts[-1])}")
    job = Job(config, temp / "last")
    attempts.append(job.wait())
    say(f"last run complete; {describe(attempts[-1])}")
    return attempts


def describe(attempt: Attempt) -> str:
    began = "no draw" if attempt.startup_s is None else f"up after {attempt.startup_s:.1f} s"
    return f"{began}, {attempt.sampling_s:.1f} s of sampling" + (
        f", SURVIVED {attempt.survivors}" * bool(attempt.survivors)
    )


def read_traces(run: Path) -> list[dict[str, Any]]:
    from judgetrace.ledger import current_shard_files
    from judgetrace.storage import Folder

    folder = Folder(str(run))
    columns = ["item_id", "dimension", "target_source", "outcome", "draw_index", "rating", "trace"]
    tables = [(folder / "traces").read_table(name, columns) for name in current_shard_files(folder / "traces").values()]
    return [row for table in tables for row in table.to_pylist()]


def accepted_set(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in rows if row["outcome"] == "accepted"}


def count_redone(draws: list[NotedDraw]) -> tuple[int, int]:
    """Count (unit, run) pairs in which a draw was sampled that an earlier run had begun, and such draws."""
    begun_by: dict[tuple[str, int], int] = {}
    pairs, repeats = set(), 0
    for draw in draws:
        first = begun_by.setdefault((draw.item_id, draw.index), draw.process)
        if first != draw.process:
            pairs.add((draw.item_id, draw.process))
            repeats += 1
    return len(pairs), repeats


def collect(folder: Path, options: Any, calm: Attempt, attempts: list[Attempt]) -> dict[str, Any]:
    rows, calm_rows = read_traces(folder / "killed/run"), read_traces(folder / "calm/run")
    keys: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        keys[(row["item_id"], row["dimension"], row["target_source"])] += 1
    redone, repeats = count_redone(read_draws(folder / "killed/draws.log"))
    kills = len(attempts) - 1
    rate = options.units / calm.sampling_s
    startups = [attempt.startup_s for attempt in attempts if attempt.startup_s is not None]
    sampling_s = sum(attempt.sampling_s for attempt in attempts)
    return {
        "lost": options.units - len(keys),
        "duplicated": sum(count - 1 for count in keys.values()),
        "accepted_set_equal": accepted_set(rows) == accepted_set(calm_rows),
        "redone_rate": redone / options.units,
        "redone_bound": kills * (options.slots + rate * options.commit_s) / options.units,
        "wall_overhead": sampling_s / calm.sampling_s - 1,
        "kills": kills,
        "draws_repeated": repeats,
        "draws_undisturbed": len(read_draws(folder / "calm/draws.log")),
        "undisturbed_s": round(calm.sampling_s, 2),
        "disturbed_s": round(sampling_s, 2),
        "startup_s": round(sum(startups) / len(startups), 2),
        "wall_s": {
            "undisturbed": round(calm.ended_at - calm.started_at, 1),
            "disturbed": round(sum(attempt.ended_at - attempt.started_at for attempt in attempts), 1),
        },
        "units_per_s": round(rate, 1),
        "lingered_s": round(max((a.draws_at[-1] - a.ended_at for a in attempts[:-1] if a.draws_at), default=0.0), 2),
        "survivors": [name for attempt in attempts for name in attempt.survivors],
    }


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("resume", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    folder = harness.empty_folder(options.work)
    make_corpus(folder, options.units)
    # Ray's sockets lie in here, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="jt", dir="/tmp", ignore_cleanup_errors=True) as temp:
        say(f"an undisturbed run of {options.units} units")
        calm = Job(write_run_config(folder, "calm", options), Path(temp) / "calm").wait()
        say(describe(calm))
        assert calm.startup_s is not None
        moments = plan_kills(options, calm.sampling_s, calm.startup_s)
        attempts = run_with_kills(write_run_config(folder, "killed", options), Path(temp), moments)
    figures = collect(folder, options, calm, attempts)
    harness.finish("resume", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
