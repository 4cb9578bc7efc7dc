"""A job submitted to a cluster that has no engine node yet: nodes are made, all get work, and go when it has ended.

Ray's own autoscaler with its fake_multinode provider: nodes are processes of this machine, and a custom resource stands
in for the GPUs. The provider must be told the head's real port.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_commands import ROOT, read_yaml
from tests.oracle import check_rows
from tests.test_cluster_commands import PORTS, LocalCluster, end_processes, free_ports, num_alive, wait_until
from tests.test_job_faults import read_journal
from tests.test_job_infer_traces import read_rows, write_config

pytestmark = pytest.mark.chaos

NUM_ENGINES = 3
NUM_UNITS = 1200
ENGINE_SHAPE = {"CPU": 1, "gpu_shaped": 1}


def autoscaling_config(gcs_address: str) -> dict[str, Any]:
    return {
        "cluster_name": "fake",
        "max_workers": NUM_ENGINES,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": gcs_address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "engine": {
                "resources": {**ENGINE_SHAPE, "object_store_memory": 10**8},
                "node_config": {},
                "min_workers": 0,
                "max_workers": NUM_ENGINES,
            },
        },
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("initialization_commands", "setup_commands", "head_setup_commands")},
        "cluster_synced_files": [],
        **{name: [] for name in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
    }


@contextmanager
def autoscaling_cluster() -> Iterator[LocalCluster]:
    """Start a head without CPUs whose autoscaler makes engine nodes; ends all of it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, client, *ports = free_ports(3 + len(PORTS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "HOME": str(folder)}
    local = LocalCluster(folder, environment, gcs, dashboard)
    (folder / "autoscaling.json").write_text(json.dumps(autoscaling_config(f"127.0.0.1:{gcs}")))
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 0,
        "object-store-memory": 10**8,
        "temp-dir": folder / "ray",
        "autoscaling-config": folder / "autoscaling.json",
        **{name.replace("_", "-"): port for name, port in zip(PORTS, ports, strict=True)},
    }
    ray = Path(sys.executable).parent / "ray"
    command = [str(ray), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    try:
        with (folder / "head.log").open("wb") as log:
            local.started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        wait_until(lambda: num_alive(local)[0] == 1, 60, "a head", local.logs)
        yield local
    finally:
        end_processes(local.started)
        shutil.rmtree(folder, ignore_errors=True)


def job_environment() -> dict[str, str]:
    """Return what a child process needs to import jobs and tests."""
    path = ["lib", ".", *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in path)}


def submit(cluster: LocalCluster, config: str, journal: Path) -> tuple[float, int]:
    """Submit infer_traces, wait for its end; returns seconds from there to the first draw, and the most nodes."""
    runtime_env = read_yaml("runtime_env.yaml") | {"working_dir": str(ROOT)}
    # The scripted engine is the tests' own.
    runtime_env["excludes"].remove("/tests/")
    runtime_env["env_vars"] = {"PYTHONPATH": "lib:."}
    entrypoint = ["python", "-m", "jobs.infer_traces", config]
    began, first_draw, most = time.monotonic(), 0.0, 1
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(cluster.submit, runtime_env, entrypoint, timeout_s=240)
        while not job.done():
            if not first_draw and journal.exists():
                first_draw = time.monotonic() - began
            most = max(most, num_alive(cluster)[0])
            time.sleep(0.25)
    done = job.result()
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{cluster.logs()}"
    return first_draw, most


@pytest.fixture
def corpus(tmp_path) -> str:
    """Prepare a corpus in a process of its own, whose Ray has ended when the cluster starts."""
    code = (
        "import sys; from pathlib import Path; from tests.test_job_infer_traces import prepare;"
        f"prepare(Path(sys.argv[1]), sys.argv[1] + '/corpus', '--cluster.address=local', num={NUM_UNITS})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | job_environment(), check=True)
    return str(tmp_path / "corpus")


def test_a_job_starts_without_an_engine_node_scales_up_works_on_all_and_down_to_none(tmp_path, corpus):
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_config(tmp_path, corpus, run, latency_s=0.5, journal=str(journal))
    shape = {name: amount for name, amount in ENGINE_SHAPE.items() if name != "CPU"}
    text = (
        Path(config)
        .read_text()
        .replace(
            "[engine]\n",
            f"[engine]\nmin_replicas = 1\nmax_replicas = {NUM_ENGINES}\n"
            f"resources = {{ {', '.join(f'{k} = {v}' for k, v in shape.items())} }}\n",
        )
    )
    Path(config).write_text(text)
    with autoscaling_cluster() as cluster:
        assert num_alive(cluster) == (1, 0)
        first_draw_s, most = submit(cluster, config, journal)
        print(f"from submit to first draw: {first_draw_s:.1f} s; nodes at most: {most}")
        assert most == 1 + NUM_ENGINES
        ended = time.monotonic()
        wait_until(lambda: num_alive(cluster)[0] == 1, 120, "the engine nodes to go", cluster.logs)
        print(f"from the job's end to no engine node: {time.monotonic() - ended:.1f} s")
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)
    draws_by_node = Counter(line[1] for line in read_journal(journal))
    assert len(draws_by_node) == NUM_ENGINES
    assert min(draws_by_node.values()) > 0.1 * sum(draws_by_node.values()) / NUM_ENGINES
