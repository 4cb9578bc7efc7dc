"""infer_traces with vLLM and the embedded model on real human ratings; kill -9 of engine, worker and driver."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from jobs import prepare_demo, run_study
from judgetrace.ledger import current_shard_files
from judgetrace.storage import Folder
from tests.oracle import check_run
from tests.test_job_faults import started_job, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
NUM_UNITS = 48
# What their processes are titled.
ENGINE, WORKER = "VLLM::EngineCore", "MapWorker(MapBatches(UnitActor))"
CONFIG = """
corpus = "{folder}/study/prepare"
run = "{folder}/run"
limit = {limit}
[model]
path = "{model}"
[engine]
num_cpus = 0.5
slots = 16
args = {{ max_model_len = 256 }}
env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }}
[prompt]
template = "{root}/jobs/demo_prompt.jinja"
[thinking]
constrained_rating = "always"
stop = [".", "\\n"]
[sampling]
max_draws = 4
max_tokens = 48
[ledger]
commit_every_s = 1
keep_rejected_text = true
"""


def prepare_demo_corpus(folder: Path) -> None:
    """Prepare the demo's corpus in `folder`, and the config of a run over it."""
    source = folder / "source"
    model = ROOT / ".cache/judgetrace/smollm2-135m"
    prepared = [str(ROOT / "jobs/prepare_demo.toml"), f"--model_dir={model}", f"--corpus_dir={source}"]
    assert prepare_demo.main(prepared) == 0
    paths = [f'--source.paths=["{source}/ratings.csv"]', f"--guideline.path={source}/guideline.md"]
    study = [str(ROOT / "jobs/demo_study.toml"), f"--study={folder}/study", "--only=prepare", *paths]
    assert run_study.main(study) == 0
    (folder / "traces.toml").write_text(CONFIG.format(folder=folder, model=model, root=ROOT, limit=NUM_UNITS))


def our_processes(title: str) -> list[psutil.Process]:
    """Processes below this one with a word in their title; those of other Rays on the machine are not among them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def num_committed(run: Path) -> int:
    ledger = Folder(str(run / "ledger"))
    return sum(ledger.read_table(name, ["item_id"]).num_rows for name in ledger.list_files(".parquet", recursive=True))


@pytest.mark.parametrize(
    ("victims", "is_driver_killed"),
    [((ENGINE,), False), pytest.param((ENGINE, WORKER), True, marks=pytest.mark.chaos)],
    ids=["engine", "engine-worker-driver"],
)
def test_kill_9_loses_nothing_and_leaves_no_engine_behind(demo, tmp_path, ray_session, victims, is_driver_killed):
    run, config, log = tmp_path / "run", str(demo / "traces.toml"), tmp_path / "log"
    seen = 0
    with started_job(config, ray_session, log, f"--run={run}") as job:
        for title in victims:
            wait_until(f"more committed units, before {title} is killed", lambda: num_committed(run) > seen, 200)  # noqa: B023
            seen = num_committed(run)
            # A worker whose engine died has just committed, too: its successor may not be there yet.
            wait_until(f"a process {title}", lambda: our_processes(title), 60)  # noqa: B023
            victim = our_processes(title)[0]
            os.kill(victim.pid, signal.SIGKILL)
            wait_until(f"{title} to end", lambda: not victim.is_running(), 30)  # noqa: B023
        if is_driver_killed:
            wait_until("more committed units, before the driver is killed", lambda: num_committed(run) > seen, 200)
            os.kill(job.pid, signal.SIGKILL)
        else:
            assert job.wait(timeout=300) == 0, log.read_text()[-3000:]
    if is_driver_killed:
        wait_until("the engines of the killed driver to end", lambda: not our_processes("VLLM::"), 60)
        with started_job(config, ray_session, log, f"--run={run}") as job:
            assert job.wait(timeout=300) == 0, log.read_text()[-3000:]
    wait_until("the engines of the finished job to end", lambda: not our_processes("VLLM::"), 60)
    check_real_run(run, str(demo / "study/prepare"), log)


def check_real_run(run: Path, corpus: str, log: Path) -> None:
    """Assert that the run is whole, and that its ratings are what the engine was held to."""
    rows = check_run(str(run), corpus, is_complete=False)
    assert len(rows) == NUM_UNITS
    draws = [draw for row in rows for draw in row["draws"]]
    rated = [draw for draw in draws if draw["rating"] is not None]
    assert rated
    assert all(draw["constrained"] for draw in rated)
    assert {draw["rating"] for draw in rated} <= {str(level) for level in range(-4, 5)}
    assert {draw["reason"] for draw in draws} <= {"accepted", "disagrees", "truncated", "unparsed", "cancelled"}
    assert "3 accepted traces" in log.read_text() or sum(r["outcome"] == "accepted" for r in rows) < 3
    assert list(current_shard_files(Folder(str(run)) / "traces")) == [0]


def test_people_rated_what_the_corpus_says(demo):
    """The target of an item is the median of its ten ratings, and items on which people disagree are not asked."""
    manifest = json.loads((demo / "study/prepare/manifest-00000.json").read_text())
    assert manifest["counts"]["rows_in"] == 75_200
    assert manifest["counts"]["annotations"] == 75_200
    units = Folder(str(demo / "study/prepare/items")).read_table("shard-00000.parquet").to_pylist()
    for unit in units[:50]:
        ratings = sorted(int(label) for label in unit["annotator_labels"])
        assert len(ratings) == 10
        assert unit["label_sd"] <= 1.0
        assert int(unit["target_label"]) <= (ratings[4] + ratings[5]) / 2 <= int(unit["accepted_labels"][-1])
