"""What a plan takes from a pilot: units of a row of its source, engines that drew, and only where it has ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from jobs.plan_run import run_pilot
from jobs.prepare_corpus import make_manifest
from judgetrace.config import UserError
from judgetrace.corpus import BucketResult, commit_manifest, write_bucket
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corpus_plan import make_plan
from judgetrace.ledger import ShardLedger
from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.forecast import Forecaster
from judgetrace.planning.pilot import read_pilot
from judgetrace.products import TRACE_PRODUCT
from judgetrace.run_folder import RunFolder
from judgetrace.staging import stage_parts
from judgetrace.storage import Folder
from tests.trace_tables import make_decision, make_draw, table_of

LABELS = [f"person{n}" for n in range(10)]


def prepare_wide(tmp_path: Path, num_items: int, num_dropped: int, num_files: int = 1, **more: object) -> Folder:
    """Prepare items of ten labels each in this process; those that the target rule drops have 1 and 5 in turn."""
    for file in range(num_files):
        lines = [
            f"i{n:03d},text {n}," + ",".join("15" * 5 if n < num_dropped else "3" * 10)
            for n in range(file, num_items, num_files)
        ]
        text = "\n".join([f"item,text,{','.join(LABELS)}", *lines]) + "\n"
        (tmp_path / f"source-{file}.csv").write_text(text)
    (tmp_path / "guideline.md").write_text("Rate it from 1 to 5.\n")
    given = {
        "corpus": str(tmp_path / "corpus"),
        "source": {"paths": [str(tmp_path / "source-*.csv")], "layout": "wide"},
        "columns": {"item_id": "item", "text": "text", "labels": LABELS},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(tmp_path / "guideline.md")},
        "shards": {"buckets": 1},
    }
    plan = make_plan(PrepareCorpusConfig.model_validate(given | more))
    staged = stage_parts(plan.folder, plan.parts, plan.stage, task=0)
    total = BucketResult(staged.tally)
    total.add(write_bucket(plan.folder, 0, [staged.pieces[0]], plan.rules))
    commit_manifest(plan.folder, make_manifest(plan, total))
    return plan.folder


def decide(run: RunFolder, corpus: Folder, shard: int, publish: bool = True) -> None:
    """Decide a shard of the corpus; leaves it in the ledger where it is not to be published."""
    items = corpus.read_table(f"items/shard-{shard:05d}.parquet")
    hit = [make_draw(0, "accepted", "3")]
    rows = table_of(*(make_decision(items, row, "accepted", hit) for row in range(items.num_rows)))
    ledger = ShardLedger(run.folder, shard, TRACE_PRODUCT)
    if publish:
        ledger.publish(items, rows)
    else:
        ledger.commit(rows)


def claim(run: RunFolder, corpus: Folder, units: int, **more: Any) -> int:
    """Take a run over as infer_traces does."""
    config = {"corpus": corpus.url, "run": run.folder.url, "model": {"path": "m"}} | more
    return run.claim(0.0, {"job": "infer_traces", "corpus": corpus.url, "units": units, "config": config})


def say(run: RunFolder, driver: int, state: str = "complete", **more: Any) -> None:
    run.write_state(driver, {"state": state, "at": 0.0, "engine_s": 10.0, "seconds": 12.0} | more)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Folder(str(tmp_path / "run")))


@pytest.fixture
def corpus(tmp_path: Path) -> Folder:
    """80 units in four shards."""
    return prepare_wide(tmp_path, num_items=80, num_dropped=0, shards={"buckets": 1, "units_per_shard": 20})


@pytest.fixture
def decided(run: RunFolder, corpus: Folder) -> RunFolder:
    """A run whose first call has published the corpus, and has yet to say so."""
    for shard in range(4):
        decide(run, corpus, shard)
    claim(run, corpus, 80)
    return run


@pytest.mark.parametrize(
    ("engine", "units"), [("slots = 16", 200), ("slots = 256", 512), ("slots = 256\nmin_replicas = 2", 1024)]
)
def test_a_pilot_that_plan_run_runs_fills_its_slots(tmp_path, monkeypatch, engine, units) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("jobs.infer_traces.main", lambda arguments: asked.append(arguments) or 0)
    pilot = tmp_path / "pilot.toml"
    pilot.write_text(f'corpus = "c"\nrun = "runs/pilot"\n[model]\npath = "m"\n[engine]\nmax_replicas = 2\n{engine}\n')
    assert run_pilot(PlanRunConfig(pilot_config=str(pilot), output="o")) == "runs/pilot"
    assert asked == [[str(pilot), f"--limit={units}"]]


def test_rows_of_a_wide_corpus_are_items_however_many_labels_they_have(tmp_path: Path, run: RunFolder) -> None:
    corpus = prepare_wide(tmp_path, num_items=100, num_dropped=10)
    decide(run, corpus, 0)
    say(run, claim(run, corpus, 90))

    pilot = read_pilot(run.folder.url)

    assert pilot.units_per_row == pytest.approx(0.9)
    config = PlanRunConfig(pilot=run.folder.url, output="plan", rows=[1000], replicas=[1])
    assert Forecaster(pilot, config).forecast(1000, 1).units == 900


def test_a_pilot_of_a_wide_corpus_takes_as_many_rows_as_it_is_told_from_several_files(tmp_path: Path) -> None:
    corpus = prepare_wide(tmp_path, num_items=8, num_dropped=0, num_files=2, limit=6)

    counts = corpus.read_json("manifest-00000.json")["counts"]
    assert (counts["source_rows"], counts["rows_in"], counts["units"]) == (6, 60, 6)


def test_a_pilot_of_some_splits_forecasts_their_units_alone(decided: RunFolder, corpus: Folder) -> None:
    split = corpus.read_json("manifest-00000.json")["counts"]["splits"]
    say(decided, claim(decided, corpus, split["train"], splits=["train"]))

    pilot = read_pilot(decided.folder.url)

    assert pilot.units_per_row == pytest.approx(split["train"] / 80)
    assert pilot.units_per_shard == round(20 * split["train"] / 80) < 20


def test_engines_that_never_drew_are_none_of_the_pilots(decided: RunFolder) -> None:
    # One drew; two start, and one that runs was given no shard.
    say(decided, 0, states={"running": 2, "starting": 2}, num_engines=1)
    pilot = read_pilot(decided.folder.url)
    assert (pilot.num_engines, pilot.overhead_s) == (1, 2.0)


def test_of_an_older_run_all_engines_count_that_a_shard_could_be_for(decided: RunFolder) -> None:
    say(decided, 0, states={"running": 6, "starting": 2})
    assert read_pilot(decided.folder.url).num_engines == 4
    say(decided, 0, states={"running": 2, "starting": 1})
    assert read_pilot(decided.folder.url).num_engines == 3


def test_every_call_that_drew_has_engines_and_a_start_of_its_own(decided: RunFolder, corpus: Folder) -> None:
    say(decided, 0, "SIGTERM received", engine_s=40.0, seconds=15.0, num_engines=4)
    say(decided, claim(decided, corpus, 80), engine_s=20.0, seconds=27.0, num_engines=1)
    # Called once more it finds all decided, but starts an engine before it does.
    say(decided, claim(decided, corpus, 80), engine_s=0.0, seconds=500.0, num_engines=0)

    pilot = read_pilot(decided.folder.url)

    assert (pilot.num_engines, pilot.engine_s, pilot.seconds) == (5, 60.0, 42.0)
    # 15 s of which engines drew 10, and 27 s of which one drew 20.
    assert pilot.overhead_s == 6.0


@pytest.mark.parametrize(
    ("state", "at", "found"),
    [
        ("running", 0.0, "the run is running"),
        ("stopping", 0.0, "the run is stopping"),
        ("running", -3600.0, "the run is dead: its driver said nothing for 60 min"),
    ],
)
def test_a_run_that_has_not_ended_is_no_pilot(decided: RunFolder, state: str, at: float, found: str) -> None:
    say(decided, 0, state, at=time.time() + at)
    with pytest.raises(
        UserError, match=f"pilot = .*{found}(.|\n)*expected: a run that has ended(.|\n)*run its command again"
    ):
        read_pilot(decided.folder.url)


@pytest.mark.parametrize("state", ["complete", "output tokens: budget of 500 spent", "SIGTERM received"])
def test_a_run_that_has_ended_early_is_a_pilot(run: RunFolder, corpus: Folder, state: str) -> None:
    for shard in range(2):
        decide(run, corpus, shard)
    say(run, claim(run, corpus, 80), state)
    assert len(read_pilot(run.folder.url).units) == 40


def test_a_run_whose_manifest_is_written_has_ended_whatever_its_driver_said_last(decided: RunFolder) -> None:
    say(decided, 0, "running", at=time.time())
    decided.folder.write_json("manifest.json", {})
    assert len(read_pilot(decided.folder.url).units) == 80


def test_a_further_call_is_only_taken_for_ended_where_it_found_nothing_to_do(run: RunFolder, corpus: Folder) -> None:
    for shard in range(2):
        decide(run, corpus, shard)
    say(run, claim(run, corpus, 40))
    # It has said nothing in either case.
    claim(run, corpus, 40)
    assert len(read_pilot(run.folder.url).units) == 40
    claim(run, corpus, 80)
    with pytest.raises(UserError, match="starting, or dead before its first word"):
        read_pilot(run.folder.url)


def test_a_run_that_failed_before_it_published_what_it_had_decided_is_no_pilot(run: RunFolder, corpus: Folder) -> None:
    for shard in range(4):
        decide(run, corpus, shard, publish=shard < 3)
    say(run, claim(run, corpus, 80), "failed: the store stays away")
    with pytest.raises(UserError, match="20 of 80 decided units are not in traces/"):
        read_pilot(run.folder.url)
