"""A scripted engine whose draws take their time: lengths vary, and no more than `slots` run at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from judgetrace.engine import Completion, EngineSpec, Request
from tests.scripted_engine import ScriptedEngine, _hash_random


def draw_length(sigma: float, *unit_and_index: str) -> float:
    """Return a draw's length, of mean 1: lognormal with this log-SD, exponential where it is 0."""
    choice = _hash_random("length", *unit_and_index)
    return choice.expovariate(1.0) if sigma == 0 else math.exp(choice.gauss(-sigma * sigma / 2, sigma))


class PacedEngine(ScriptedEngine):
    """A scripted engine with further `engine.args`:

    mean_s         mean seconds of a draw; a draw of twice the mean length takes twice as long and twice the tokens
    sigma          log-SD of a draw's length; 0: exponential
    gate, engines  no draw begins before so many engines are up at once: the folder has a file `ended-PID` of each,
                   which tells when the last of its draws ended, and then `began`. One that is started again later
                   need not wait. For engines of one machine
    """

    def __init__(self, spec: EngineSpec):
        super().__init__(spec)
        self._gate = Path(self._script["gate"]) if "gate" in self._script else None
        self._is_open = self._gate is None
        self._gate_lock = asyncio.Lock()
        if self._gate is not None:
            self._gate.mkdir(parents=True, exist_ok=True)
            self._ended = os.open(self._gate / f"ended-{os.getpid()}", os.O_WRONLY | os.O_CREAT)

    async def generate(self, request: Request) -> Completion:
        if not self._is_open:
            await self._wait_for_gate()
        length = draw_length(float(self._script.get("sigma", 0.0)), *request.request_id.split("\x1f")[:4])
        tokens = max(1, round(length * int(self._script.get("output_tokens", 20))))
        async with self._slots:
            if request.on_tokens is not None:
                request.on_tokens(tokens // 2)
            await asyncio.sleep(length * float(self._script["mean_s"]))
        if self._gate is not None:
            os.pwrite(self._ended, f"{time.time():.3f}".encode(), 0)
        return replace(await super().generate(request), output_tokens=tokens)

    async def _wait_for_gate(self) -> None:
        """Wait until the gate is open. One draw of an engine looks, all others wait for it."""
        async with self._gate_lock:
            while not self._is_open:
                self._is_open = self._is_gate_open()
                if not self._is_open:
                    await asyncio.sleep(0.5)

    def _is_gate_open(self) -> bool:
        assert self._gate is not None
        began = self._gate / "began"
        if began.exists():
            return True
        if count_living(self._gate) < int(self._script["engines"]):
            return False
        with contextlib.suppress(FileExistsError), began.open("x") as file:
            file.write(f"{time.time():.3f}")
        return True


def count_living(gate: Path) -> int:
    """Count the engines of a gate whose process lives."""
    return sum(Path("/proc", file.name.removeprefix("ended-")).exists() for file in gate.glob("ended-*"))


def read_wall_s(gate: Path) -> float:
    """Read how long it took from the first draw of all engines to the end of their last one."""
    # An engine that died before any of its draws ended has left an empty file.
    ended = [float(text) for file in gate.glob("ended-*") if (text := file.read_text())]
    return max(ended) - float((gate / "began").read_text())


def make_corpus(folder: Path, num_units: int, units_per_shard: int, labels: Sequence[int] = (1, 2)) -> Path:
    """Prepare a corpus of scripted units with these labels in turn, in this process's Ray."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs import prepare_corpus
    from tests.bench import harness

    folder.mkdir(parents=True)
    ids = [f"i{n:07d}" for n in range(num_units)]
    columns = {
        "id": ids,
        "text": [f"Text {i}." for i in ids],
        "label": [labels[n % len(labels)] for n in range(num_units)],
    }
    pq.write_table(pa.table(columns), folder / "src.parquet")
    (folder / "guideline.md").write_text("Rate it 1 or 2.\n")
    config = {
        "corpus": str(folder / "corpus"),
        "source": {"paths": [str(folder / "src.parquet")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2]},
        "guideline": {"path": str(folder / "guideline.md")},
        "target": {"rule": "single"},
        "shards": {"units_per_shard": units_per_shard, "buckets": 1},
    }
    if prepare_corpus.main([str(harness.write_config(folder / "prepare.toml", config))]):
        raise RuntimeError("prepare_corpus failed")
    return folder / "corpus"


def run_config(
    corpus: Path, run: Path, *, replicas: int, slots: int, mean_s: float, gate: Path | None = None, **script: Any
) -> dict[str, Any]:
    """Configure infer_traces on so many paced engines; half of the draws are accepted, or what `script` says."""
    if gate is not None:
        script |= {"gate": str(gate), "engines": replicas}
    return {
        "corpus": str(corpus),
        "run": str(run),
        "model": {"path": "scripted/none"},
        "engine": {
            "kind": "tests.bench.paced_engine:PacedEngine",
            "min_replicas": replicas,
            "max_replicas": replicas,
            "num_cpus": 0.01,
            "slots": slots,
            "args": {"levels": [1, 2], "favour": 0.0, "mean_s": mean_s, **script},
        },
        "sampling": {"max_draws": 16, "max_tokens": 4000},
    }


def sum_needed_lengths(run: Path, sigma: float) -> float:
    """Add up the lengths of all draws that the outcomes of a run depend on."""
    from judgetrace.ledger import current_shard_files
    from judgetrace.storage import Folder

    traces, total = Folder(str(run)) / "traces", 0.0
    for name in current_shard_files(traces).values():
        rows = traces.read_table(name, ["item_id", "dimension", "target_source", "num_needed"]).to_pylist()
        for row in rows:
            unit = (row["item_id"], row["dimension"], row["target_source"])
            total += sum(draw_length(sigma, *unit, str(index)) for index in range(row["num_needed"]))
    return total
