"""The demo's whole study on a cluster of three nodes with tokens, by `ray job submit`; everything is on S3."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs import prepare_demo
from judgetrace import embedded
from judgetrace.storage import Folder
from judgetrace.training.export import upload
from tests.cluster_commands import ROOT, read_yaml
from tests.conftest import S3_ENVIRONMENT
from tests.test_cluster_commands import num_alive, started_head, wait_until
from tests.test_vllm_engine import MODEL

WORKERS = ("aws-worker", "raycluster-cpu-on-demand")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]


def test_the_demos_study_runs_on_a_cluster_and_leaves_its_report_in_the_store(tmp_path: Path, s3: str) -> None:
    """No folder is shared: model, corpus, traces, checkpoints and report come from and go to the store."""
    embedded.prepare_model(embedded.find_model_file(), MODEL)
    source = tmp_path / "source"
    assert (
        prepare_demo.main([str(ROOT / "jobs/prepare_demo.toml"), f"--model_dir={MODEL}", f"--corpus_dir={source}"]) == 0
    )
    store = f"{s3}/{tmp_path.name}"
    upload(MODEL, Folder(f"{store}/base"))
    upload(source, Folder(f"{store}/source"))
    entrypoint = [
        *("python", "-m", "jobs.run_study", "jobs/demo_study.toml", f"--study={store}/study"),
        *(f'--source.paths=["{store}/source/ratings.csv"]', f"--guideline.path={store}/source/guideline.md"),
        f"--model.path={store}/base",
    ]
    runtime_env = read_yaml("runtime_env.yaml") | {"working_dir": str(ROOT)}

    environment = {name: os.environ[name] for name in (*S3_ENVIRONMENT, "AWS_ENDPOINT_URL")}
    with started_head(environment, "raycluster-head") as cluster:
        for count, worker in enumerate(WORKERS, start=2):
            # A folder of its own, as machines have: they unpack the job's code there.
            cluster.join(worker, num_cpus=1, temp_dir=cluster.folder / f"w{count}")
            wait_until(lambda count=count: num_alive(cluster)[0] == count, 60, worker, cluster.logs)
        assert num_alive(cluster) == (3, 2)
        done = cluster.submit(runtime_env, entrypoint, timeout_s=2700)
        fetched = [len([*cluster.folder.glob(f"cache-{worker}/**/model.safetensors")]) for worker in WORKERS]

    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    # Each node fetched what it loaded: both of them engines, at least the base.
    print(f"models in the nodes' caches: {fetched}")
    assert min(fetched) >= 1
    study = Folder(f"{store}/study")
    stages = study.read_json("study.json")["stages"]
    print(json.dumps({stage["stage"]: [stage["state"], stage["seconds"]] for stage in stages}, indent=1))
    assert {stage["state"] for stage in stages} <= {"complete", "not needed"}
    assert study.exists("manifest.json")
    page = study.read_bytes("report/report.html").decode()
    assert "The demo: how positive or negative is a word?" in page
    assert "Agreement with people" in page
