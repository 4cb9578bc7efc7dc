"""plan_run as a whole: a pilot on Ray, then its plan."""

from __future__ import annotations

import json

import pytest

from jobs import plan_run
from judgetrace.config import UserError
from tests.test_job_infer_traces import prepare, read_rows, write_config

pytestmark = pytest.mark.slow


def test_a_pilot_is_run_and_planned_from_and_a_second_plan_reads_it(tmp_path, ray_session, capsys):
    corpus, run = prepare(tmp_path, str(tmp_path / "corpus")), str(tmp_path / "run")
    pilot = write_config(tmp_path, corpus, run, latency_s=0.05)
    config = tmp_path / "plan.toml"
    config.write_text(
        f"""output = {json.dumps(str(tmp_path / "plan"))}
rows = [1_000_000, 100_000_000]
replicas = [1, 64]
pilot_units = 80
[engine]
gpus = 1
[prices]
gpu_hour = 2.0
"""
    )
    assert plan_run.main([str(config), f"--pilot_config={pilot}"]) == 0
    plan = json.loads((tmp_path / "plan/plan.json").read_text())
    rows = read_rows(run)
    assert len(rows) == 80
    share = sum(row["outcome"] == "accepted" for row in rows) / 80
    assert [(s["rows"], s["replicas"]) for s in plan["scenarios"]] == [
        (10**6, 1),
        (10**6, 64),
        (10**8, 1),
        (10**8, 64),
    ]
    for scenario in plan["scenarios"]:
        assert scenario["figures"]["accepted"]["value"] == pytest.approx(scenario["rows"] * share)
        assert all(f["low"] <= f["value"] <= f["high"] for f in scenario["figures"].values())
        assert {d["part"] for d in scenario["demands"]} == {
            "engine",
            "driver",
            "S3 requests",
            "object store",
            "ids in memory",
        }
    assert "first bottleneck" in (tmp_path / "plan/plan.md").read_text()
    capsys.readouterr()
    assert plan_run.main([str(config), f"--pilot={run}", "--rows=[1000000]"]) == 0
    assert "Forecast" in capsys.readouterr().out


def test_a_folder_that_is_no_run_of_infer_traces_is_refused(tmp_path):
    config = tmp_path / "plan.toml"
    config.write_text(f'output = "x"\npilot = {json.dumps(str(tmp_path))}\n')
    with pytest.raises(UserError, match="no run; expected the run folder of infer_traces"):
        plan_run.main([str(config)])
