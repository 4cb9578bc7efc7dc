"""verify_traces and list_noise as a whole: the real jobs on Ray over a run of infer_traces, with a scripted engine."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from jobs import infer_traces, list_noise, render_report, status, verify_traces
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.storage import Folder
from tests.test_job_infer_traces import NUM_UNITS, read_rows, write_config
from tests.trace_tables import read_published

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def corpus(shared_corpus) -> str:
    return shared_corpus


@pytest.fixture(scope="module")
def traces(tmp_path_factory, corpus) -> str:
    folder = tmp_path_factory.mktemp("traces")
    assert infer_traces.main([write_config(folder, corpus, str(folder / "run"))]) == 0
    return str(folder / "run")


def write_verify_config(folder: Path, corpus: str, traces: str, run: str, **script: object) -> str:
    config = folder / "verify.toml"
    arguments = ", ".join(f"{name} = {json.dumps(value)}" for name, value in script.items())
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
traces = {json.dumps(traces)}
run = {json.dumps(run)}
[model]
path = "scripted/second"
[engine]
kind = "tests.scripted_engine:ScriptedEngine"
num_cpus = 0.5
slots = 16
args = {{ {arguments} }}
[decoding]
max_tokens = 100
[ledger]
commit_every_s = 1
drain_s = 2
"""
    )
    return str(config)


def test_every_accepted_trace_gets_one_verdict_over_an_early_end_and_another_call(tmp_path, corpus, traces, capsys):
    run = str(tmp_path / "run")
    config = write_verify_config(tmp_path, corpus, traces, run, latency_s=0.2, favour=1.0)
    assert verify_traces.main([config, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "[reasoning]" in shown
    assert not Path(run).exists()
    assert verify_traces.main([config, "--limits.max_output_tokens=300"]) == STOPPED_EARLY_STATUS
    assert 0 < len(read_published(Folder(run), "verifications")) < NUM_UNITS
    assert verify_traces.main([config]) == 0
    accepted = {row["item_id"]: row for row in read_rows(traces) if row["outcome"] == "accepted"}
    rows = read_published(Folder(run), "verifications")
    assert sorted(row["item_id"] for row in rows) == sorted(accepted)
    for row in rows:
        assert row["rating"] == accepted[row["item_id"]]["rating"]
        assert row["recovers"] == (row["outcome"] == "recovered") == (row["recovered_label"] == row["rating"])
        assert "<rating>" not in row["stripped_trace"]
        assert (row["proposal"], row["hinted"]) == ("first", False)
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes.keys() == {"recovered", "missed"}
    manifest = Folder(run).read_json("manifest.json")
    assert (manifest["outcomes"], manifest["units"]) == (outcomes, len(accepted))
    capsys.readouterr()
    assert status.main([run]) == 0
    assert "Ratings recovered" in capsys.readouterr().out
    check_report(tmp_path, corpus, traces, run, outcomes["recovered"] / len(accepted))


def check_report(tmp_path: Path, corpus: str, traces: str, run: str, share: float) -> None:
    config = tmp_path / "report.toml"
    inputs = {"output": str(tmp_path / "report.html"), "corpus": corpus, "traces": [traces], "verification": run}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in inputs.items()))
    assert render_report.main([str(config)]) == 0
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('id="verification"') :]
    assert "scripted/second" in section
    assert f"{share:.1%}" in section[: section.index("</table>")]
    with pytest.raises(UserError, match="is a run of infer_traces"):
        render_report.main([str(config), f"--verification={traces}"])


def test_traces_of_an_unfinished_run_are_not_verified(tmp_path, corpus):
    run = str(tmp_path / "run")
    assert infer_traces.main([write_config(tmp_path, corpus, run), "--limit=10"]) == 0
    with pytest.raises(UserError, match="no complete run there"):
        verify_traces.main([write_verify_config(tmp_path, corpus, run, str(tmp_path / "verified"))])


def test_suspects_are_what_no_draw_of_any_run_reached(tmp_path, corpus, traces):
    second = str(tmp_path / "second")
    config = write_config(tmp_path, corpus, second, favour=0.9)
    assert infer_traces.main([config, f"--after={json.dumps([traces])}", "--proposal=second"]) == 0
    noise = tmp_path / "noise.toml"
    head = {"corpus": corpus, "runs": [traces, second], "output": str(tmp_path / "noise")}
    noise.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in head.items()))
    for _ in range(2):
        assert list_noise.main([str(noise)]) == 0
    unreached = {row["item_id"] for row in read_rows(second) if row["outcome"] == "exhausted"}
    rows = read_published(Folder(str(tmp_path / "noise")), "suspects")
    assert {row["item_id"] for row in rows} == unreached
    assert {tuple(row["proposals"]) for row in rows} <= {("first", "second")}
    assert {row["num_rated"] for row in rows} <= {16}
    manifest = Folder(str(tmp_path / "noise")).read_json("manifest.json")
    assert manifest["counts"] == {"units": NUM_UNITS, "suspects": len(unreached)}
    assert (tmp_path / "noise/noise.md").read_text().count("\n## ") == len(unreached)
