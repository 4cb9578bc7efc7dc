"""A job submitted to a cluster that has no engine node yet: nodes are made, all get work, and go when it has ended.

Ray's own autoscaler with its fake_multinode provider: nodes are processes of this machine, and the GPUs that they say
they have are nowhere: Ray counts them, and Ray Data plans with them, as on a real cluster (which it does not with a
resource of another name). The provider must be told the head's real port.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from judgetrace.storage import Folder
from tests.cluster_commands import ROOT
from tests.oracle import check_rows
from tests.test_cluster_commands import PORTS, LocalCluster, end_processes, free_ports, num_alive, wait_until
from tests.test_job_faults import read_journal
from tests.test_job_infer_traces import read_rows, write_config

pytestmark = pytest.mark.chaos

NUM_ENGINES = 3
NUM_UNITS, UNITS_PER_SHARD = 1200, 100
ENGINE_SHAPE = {"CPU": 4, "GPU": 1}
"""Of a node, and of an engine: no second one finds room beside it."""


VERSION_2 = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
"""The environment of a head with the second version of Ray's autoscaler, which knows nodes by an id of the cloud."""


OWN_PROVIDER = {
    "type": "external",
    "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
}
"""The same provider by another name: of its own the second version reads defaults, which Ray's package lacks."""


def autoscaling_config(gcs_address: str, version: int) -> dict[str, Any]:
    by_version = {"launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID} | OWN_PROVIDER if version == 2 else {}
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
            **by_version,
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
def autoscaling_cluster(version: int) -> Iterator[LocalCluster]:
    """Start a head without CPUs whose autoscaler makes engine nodes; ends all of it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, client, *ports = free_ports(3 + len(PORTS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment |= VERSION_2 if version == 2 else {}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "HOME": str(folder)}
    local = LocalCluster(folder, environment, gcs, dashboard)
    (folder / "autoscaling.json").write_text(json.dumps(autoscaling_config(f"127.0.0.1:{gcs}", version)))
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


@dataclass
class Growth:
    """How the cluster was seen to grow while the job ran."""

    first_draw_s: float = 0.0
    """From its submission."""
    most_nodes: int = 1
    was_all_before_a_shard: bool = False
    """Whether all engines' nodes were there before the first shard ended."""

    def look(self, cluster: LocalCluster, run: str) -> None:
        self.most_nodes = max(self.most_nodes, num_alive(cluster)[0])
        if self.most_nodes == 1 + NUM_ENGINES and not Folder(f"{run}/traces").list_files():
            self.was_all_before_a_shard = True


def submit(cluster: LocalCluster, config: str, run: str, journal: Path) -> Growth:
    """Submit infer_traces and wait for its end."""
    # Nothing is uploaded: the provider's nodes share one folder of this machine, where each unpacks what was uploaded
    # while others import from it.
    runtime_env = {"env_vars": {"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT}"}}
    entrypoint = ["python", "-m", "jobs.infer_traces", config]
    began, growth = time.monotonic(), Growth()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(cluster.submit, runtime_env, entrypoint, timeout_s=240)
        while not job.done():
            if not growth.first_draw_s and journal.exists():
                growth.first_draw_s = time.monotonic() - began
            growth.look(cluster, run)
            time.sleep(0.25)
    done = job.result()
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{cluster.logs()}"
    return growth


@pytest.fixture
def corpus(tmp_path) -> str:
    """Prepare a corpus in a process of its own, whose Ray has ended when the cluster starts."""
    code = (
        "import sys; from pathlib import Path; from tests.test_job_infer_traces import prepare;"
        "prepare(Path(sys.argv[1]), sys.argv[1] + '/corpus', '--cluster.address=local', "
        f"'--shards.units_per_shard={UNITS_PER_SHARD}', num={NUM_UNITS})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | job_environment(), check=True)
    return str(tmp_path / "corpus")


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_starts_without_an_engine_node_scales_up_works_on_all_and_down_to_none(tmp_path, corpus, version):
    """The files for KubeRay and `ray up` of this Ray's version take the second autoscaler, a plain head the first."""
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_config(tmp_path, corpus, run, latency_s=0.5, journal=str(journal))
    engine = f"num_cpus = {ENGINE_SHAPE['CPU']}\nnum_gpus = {ENGINE_SHAPE['GPU']}\nmax_replicas = {NUM_ENGINES}\n"
    Path(config).write_text(Path(config).read_text().replace("num_cpus = 0.5\n", engine))
    with autoscaling_cluster(version) as cluster:
        assert num_alive(cluster) == (1, 0)
        growth = submit(cluster, config, run, journal)
        print(growth)
        assert growth.most_nodes == 1 + NUM_ENGINES
        # A shard may take hours: no engine is to wait for one's end.
        assert growth.was_all_before_a_shard
        ended = time.monotonic()
        wait_until(lambda: num_alive(cluster)[0] == 1, 120, "the engine nodes to go", cluster.logs)
        print(f"from the job's end to no engine node: {time.monotonic() - ended:.1f} s")
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    check_rows(rows)
    draws_by_node = Counter(line[1] for line in read_journal(journal))
    assert len(draws_by_node) == NUM_ENGINES
    assert min(draws_by_node.values()) > 0.1 * sum(draws_by_node.values()) / NUM_ENGINES
