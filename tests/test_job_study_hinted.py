"""A study whose units that nothing else reaches are hinted, verified by a second model, and learned; all controls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs import run_study
from judgetrace.schema import unit_key
from judgetrace.storage import Folder
from tests.test_job_run_study import read_states, write_study
from tests.trace_tables import read_published

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
CONTROLS = ["label", "label_first", "unrejected", "shuffled"]


def write_hinted_study(folder: Path, study: str) -> str:
    infer = {
        "runs": ["first", "told"],
        "sampling": {"max_draws": 1, "max_tokens": 100},
        "ledger": {"keep_rejected_text": True},
        "told": {"hint": {"enabled": True}, "sampling": {"max_draws": 16, "max_tokens": 100}},
    }
    # Of another family than the generator, and mostly of the same mind.
    verify = {
        "model": {"path": "scripted/second"},
        "decoding": {"max_tokens": 100},
        "engine": {"args": {"favour": 1.0}},
    }
    train = {
        "controls": [*CONTROLS, "recalibrated"],
        "data": {"max_tokens": 256, "lanes": 2, "max_hinted_share": 0.3},
        "training": {"batch": 4, "micro_batch": 2, "warmup_steps": 1, "max_steps": 1},
        "validation": {"every_steps": 1, "max_items": 2, "max_new_tokens": 8},
    }
    return write_study(folder, study, infer=infer, verify=verify, train=train)


def test_hinted_traces_are_learned_where_a_second_model_recovers_them_and_every_control_is_rated(tmp_path, ray_session):
    study = str(tmp_path / "study")
    assert run_study.main([write_hinted_study(tmp_path, study)]) == 0
    assert {state for state, _ in read_states(study).values()} == {"complete"}

    runs = {name: read_published(Folder(f"{study}/infer/{name}")) for name in ("first", "told")}
    left = {unit_key(row) for row in runs["first"] if row["outcome"] == "exhausted"}
    assert left
    assert {unit_key(row) for row in runs["told"]} == left
    accepted = {name: [row for row in rows if row["outcome"] == "accepted"] for name, rows in runs.items()}
    assert {(row["proposal"], row["hinted"]) for row in accepted["told"]} == {("told", True)}

    # What teaches: of the train split all that was found unhinted; of the hinted what is recovered and clean, at most
    # three of ten.
    verdicts = {unit_key(row): row for row in read_published(Folder(f"{study}/verify/told"), "verifications")}
    assert verdicts.keys() == {unit_key(row) for row in accepted["told"]}
    clean = [row for row in accepted["told"] if row["split"] == "train" and _is_clean(verdicts[unit_key(row)])]
    num_first = sum(row["split"] == "train" for row in accepted["first"])
    num_hinted = min(len(clean), int(0.3 * num_first / 0.7))
    assert num_hinted > 0
    data = Folder(f"{study}/train/tuned").read_json("manifest.json")["data"]
    assert data["examples"] == num_first + num_hinted
    assert data["skipped"].get("hinted_over_share", 0) == len(clean) - num_hinted

    table = Folder(study).read_table("table/table.parquet").to_pylist()
    rated = Counter(row["who"] for row in table if row["statistic"] == "kendall_tau_b" and row["kind"] != "raters")
    assert {"untuned", "tuned", "recalibrated", *CONTROLS} <= rated.keys()
    for name in CONTROLS:
        assert Folder(f"{study}/rate/{name}").exists("manifest.json")


def _is_clean(verdict: dict[str, object]) -> bool:
    return bool(verdict["recovers"]) and not verdict["leaks"] and not verdict["mentions_hint"]
