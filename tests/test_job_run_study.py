"""run_study as a whole: the real jobs on Ray with a scripted engine and a small model, into a folder and into S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import run_study, status
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.ledger import current_shard_files
from judgetrace.storage import Folder
from judgetrace.study.sections import merge, write_toml
from tests.refine_runs import prepare_labels
from tests.study_files import make_config
from tests.train_runs import ROOT, make_tiny_model

pytestmark = pytest.mark.slow


def write_study(folder: Path, study: str, **sections: Any) -> str:
    """Write a study of 60 words, with a scripted generator and raters, and a small model that is really tuned."""
    make_config(folder)
    model = folder / "tiny"
    if not model.exists():
        make_tiny_model(model)
    shared = {
        "study": study,
        "source": {"paths": [str(folder / "source/words.csv")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(folder / "source/guideline.md")},
        "target": {"rule": "single"},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "shards": {"buckets": 1},
        "model": {"path": str(model)},
        "engine": {"kind": "tests.scripted_engine:ScriptedEngine", "num_cpus": 0.5, "slots": 16},
        "intervals": {"replicates": 50},
        "infer": {"sampling": {"max_draws": 16, "max_tokens": 100}},
        "train": {
            "controls": ["recalibrated"],
            "deepspeed": str(ROOT / "cluster/deepspeed/zero1.json"),
            "data": {"max_tokens": 256, "lanes": 2},
            "training": {"batch": 4, "micro_batch": 2, "warmup_steps": 1, "max_steps": 2},
            "validation": {"every_steps": 2, "max_items": 4, "max_new_tokens": 8},
            "workers": {"num_cpus": 0.5},
        },
        "rate": {"decoding": {"rating": "expected", "max_tokens": 64}},
        "recalibrate": {"min_items": 5},
    }
    file = folder / "study.toml"
    file.write_text(write_toml(merge(shared, sections)))
    return str(file)


def read_states(study: str) -> dict[str, tuple[str, str]]:
    rows = Folder(study).read_json("study.json")["stages"]
    return {row["stage"]: (row["state"], row["folder"]) for row in rows}


def test_a_study_runs_once_then_skips_everything_then_does_again_what_was_asked_for(tmp_path, ray_session, capsys):
    study = str(tmp_path / "study")
    file = write_study(tmp_path, study)
    assert run_study.main([file, "--dry-run"]) == 0
    assert not Path(study).exists()

    assert run_study.main([file]) == 0
    assert {state for state, _ in read_states(study).values()} == {"complete"}
    table = Folder(study).read_table("table/table.parquet").to_pylist()
    taus = {row["who"]: row for row in table if row["statistic"] == "kendall_tau_b" and row["kind"] != "raters"}
    assert {"untuned", "tuned", "recalibrated"} <= set(taus)
    assert "ICC(3,1)" in (tmp_path / "study/table/table.md").read_text()
    assert Folder(study).exists("manifest.json")
    assert status.main([study]) == 0

    capsys.readouterr()
    assert run_study.main([file]) == 0
    told = capsys.readouterr().out
    assert told.count(": done before") == len(read_states(study))

    changed = "--rate.untuned.decoding.seed=7"
    with pytest.raises(UserError, match=r"rate.untuned: decoding.seed: was 0, is now 7"):
        run_study.main([file, changed])
    assert run_study.main([file, changed, "--redo", "rate.untuned"]) == 0
    states = read_states(study)
    assert states["rate.untuned"] == ("complete", "rate/untuned.2")
    assert states["recalibrate"] == ("complete", "recalibrate.2")
    assert states["rate.tuned"] == ("complete", "rate/tuned")
    assert (tmp_path / "study/rate/untuned/manifest.json").is_file()


@pytest.mark.chaos
def test_a_study_may_lie_on_s3_and_a_fault_of_one_stage_leaves_the_others(tmp_path, ray_session, s3):
    study = f"{s3}/{tmp_path.name}/study"
    rate = {"decoding": {"rating": "expected"}, "others": ["broken"]}
    rate["broken"] = {"engine": {"args": {"fails_to_start": "scripted"}}}
    file = write_study(tmp_path, study, train=False, rate=rate)

    assert run_study.main([file]) == 2
    states = {name: state for name, (state, _) in read_states(study).items()}
    assert states["rate.broken"] == "failed"
    assert {state for name, state in states.items() if name != "rate.broken"} == {"complete"}
    assert "Without broken" in Folder(study).read_bytes("table/table.md").decode()


@pytest.mark.chaos
def test_a_pilot_that_a_budget_ended_goes_on_whatever_status_the_budget_has(tmp_path, ray_session):
    study = str(tmp_path / "study")
    infer = {"limit": 30, "sampling": {"max_draws": 16, "max_tokens": 100}, "engine": {"args": {"latency_s": 0.5}}}
    file = write_study(tmp_path, study, train=False, infer=infer)
    only = [file, "--only", "prepare,infer"]

    budget = ["--infer.limits.early_status=0", "--infer.limits.max_output_tokens=1"]
    assert run_study.main([*only, *budget]) == STOPPED_EARLY_STATUS
    assert read_states(study)["infer"][0] == "stopped"
    assert run_study.main(only) == 0
    assert read_states(study)["infer"] == ("complete", "infer")
    traces = Folder(f"{study}/infer/traces")
    assert sum(traces.read_table(name).num_rows for name in current_shard_files(traces).values()) == 30


def write_guided_study(folder: Path, study: str) -> str:
    """Write a study of 400 texts that hold their labels; its generator writes guidelines that make better raters."""
    prepare_labels(folder / "labels", str(folder / "labels/corpus"))
    (folder / "right.md").write_text("Rate 1, 2, 3, 4 or 5 with quality 0.5.\n")
    generator = {"kind": "tests.guided_generator:GuidedGenerator", "num_cpus": 0.25, "args": {"qualities": [0.9]}}
    sections = {
        "study": study,
        "source": {"paths": [str(folder / "labels/source.csv")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(folder / "labels/guideline.md")},
        "target": {"rule": "single"},
        "split": {"train": 0.25, "validation": 0.5, "test": 0.25},
        "shards": {"units_per_shard": 150, "buckets": 2},
        "model": {"path": "scripted/rater"},
        "engine": {"kind": "tests.guided_engine:GuidedEngine", "num_cpus": 0.25, "slots": 16},
        "infer": {"guideline": str(folder / "right.md"), "sampling": {"max_draws": 1, "max_tokens": 100}},
        "rate": {
            "others": ["shaky"],
            "decoding": {"max_tokens": 100},
            "shaky": {"engine": {"args": {"shift": 0.05}}},
        },
        "refine": {"generator": {"model": {"path": "scripted/generator"}, "engine": generator}},
        "agreement": {"intervals": {"replicates": 200}},
        "report": {"title": "Guided"},
    }
    file = folder / "guided.toml"
    file.write_text(write_toml(sections))
    return str(file)


def test_a_study_whose_guideline_is_refined_rates_again_and_shows_what_it_changed(tmp_path, ray_session):
    study = Folder(str(tmp_path / "study"))
    assert run_study.main([write_guided_study(tmp_path, study.url)]) == 0
    assert {state for state, _ in read_states(study.url).values()} == {"complete"}
    assert ": quality 0.9" in study.read_bytes("refine/guideline.md").decode()

    rows = [row for row in study.read_table("table/table.parquet").to_pylist() if row["statistic"] == "mse"]
    # All simulated: .3 of the ratings are right before, .9 after; a wrong one is the next level, or the lowest for 5.
    errors = {(row["who"], row["guideline"]): row["value"] for row in rows if row["kind"] == "rater"}
    changes = {row["who"]: row for row in rows if row["kind"] == "change"}
    for rater in ("untuned", "shaky"):
        before, after = errors[rater, "original"], errors[rater, "refined"]
        assert after < before
        assert changes[rater]["value"] == pytest.approx(after - before)
        assert changes[rater]["high"] < 0
    found = study.read_table("table/table.parquet").to_pylist()
    own = {r["guideline"]: r["value"] for r in found if (r["kind"], r["statistic"]) == ("raters", "icc_3_1")}
    assert own["refined - original"] == pytest.approx(own["refined"] - own["original"])
    page = study.read_bytes("report/report.html").decode()
    assert "Raters with each other" in page
    assert ": quality 0.9" in page
    assert "untuned-refined" in page
