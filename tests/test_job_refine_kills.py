"""refine_guideline under SIGKILL: what was answered is never asked again, and the outcome is an undisturbed run's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import refine_guideline
from judgetrace.storage import Folder
from tests.refine_runs import make_traces, prepare_labels, write_refine_config
from tests.test_job_faults import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KEPT = ("candidates.parquet", "critiques.parquet", "guideline.md", "guideline.diff", "refinement.json", "report.md")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = prepare_labels(folder, str(folder / "corpus"))
    return corpus, make_traces(folder, corpus, str(folder / "traces"))


@contextmanager
def started_job(config: str, address: str, log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "jobs.refine_guideline", config, f"--cluster.address={address}"]
    with log.open("ab") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()
        job.wait(timeout=30)


def count_lines(*journals: Path) -> int:
    return sum(len(journal.read_text().splitlines()) for journal in journals if journal.exists())


def read_answered(run: str) -> tuple[list[str], list[str]]:
    """The calls and ratings that are recorded, as the journals write them, with repetitions."""
    rows = {
        kind: [
            row
            for name in (Folder(run) / kind).list_files()
            for row in Folder(run).read_table(f"{kind}/{name}").to_pylist()
        ]
        for kind in ("calls", "ratings")
    }
    ratings = [f"scripted/{row['rater_id']}\t{row['text']}\t{row['item_id']}" for row in rows["ratings"]]
    return [row["call_id"] for row in rows["calls"]], ratings


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_kills_of_the_driver_repeat_nothing_that_was_answered(tmp_path, corpus, ray_session, s3, store):
    root = str(tmp_path) if store == "disk" else f"{s3}/{tmp_path.name}"
    whole, run, log = f"{root}/whole", f"{root}/run", tmp_path / "log"
    script = {"qualities": [0.45, 0.55, 0.9], "latency_s": 0.05}
    undisturbed = write_refine_config(tmp_path / "whole", *corpus, whole, generator=script)
    assert refine_guideline.main([undisturbed]) == 0
    calls, ratings = tmp_path / "calls", tmp_path / "ratings"
    config = write_refine_config(
        tmp_path, *corpus, run, journal=str(ratings), latency_s=0.05, generator=script | {"journal": str(calls)}
    )
    num_calls = len(read_answered(whole)[0])
    moments = [num_calls // 3, num_calls - 1, num_calls + 60, num_calls + 400]
    for moment in moments:
        with started_job(config, ray_session, log) as job:
            wait_until(
                f"{moment} requests", lambda: count_lines(calls, ratings) >= moment or job.poll() is not None, 90
            )  # noqa: B023
            job.kill()
            job.wait(timeout=30)
        answered = [set(keys) for keys in read_answered(run)]
        seen = [len(journal.read_text().splitlines()) if journal.exists() else 0 for journal in (calls, ratings)]
        with started_job(config, ray_session, log) as job:
            before = count_lines(calls, ratings)
            wait_until("more requests", lambda: count_lines(calls, ratings) > before + 20 or job.poll() is not None, 90)  # noqa: B023
            job.kill()
            job.wait(timeout=30)
        for journal, known, start in zip((calls, ratings), answered, seen, strict=True):
            later = journal.read_text().splitlines()[start:] if journal.exists() else []
            # Engines of the killed driver may have ended what they had begun.
            assert not [line for line in later[64:] if line in known]
    with started_job(config, ray_session, log) as job:
        assert job.wait(timeout=120) == 0, log.read_text()[-3000:]
    for keys in read_answered(run):
        assert len(keys) == len(set(keys))
    assert [sorted(keys) for keys in read_answered(run)] == [sorted(keys) for keys in read_answered(whole)]
    for name in KEPT:
        assert Folder(run).read_bytes(name) == Folder(whole).read_bytes(name), name
    assert Folder(run).exists("manifest.json")
