"""refine_guideline under SIGKILL: what was answered is never asked again, and the outcome is an undisturbed run's."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from jobs import refine_guideline
from judgetrace.storage import Folder
from tests.refine_runs import make_traces, prepare_labels, write_refine_config
from tests.test_job_faults import started

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
KEPT = ("candidates.parquet", "critiques.parquet", "guideline.md", "guideline.diff", "refinement.json", "report.md")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = prepare_labels(folder, str(folder / "corpus"))
    return corpus, make_traces(folder, corpus, str(folder / "traces"))


def started_job(config: str, address: str, log: Path) -> AbstractContextManager[subprocess.Popen]:
    return started([sys.executable, "-m", "jobs.refine_guideline", config, f"--cluster.address={address}"], log)


def read_lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def read_answered(run: str) -> tuple[list[str], list[str]]:
    """The calls and ratings that are recorded, as the journals write them, with repetitions."""

    def read(kind: str) -> list[dict]:
        folder = Folder(run) / kind
        return [row for name in folder.list_files() for row in folder.read_table(name).to_pylist()]

    ratings = [f"scripted/{row['rater_id']}\t{row['text']}\t{row['item_id']}" for row in read("ratings")]
    return [row["call_id"] for row in read("calls")], ratings


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_kills_of_the_driver_repeat_nothing_that_was_answered(tmp_path, corpus, ray_session, s3, store):
    root = str(tmp_path) if store == "disk" else f"{s3}/{tmp_path.name}"
    whole, run, log = f"{root}/whole", f"{root}/run", tmp_path / "log"
    script = {"qualities": [0.45, 0.55, 0.9], "latency_s": 0.05}
    undisturbed = write_refine_config(tmp_path / "whole", *corpus, whole, generator=script)
    assert refine_guideline.main([undisturbed]) == 0
    journals = tmp_path / "calls", tmp_path / "ratings"
    config = write_refine_config(
        tmp_path,
        *corpus,
        run,
        generator=script | {"journal": str(journals[0])},
        journal=str(journals[1]),
        latency_s=0.05,
    )
    num_calls = len(read_answered(whole)[0])
    for moment in (num_calls // 3, num_calls - 1, num_calls + 60, num_calls + 400):
        answered = [set(keys) for keys in read_answered(run)]
        starts = [len(read_lines(journal)) for journal in journals]
        with started_job(config, ray_session, log) as job:
            while job.poll() is None and sum(len(read_lines(journal)) for journal in journals) < moment:
                time.sleep(0.05)
            assert job.poll() is None, log.read_text()[-3000:]
            job.kill()
        for journal, known, start in zip(journals, answered, starts, strict=True):
            assert not [line for line in read_lines(journal)[start:] if line in known]
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()[-3000:]
    calls, ratings = read_answered(run)
    # The journal's name is an argument of the generator's engine, which its calls' ids depend on.
    assert len(calls) == len(set(calls)) == num_calls
    assert len(ratings) == len(set(ratings))
    assert sorted(ratings) == sorted(read_answered(whole)[1])
    for name in KEPT:
        assert Folder(run).read_bytes(name) == Folder(whole).read_bytes(name), name
    assert Folder(run).exists("manifest.json")
