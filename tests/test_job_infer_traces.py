"""infer_traces as a whole: the real job on Ray, with a scripted engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from jobs import decide_again, infer_traces, prepare_corpus, status
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.storage import Folder
from tests.oracle import accepted_set, check_rows
from tests.trace_tables import read_published

pytestmark = pytest.mark.slow

NUM_UNITS = 120


def write_source(folder: Path, num: int = NUM_UNITS) -> Path:
    labels = [str(i % 5 + 1) for i in range(num)]
    frame = pd.DataFrame({"id": [f"item-{i:05d}" for i in range(num)], "text": "some text", "label": labels})
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "source.csv", index=False)
    (folder / "guideline.md").write_text("Rate the text from 1 to 5.\n")
    return folder / "source.csv"


def prepare(folder: Path, corpus: str, *more: str, num: int = NUM_UNITS) -> str:
    config = folder / "corpus.toml"
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
[source]
paths = [{json.dumps(str(write_source(folder, num)))}]
[columns]
item_id = "id"
text = "text"
label = "label"
[scale]
values = [1, 2, 3, 4, 5]
[guideline]
path = {json.dumps(str(folder / "guideline.md"))}
[target]
rule = "single"
[shards]
units_per_shard = 25
buckets = 2
"""
    )
    assert prepare_corpus.main([str(config), *more]) == 0
    return corpus


def write_config(folder: Path, corpus: str, run: str, **script: object) -> str:
    config = folder / "traces.toml"
    arguments = ", ".join(f"{name} = {json.dumps(value)}" for name, value in script.items())
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
run = {json.dumps(run)}
[model]
path = "scripted/model"
[engine]
kind = "tests.scripted_engine:ScriptedEngine"
num_cpus = 0.5
slots = 16
args = {{ {arguments} }}
[sampling]
max_draws = 8
max_tokens = 100
[ledger]
commit_every_s = 1
keep_rejected_text = true
drain_s = 2
"""
    )
    return str(config)


def read_rows(run: str) -> list[dict]:
    return read_published(Folder(run))


@pytest.fixture(scope="session")
def corpus(shared_corpus) -> str:
    return shared_corpus


def test_every_unit_ends_in_one_row_and_a_second_run_has_nothing_to_do(tmp_path, corpus, capsys):
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run)
    assert infer_traces.main([config]) == 0
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)
    manifest = Folder(run).read_json("manifest.json")
    assert manifest["decided"] == NUM_UNITS
    assert manifest["outcomes"] == Counter(row["outcome"] for row in rows)
    assert manifest["tokens"]["output"] == sum(draw["output_tokens"] for row in rows for draw in row["draws"])
    capsys.readouterr()
    assert infer_traces.main([config]) == 0
    assert "0 shards to go" in capsys.readouterr().out
    assert read_rows(run) == rows


def test_source_and_sink_may_lie_on_s3(tmp_path, ray_session, s3):
    corpus, run = f"{s3}/{tmp_path.name}/corpus", f"{s3}/{tmp_path.name}/run"
    prepare(tmp_path, corpus)
    assert infer_traces.main([write_config(tmp_path, corpus, run)]) == 0
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)
    assert status.main([run, "--json"]) == 0


def test_a_token_budget_ends_the_run_cleanly_and_the_same_command_goes_on(tmp_path, corpus):
    undisturbed = str(tmp_path / "undisturbed")
    assert infer_traces.main([write_config(tmp_path, corpus, undisturbed)]) == 0
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run, latency_s=0.2)
    early = infer_traces.main([config, "--limits.max_output_tokens=1500"])
    assert early == STOPPED_EARLY_STATUS
    # What starts failed jobs again is told that a spent budget is no failure; a job that calls this one is not.
    early = infer_traces.main([config, "--limits.max_output_tokens=1", "--limits.early_status=0"])
    assert (early, early.of_process) == (STOPPED_EARLY_STATUS, 0)
    assert not Folder(run).exists("manifest.json")
    done = {row["item_id"] for row in read_rows(run)}
    assert 0 < len(done) < NUM_UNITS
    assert infer_traces.main([config]) == 0
    rows = read_rows(run)
    check_rows(rows)
    assert accepted_set(rows) == accepted_set(read_rows(undisturbed))


def test_a_pilot_is_a_start_that_the_whole_run_goes_on_from(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run)
    assert infer_traces.main([config, "--limit=30"]) == 0
    assert len(read_rows(run)) == 30
    assert not Folder(run).exists("manifest.json")
    assert infer_traces.main([config]) == 0
    assert len(read_rows(run)) == NUM_UNITS


def test_changed_sampling_is_refused_by_name(tmp_path, corpus):
    config = write_config(tmp_path, corpus, str(tmp_path / "run"))
    assert infer_traces.main([config, "--limit=5"]) == 0
    with pytest.raises(UserError, match=r"sampling\.temperature: was 1\.0, is now 0\.5"):
        infer_traces.main([config, "--sampling.temperature=0.5"])
    assert infer_traces.main([config, "--limit=5", "--engine.slots=4", "--sampling.mode=fixed"]) == 0


def test_too_many_failures_stop_the_run_and_the_next_one_retries_them(tmp_path, corpus, capsys):
    run = str(tmp_path / "run")
    assert infer_traces.main([write_config(tmp_path, corpus, run, fail_rate=1.0, latency_s=0.05)]) == 3
    assert "scripted failure" in capsys.readouterr().out
    # A changed script is a changed engine; this run folder is told that it may go on.
    (tmp_path / "run/contract.json").unlink()
    assert infer_traces.main([write_config(tmp_path, corpus, run)]) == 0
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)
    assert "failed" not in {row["outcome"] for row in rows}


def test_an_engine_that_dies_is_replaced_and_nothing_is_lost(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run, dies_after=90, dies_once=str(tmp_path / "died"), latency_s=0.01)
    assert infer_traces.main([config]) == 0
    assert (tmp_path / "died").exists()
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)


def test_an_engine_that_cannot_start_is_explained_in_its_own_words(tmp_path, corpus):
    config = write_config(tmp_path, corpus, str(tmp_path / "run"), fails_to_start="max_model_len 9 is too long")
    with pytest.raises(UserError, match="could not start: ValueError: max_model_len 9 is too long"):
        infer_traces.main([config])


def test_items_appended_later_are_taken_up_and_finished_units_stay_finished(tmp_path, ray_session):
    corpus, run = prepare(tmp_path, str(tmp_path / "corpus")), str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run)
    assert infer_traces.main([config]) == 0
    before = read_rows(run)
    more = tmp_path / "more.csv"
    pd.DataFrame({"id": [f"new-{i}" for i in range(10)], "text": "new text", "label": "3"}).to_csv(more, index=False)
    paths = json.dumps([str(tmp_path / "source.csv"), str(more)])
    assert prepare_corpus.main([str(tmp_path / "corpus.toml"), f"--source.paths={paths}"]) == 0
    assert infer_traces.main([config]) == 0
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS + 10
    assert [row for row in rows if row["item_id"].startswith("item")] == before


def test_units_are_decided_again_from_recorded_draws(tmp_path, corpus, capsys):
    run, again = str(tmp_path / "run"), str(tmp_path / "again")
    assert infer_traces.main([write_config(tmp_path, corpus, run), "--sampling.mode=fixed"]) == 0
    config = tmp_path / "again.toml"
    config.write_text(f'run = "{run}"\noutput = "{again}"\n[acceptance]\nrule = "tolerance"\ntolerance = 1\n')
    assert decide_again.main([str(config)]) == 0
    capsys.readouterr()
    assert status.main([again, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["job"], told["state"], told["units"]) == ("decide_again", "complete", NUM_UNITS)
    assert told["outcomes"] == Counter(row["outcome"] for row in read_rows(again))
    strict = {row["item_id"]: row for row in read_rows(run)}
    for row in read_rows(again):
        near = [d for d in row["draws"] if d["rating"] and abs(int(d["rating"]) - int(row["target_label"])) <= 1]
        assert row["outcome"] == ("accepted" if near else "exhausted")
        if near:
            assert row["draw_index"] == min(draw["index"] for draw in near)
            assert row["trace"] == f"Draw {row['draw_index']} of {row['item_id']} thinks."
            first = strict[row["item_id"]]["draw_index"]
            assert first is None or row["draw_index"] <= first


def test_the_status_of_a_run_is_told_from_its_files(tmp_path, corpus, capsys):
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match="no run there"):
        status.main([run])
    infer_traces.main([write_config(tmp_path, corpus, run), "--limit=30"])
    capsys.readouterr()
    assert status.main([run, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["units"], told["decided"]) == (30, 30)
    assert told["outcomes"] == Counter(row["outcome"] for row in read_rows(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--corpus=nowhere", "no finished corpus there"),
        ("--model.path=./nowhere", "no such folder"),
        ("--prompt.template=nowhere.jinja", "can't be read"),
        ("--sampling.max_drows=3", "unrecognized"),
        ("--engine.min_replicas=3", "more than max_replicas"),
        ("--thinking.parser=deepseek_r1", "go together"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(tmp_path, corpus, change, message, capsys):
    config = write_config(tmp_path, corpus, str(tmp_path / "run"))
    with pytest.raises((UserError, SystemExit)) as caught:
        infer_traces.main([config, change])
    assert message in f"{caught.value} {capsys.readouterr().err}"
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_the_file_is_an_error_that_names_the_known_ones(tmp_path, corpus):
    config = Path(write_config(tmp_path, corpus, str(tmp_path / "run")))
    config.write_text(config.read_text().replace("max_draws", "max_drows"))
    with pytest.raises(UserError, match=r"sampling\.max_drows: unknown key; known here: .*max_draws"):
        infer_traces.main([str(config)])


def test_a_dry_run_shows_the_prompt_and_touches_nothing(tmp_path, corpus, capsys):
    assert infer_traces.main([write_config(tmp_path, corpus, str(tmp_path / "run")), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for part in ("Rate the text from 1 to 5.", "some text", '"max_draws": 8', "120 units"):
        assert part in out
    assert not (tmp_path / "run").exists()


def test_help_explains_every_field():
    shown = subprocess.run(
        [sys.executable, "-m", "jobs.infer_traces", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for key in ("--sampling.max_draws", "--engine.max_replicas", "--thinking.format", "--limits.max_failed_rate"):
        assert key in shown
    assert "(the paper's k)" in shown


def test_a_stopped_run_says_so_within_seconds(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_config(tmp_path, corpus, run, latency_s=0.3)
    began = time.monotonic()
    assert infer_traces.main([config, "--limits.max_seconds=3", "--engine.slots=1"]) == 3
    assert time.monotonic() - began < 60
    check_rows(read_rows(run))


def by_label(rows: list[dict], outcome: str) -> Counter:
    return Counter(row["target_label"] for row in rows if row["outcome"] == outcome)


def test_a_quota_a_gate_and_a_further_proposal_after_the_run(tmp_path, corpus, capsys):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    quota = ["--quota.per_level=6", "--sampling.max_draws=2"]
    with pytest.raises(UserError, match="no complete run there"):
        infer_traces.main([write_config(tmp_path, corpus, second), f"--after={json.dumps([first])}"])
    config = write_config(tmp_path, corpus, first, latency_s=0.02)
    # In two calls: the second counts what the first accepted.
    assert infer_traces.main([config, *quota, "--limit=40"]) == 0
    before = by_label(read_rows(first), "accepted")
    gate = ["--gate.min_level_acceptance=0.99", "--gate.min_units=4"]
    capsys.readouterr()
    assert infer_traces.main([config, *quota, *gate]) == 0
    told = capsys.readouterr()
    assert "gate.min_level_acceptance 0.99: label" in told.err
    assert "Gate: at least 99.0%" in told.out
    rows = read_rows(first)
    check_rows(rows)
    assert len(rows) == NUM_UNITS
    accepted, spared = by_label(rows, "accepted"), by_label(rows, "over_quota")
    assert spared
    # At most what all slots of the engine held beside.
    assert all(max(6, before[label]) <= accepted[label] <= max(6, before[label]) + 18 for label in spared)
    assert len(Folder(first).read_json("manifest.json")["gate"]["breaches"]) > 0
    left = {row["item_id"] for row in rows if row["outcome"] in ("exhausted", "over_quota")}
    config = write_config(tmp_path, corpus, second, favour=0.9)
    proposal = [f"--after={json.dumps([first])}", "--proposal=severe", "--prompt.severity=strict"]
    assert infer_traces.main([config, *proposal]) == 0
    found = read_rows(second)
    assert {row["item_id"] for row in found} == left
    assert {row["proposal"] for row in found} == {"severe"}
    assert Folder(second).read_json("manifest.json")["units"] == len(left)
    assert status.main([first]) == 0


def test_a_gate_that_is_to_stop_ends_the_run_early_with_its_reason(tmp_path, corpus, capsys):
    config = write_config(tmp_path, corpus, str(tmp_path / "run"), latency_s=0.1)
    gate = ["--gate.min_level_acceptance=1", "--gate.min_units=1", "--gate.on_breach=stop", "--engine.slots=4"]
    assert infer_traces.main([config, *gate, "--sampling.max_draws=1"]) == STOPPED_EARLY_STATUS
    told = capsys.readouterr().out
    assert "set gate.on_breach = 'warn', or lower the gate" in told
    assert "Run the same command again" not in told
    assert infer_traces.main([config, "--sampling.max_draws=1"]) == 0
    assert len(read_rows(str(tmp_path / "run"))) == NUM_UNITS


def test_a_gate_that_is_to_stop_is_not_passed_by_a_call_with_nothing_left_to_ask(tmp_path, corpus, capsys):
    run = Folder(str(tmp_path / "run"))
    whole = [write_config(tmp_path, corpus, run.url), "--sampling.max_draws=1"]
    gate = ["--gate.min_level_acceptance=1", "--gate.min_units=1", "--gate.on_breach=stop"]
    # All is decided and there is no manifest, as where a breach is seen at the last commit.
    assert infer_traces.main([*whole, f"--limit={NUM_UNITS}"]) == 0
    capsys.readouterr()
    assert infer_traces.main([*whole, *gate]) == STOPPED_EARLY_STATUS
    told = capsys.readouterr().out
    assert "0 shards to go" in told
    assert "Ended early: gate.min_level_acceptance 1: label" in told
    assert not run.exists("manifest.json")
    assert status.main([run.url]) == 0
    assert "stopped: gate.min_level_acceptance" in capsys.readouterr().out
    assert infer_traces.main(whole) == 0
    assert run.read_json("manifest.json")["decided"] == NUM_UNITS


def test_with_splits_only_their_units_are_sampled_counted_and_published(tmp_path, corpus, capsys):
    run, second = str(tmp_path / "run"), str(tmp_path / "second")
    items = Folder(corpus) / "items"
    units = [unit for name in items.list_files(".parquet") for unit in items.read_table(name).to_pylist()]
    train = {unit["item_id"] for unit in units if unit["split"] == "train"}
    assert 0 < len(train) < NUM_UNITS
    config, few = write_config(tmp_path, corpus, run), ["--splits=train", "--sampling.max_draws=2"]
    assert infer_traces.main([config, *few, "--limit=10"]) == 0
    assert len(read_rows(run)) == 10
    assert infer_traces.main([config, *few]) == 0
    rows = read_rows(run)
    check_rows(rows)
    assert {row["item_id"] for row in rows} == train
    manifest = Folder(run).read_json("manifest.json")
    assert manifest["units"] == manifest["decided"] == len(train)
    capsys.readouterr()
    assert infer_traces.main([config, *few]) == 0
    assert "0 shards to go" in capsys.readouterr().out
    assert status.main([run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == len(train)
    with pytest.raises(UserError, match=r"splits: was \['train'\], is now None"):
        infer_traces.main([config, "--sampling.max_draws=2"])
    # What a run did not sample it did not leave either.
    left = {row["item_id"] for row in rows if row["outcome"] == "exhausted"}
    assert left
    proposal = [f"--after={json.dumps([run])}", "--proposal=again", "--sampling.seed=1"]
    assert infer_traces.main([write_config(tmp_path, corpus, second), *proposal]) == 0
    assert {row["item_id"] for row in read_rows(second)} == left
