"""The models behind a plan against measured runs of a worker with a scripted engine, at several sizes."""

from __future__ import annotations

import time

import pytest

from judgetrace.ledger import current_shard_files
from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.forecast import Forecaster
from judgetrace.planning.pilot import Pilot, PilotCall, read_units
from judgetrace.storage import Folder, encode_parquet
from judgetrace.trace_config import InferTracesConfig
from tests.test_unit_worker import call, make_worker
from tests.trace_tables import make_items

pytestmark = pytest.mark.chaos

UNITS_PER_SHARD = 50
ENGINE = {"slots": 16, "kind": "tests.bench.paced_engine:PacedEngine"}
SCRIPT = {"mean_s": 0.25, "sigma": 0.7, "output_tokens": 200, "favour": 0.4}


def measure(tmp_path, corpus: Folder, num_shards: int) -> tuple[Folder, float, float]:
    """Decide so many shards; returns the run, its seconds, its engine seconds."""
    from judgetrace.engine import EngineConfig

    engine = EngineConfig(**ENGINE, args=SCRIPT)
    worker, link, run = make_worker(tmp_path, corpus, run=f"run-{num_shards}", engine=engine)
    began = time.monotonic()
    call(worker, *range(num_shards), num_units=UNITS_PER_SHARD)
    seconds = time.monotonic() - began
    return run, seconds, link.last.done.engine_s


def read(run: Folder) -> tuple[list, list]:
    return read_units(run / "traces", list(current_shard_files(run / "traces").values()))


def test_sampling_time_and_tokens_of_larger_runs_are_forecast_from_a_pilot(tmp_path):
    corpus = Folder(str(tmp_path / "corpus"))
    for shard in range(20):
        name, items = f"items/shard-{shard:05d}.parquet", make_items(UNITS_PER_SHARD, prefix=f"shard{shard}")
        corpus.write_atomic(name, encode_parquet(items))
    run, seconds, engine_s = measure(tmp_path, corpus, 4)
    units, spare = read(run)
    config = InferTracesConfig.model_validate(
        {"corpus": "c", "run": "r", "model": {"path": "m"}, "engine": ENGINE, "sampling": {"max_draws": 6}}
    )
    calls = (PilotCall(engine_s, seconds, num_engines=1),)
    pilot = Pilot(tuple(units), tuple(spare), calls, config, 1.0, UNITS_PER_SHARD)
    capacities = {"driver_ms_per_shard": 0.0}
    plan = PlanRunConfig.model_validate({"pilot": "p", "output": "o", "capacities": capacities})
    forecaster = Forecaster(pilot, plan)
    for num_shards in (8, 16):
        forecast = forecaster.forecast(num_shards * UNITS_PER_SHARD, 1).figures
        run, seconds, _ = measure(tmp_path, corpus, num_shards)
        units, _ = read(run)
        tokens = sum(sum(unit.output_tokens) for unit in units)
        # Tokens within the pilot's interval; time for as many tokens as there were. Timers of a busy machine are late.
        assert forecast["output_tokens"].low <= tokens <= forecast["output_tokens"].high
        pace = tokens / (num_shards * UNITS_PER_SHARD * forecaster.statistics.output_tokens[0])
        assert forecast["wall_s"].value * pace == pytest.approx(seconds, rel=0.2)
