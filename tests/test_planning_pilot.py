"""What a plan takes from a pilot's corpus: units of a row of the source, whatever its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.prepare_corpus import make_manifest
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


def decide_all(run: RunFolder, corpus: Folder) -> None:
    """Leave what a complete run over the corpus's one shard leaves."""
    items = corpus.read_table("items/shard-00000.parquet")
    hit = [make_draw(0, "accepted", "3")]
    rows = table_of(*(make_decision(items, row, "accepted", hit) for row in range(items.num_rows)))
    ShardLedger(run.folder, 0, TRACE_PRODUCT).publish(items, rows)
    config = {"corpus": corpus.url, "run": run.folder.url, "model": {"path": "m"}}
    driver = run.claim(0.0, {"job": "infer_traces", "corpus": corpus.url, "config": config})
    run.write_state(driver, {"state": "complete", "at": 0.0, "engine_s": 10.0, "seconds": 12.0})


def test_rows_of_a_wide_corpus_are_items_however_many_labels_they_have(tmp_path: Path) -> None:
    corpus, run = prepare_wide(tmp_path, num_items=100, num_dropped=10), RunFolder(Folder(str(tmp_path / "run")))
    decide_all(run, corpus)

    pilot = read_pilot(run.folder.url)

    assert pilot.units_per_row == pytest.approx(0.9)
    config = PlanRunConfig(pilot=run.folder.url, output="plan", rows=[1000], replicas=[1])
    assert Forecaster(pilot, config).forecast(1000, 1).units == 900


def test_a_pilot_of_a_wide_corpus_takes_as_many_rows_as_it_is_told_from_several_files(tmp_path: Path) -> None:
    corpus = prepare_wide(tmp_path, num_items=8, num_dropped=0, num_files=2, limit=6)

    counts = corpus.read_json("manifest-00000.json")["counts"]
    assert (counts["source_rows"], counts["rows_in"], counts["units"]) == (6, 60, 6)
