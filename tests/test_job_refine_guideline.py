"""refine_guideline as a whole, with engines whose ratings depend on the guideline."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs import refine_guideline, status
from judgetrace.config import STOPPED_EARLY_STATUS, UserError, load_config
from judgetrace.refining.candidate_run import Generated
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.run import refine
from judgetrace.refining.trace_choice import TraceSupply
from judgetrace.storage import Folder
from tests.refine_runs import GUIDELINE, make_traces, prepare_labels, write_refine_config

pytestmark = pytest.mark.slow
CRITIQUES = pa.table({"critique": pa.array([], pa.string())})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare_labels(folder, str(folder / "corpus"))


def make_candidates(*qualities: float) -> list[Candidate]:
    texts = [(f"rubric-{n}", f"Rate 1, 2, 3, 4 or 5 with quality {quality}.") for n, quality in enumerate(qualities)]
    written = [Candidate(name, "rubric", n, text) for n, (name, text) in enumerate(texts)]
    return [Candidate("original", "original", None, GUIDELINE), *written]


def load_inputs(config: str, *more: str) -> RefineInputs:
    return RefineInputs(load_config(RefineGuidelineConfig, "refine_guideline", [config, *more]))


def run_refine(config: str, candidates: list[Candidate], *more: str) -> int:
    made = Generated(candidates, CRITIQUES, TraceSupply(50, {}, {}))
    return refine(Console(), load_inputs(config, *more), False, lambda *_: made)


def read_journal(path: Path) -> Counter:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def test_a_better_guideline_wins_and_a_second_run_asks_nothing(tmp_path, corpus, capsys):
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_refine_config(tmp_path, corpus, "none", run, journal=str(journal))
    candidates = [*make_candidates(0.5, 0.9, 0.4), Candidate("both-0", "both", 0, "", ("tags: found []",))]
    assert run_refine(config, candidates) == 0
    folder = Folder(run)
    rows = {row["name"]: row for row in folder.read_table("candidates.parquet").to_pylist()}
    found = folder.read_json("refinement.json")
    assert (found["winner"], found["is_replaced"], found["race"]["verdict"]) == ("rubric-1", True, "leads")
    assert [row["is_winner"] for row in rows.values()] == [False, False, True, False, False]
    assert (rows["rubric-2"]["behind"], rows["both-0"]["why_out"]) == ("rubric-1", "tags: found []")
    assert folder.read_bytes("guideline.md").decode() == "Rate 1, 2, 3, 4 or 5 with quality 0.9.\n"
    assert "+Rate 1, 2, 3, 4 or 5 with quality 0.9." in folder.read_bytes("guideline.diff").decode()
    changes = {(row["who"], row["statistic"]): row for row in found["agreement"]}
    # Wrong ratings are one level up, or 1 for 5: exact agreement is the quality itself, less the rater's own shift.
    exact = changes["steady", "exact_agreement"]
    assert (exact["before"], exact["after"]) == (pytest.approx(0.3, abs=0.12), pytest.approx(0.9, abs=0.08))
    assert exact["change_low"] > 0
    assert changes["steady, shaky", "icc_3_1"]["after"] > 0.5
    # The scripted raters err on the same items but for one in twenty, whatever the guideline: so they agree.
    for name in ("original", "rubric-0", "rubric-1", "rubric-2"):
        assert rows[name]["raters_icc"] > 0.8
    assert rows["rubric-1"]["raters_icc_change_low"] < 0 < rows["rubric-1"]["raters_icc_change_high"]
    assert rows["both-0"]["raters_icc"] is None
    assert rows["rubric-1"]["people_exact_change_low"] > 0
    assert rows["both-0"]["people_mse"] is None
    assert found["agreement_on"] == "test"
    assert "rubric-1" in folder.read_bytes("report.md").decode()
    asked = read_journal(journal)
    assert set(asked.values()) == {1}
    assert sum(asked.values()) == sum(row["num_ratings"] for row in rows.values())
    assert sum(own["ratings"] for own in folder.read_json("manifest.json")["ratings"].values()) == sum(asked.values())
    assert run_refine(config, candidates) == 0
    assert read_journal(journal) == asked
    assert folder.read_json("refinement.json") == found
    capsys.readouterr()
    assert status.main([run]) == 0
    out = capsys.readouterr().out
    assert "(refine_guideline): complete" in out
    assert "rubric-1 replaces the original guideline" in out
    # Another challenger on the same items: its interval is at the level of the second, and the report says so.
    better = [candidates[0], Candidate("rubric-7", "rubric", 7, make_candidates(0.99)[1].text)]
    assert run_refine(config, better) == 0
    again = folder.read_json("refinement.json")
    assert (again["winner"], again["confirmation"]["look"], found["confirmation"]["look"]) == (
        "rubric-7",
        2,
        1,
    )
    report = folder.read_bytes("report.md").decode()
    assert "at the level of look 2 at these items" in report
    assert "The test split has been rated with 1 other refined guideline(s)" in report


def test_without_a_better_candidate_the_original_is_returned(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_refine_config(tmp_path, corpus, "none", run)
    assert run_refine(config, make_candidates(0.2, 0.1)) == 0
    folder = Folder(run)
    found = folder.read_json("refinement.json")
    assert (found["winner"], found["challenger"], found["is_replaced"]) == ("original", None, False)
    assert folder.read_bytes("guideline.md").decode() == GUIDELINE
    assert folder.read_bytes("guideline.diff") == b""
    assert {row["after"] for row in found["agreement"]} == {None}


def test_without_a_sound_candidate_there_is_no_race_and_the_report_says_so(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_refine_config(tmp_path, corpus, "none", run)
    candidates = [*make_candidates(), Candidate("rubric-0", "rubric", 0, "Rate.", ("level_missing: 5 of 5",))]
    assert run_refine(config, candidates, "--scoring.max_items=20") == 0
    folder = Folder(run)
    assert folder.read_json("refinement.json")["why_not_raced"] == "no candidate besides the original is sound"
    report = folder.read_bytes("report.md").decode()
    assert "The original guideline is returned" in report
    assert "level_missing: 5 of 5" in report
    assert "Few items: the racing half has 20 items in 20 groups" in report
    assert "Whether a candidate keeps to this dimension was not checked" in report


def test_the_test_split_can_be_left_alone(tmp_path, corpus):
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_refine_config(tmp_path, corpus, "none", run, journal=str(journal))
    assert run_refine(config, make_candidates(0.9), "--no-test.enabled") == 0
    found = Folder(run).read_json("refinement.json")
    assert (found["winner"], found["agreement_on"], found["items"]["test"]) == ("rubric-0", "confirm", 0)
    items = pa.concat_tables(
        Folder(corpus).read_table(f"items/{name}") for name in (Folder(corpus) / "items").list_files()
    )
    split_of = dict(zip(items["item_id"].to_pylist(), items["split"].to_pylist(), strict=True))
    assert {split_of[line.split("\t")[2]] for line in read_journal(journal)} == {"validation"}


def test_a_budget_ends_the_run_and_the_same_command_goes_on_s3(tmp_path, ray_session, s3):
    folder = f"{s3}/{tmp_path.name}"
    corpus, run, journal = f"{folder}/corpus", f"{folder}/run", tmp_path / "journal"
    prepare_labels(tmp_path, corpus)
    config = write_refine_config(tmp_path, corpus, "none", run, journal=str(journal), latency_s=0.05)
    candidates = make_candidates(0.5, 0.9)
    assert run_refine(config, candidates, "--limits.max_output_tokens=500") == STOPPED_EARLY_STATUS
    assert not Folder(run).exists("manifest.json")
    before = read_journal(journal)
    assert 100 <= sum(before.values()) < 500
    assert run_refine(config, candidates) == 0
    after = read_journal(journal)
    # What was in flight when the budget was spent may have been asked in vain; it is few.
    assert sum(after.values()) - len(after) <= 64
    assert Folder(run).read_json("refinement.json")["winner"] == "rubric-1"


def test_failed_ratings_end_the_run_undecided_and_are_asked_again(tmp_path, corpus):
    run, failing = str(tmp_path / "run"), tmp_path / "failing"
    failing.mkdir()
    config = write_refine_config(tmp_path, corpus, "none", run, fail_once=str(failing))
    more = ["--limits.max_failed_rate=1"]
    statuses = [run_refine(config, make_candidates(0.9), *more) for _ in range(6)]
    assert statuses[0] == STOPPED_EARLY_STATUS
    assert statuses[-1] == 0
    assert Folder(run).read_json("refinement.json")["winner"] == "rubric-0"


@pytest.mark.chaos
def test_an_engine_that_dies_is_replaced(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_refine_config(tmp_path, corpus, "none", run, dies_once=str(tmp_path / "died"), dies_after=30)
    assert run_refine(config, make_candidates(0.9)) == 0
    assert (tmp_path / "died").exists()
    assert Folder(run).read_json("refinement.json")["winner"] == "rubric-0"


def test_an_item_that_kills_engines_is_quarantined_by_all_guidelines_and_the_others_are_rated(tmp_path, corpus):
    run = str(tmp_path / "run")
    items = Folder(corpus).read_table("items/shard-00000.parquet").to_pylist()
    killer = next(row["item_id"] for row in items if row["split"] == "validation")
    config = write_refine_config(tmp_path, corpus, "none", run, kills=killer, latency_s=0.01)
    assert run_refine(config, make_candidates(0.9)) == 0
    folder = Folder(run)
    assert folder.read_json("refinement.json")["winner"] == "rubric-0"
    parts = [folder.read_table(f"ratings/{name}") for name in (folder / "ratings").list_files()]
    ratings = [row for part in parts for row in part.to_pylist()]
    assert {row["item_id"] for row in ratings if row["outcome"] != "rated"} == {killer}
    quarantined = [row for row in ratings if row["item_id"] == killer]
    assert [row["outcome"] for row in quarantined] == ["quarantined"] * 4
    assert len({(row["text"], row["rater"]) for row in quarantined}) == 4
    assert all(f"killed the engine twice: scripted death of {killer}" in row["error"] for row in quarantined)


@pytest.mark.chaos
def test_silent_engines_of_generator_and_raters_are_replaced(tmp_path, corpus):
    traces, run = make_traces(tmp_path, corpus, str(tmp_path / "traces")), str(tmp_path / "run")
    marks = tmp_path / "generator-silent", tmp_path / "rater-silent"
    # Slow enough that signs of life are seen before the silence.
    writer = {"silent_once": str(marks[0]), "silent_after": 40, "latency_s": 0.5, "qualities": [0.9]}
    script = {"silent_once": str(marks[1]), "silent_after": 60, "latency_s": 0.5}
    config = write_refine_config(tmp_path, corpus, traces, run, generator=writer, **script)
    silent = ["--generator.engine.silent_s=5", "--scoring.max_items=60", "--no-test.enabled"]
    config_text = (
        Path(config).read_text().replace("num_cpus = 0.25\nslots = 16", "num_cpus = 0.25\nslots = 16\nsilent_s = 5")
    )
    Path(config).write_text(config_text)
    assert refine_guideline.main([config, *silent]) == 0
    assert all(mark.exists() for mark in marks)
    assert Folder(run).read_json("refinement.json")["is_replaced"]


def test_a_dry_run_tells_the_calls_and_shows_a_prompt_of_each_kind(tmp_path, corpus, capsys):
    traces, run = make_traces(tmp_path, corpus, str(tmp_path / "traces")), tmp_path / "run"
    config = write_refine_config(tmp_path, corpus, traces, str(run))
    capsys.readouterr()
    assert refine_guideline.main([config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for kind in ("critiques", "instructions", "rubric"):
        assert f"Prompt of the generator: {kind}" in out
    assert "Prompt of steady for item-" in out
    assert "Traces that may teach: " in out
    assert "Traces: level 1: " in out
    accepted = sum(
        row["outcome"] == "accepted" and row["split"] == "train"
        for name in (Folder(traces) / "traces").list_files()
        for row in (Folder(traces) / "traces").read_table(name).to_pylist()
    )
    # Fewer than 50 of each level: all of them, once for all seeds.
    assert f"({accepted} critiques, " in out
    items = {part: len(rows) for part, rows in load_inputs(config).items.rows.items()}
    most = 10 * items["race"] + 2 * items["confirm"] + 2 * items["test"]
    assert f"{2 * most:,} at most, of 10 candidates by 2 raters" in out
    assert not run.exists()
    own = tmp_path / "own.md"
    own.write_text("Rate 1, 2, 3, 4 or 5 with quality 0.9.\n")
    assert refine_guideline.main([config, "--dry-run", f"--candidates.paths={own}"]) == 0
    assert "of 11 candidates by 2 raters" in capsys.readouterr().out
    # However long an answer may be, its made-up lines are critiques, and what is written from them is counted.
    assert refine_guideline.main([config, "--dry-run", "--generator.thinking_tokens=4096"]) == 0
    assert "Prompt of the generator: rubric" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"selection.verification: .*/none: no verifications/shard"):
        refine_guideline.main([config, "--dry-run", f"--selection.verification={tmp_path}/none"])


def test_what_can_not_be_used_is_refused_before_anything_is_asked(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_refine_config(tmp_path, corpus, "none", run)
    with pytest.raises(UserError, match=r"dimension = 'style': the corpus has \[''\]"):
        load_inputs(config, "--dimension=style")
    with pytest.raises(UserError, match=r"candidates.paths = .*/none.md: no such file"):
        load_inputs(config, f"--candidates.paths={tmp_path}/none.md")
    with pytest.raises(UserError, match=r"candidates.paths: file names \['given-a', 'given-a'\]: each may occur once"):
        load_inputs(config, '--candidates.paths=["a.md", "x/a.md"]')
    same = (
        Path(config).read_text().replace('"scripted/shaky"', '"scripted/steady"').replace("shift = 0.05", "shift = 0.0")
    )
    Path(config).write_text(same)
    with pytest.raises(UserError, match="differ in nothing but their name"):
        load_inputs(config)
