"""The command lines of cluster/ run for real: a head and workers on free ports of this machine, with tokens."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster_commands import (
    HEALTH_URL,
    ROOT,
    drain_hook,
    entrypoint,
    groups,
    probe,
    ray_cluster_specs,
    read_yaml,
    readme_job_lines,
    start_commands,
    with_options,
)

pytestmark = pytest.mark.slow
PORTS = ("dashboard_agent_listen_port", "dashboard_agent_grpc_port", "runtime_env_agent_port", "metrics_export_port")
"""What every Ray node listens on, beside what it chooses itself."""
WORKERS = ("aws-worker", "gcp-worker", "raycluster-cpu-on-demand", "raycluster-gpu-spot")
"""Groups of rayjob.yaml start as those of raycluster.yaml: tests/test_cluster_files.py. Its head: the study's test."""


def free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(holds: Callable[[], bool], seconds: float, what: str, tell: Callable[[], str] = str) -> None:
    """Ask twice a second; `tell` says more where it never holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for {what}\n{tell()}"
        time.sleep(0.5)


def end_processes(started: list[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they started, by their ids: other Rays may run on this machine."""
    family = []
    for process in started:
        with suppress(psutil.NoSuchProcess):
            me = psutil.Process(process.pid)
            family += [me, *me.children(recursive=True)]
    for member in family:
        # Some end by themselves meanwhile.
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    for process in started:
        process.wait()


@dataclass
class LocalCluster:
    """Nodes that the files' commands started here."""

    folder: Path
    environment: dict[str, str]
    gcs: int
    dashboard: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    agents: dict[str, int] = field(default_factory=dict)
    """Where each node's agent listens."""

    def start(self, where: str, **options: object) -> None:
        """Run a file's command, with ports and a folder of our own, until the node ends."""
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.agents[where] = ports["dashboard_agent_listen_port"]
        line = with_options(
            start_commands()[where],
            # It would ask a cloud for machines.
            drop=("--autoscaling-config",),
            object_manager_port=0,
            min_worker_port=0,
            max_worker_port=0,
            object_store_memory=100_000_000,
            **ports,
            **options,
        )
        # The operator sets the mode beside the token; a launcher's own line does.
        environment = self.environment | ({"RAY_AUTH_MODE": "token"} if where.startswith("ray") else {})
        # Each machine fetches models for itself.
        environment |= {"JUDGETRACE_CACHE": str(self.folder / f"cache-{where}")}
        with (self.folder / f"{where}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"{line} --block --disable-usage-stats"],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.started.append(process)
        self.nodes[where] = process

    def join(self, where: str, **options: object) -> None:
        """Start a worker by a file's command: its address, with the head's port here."""
        address = start_commands()[where].split("--address=")[1].split()[0]
        assert address == "$RAY_HEAD_IP:6379"
        self.start(where, address=f"$RAY_HEAD_IP:{self.gcs}", **options)

    def submit(
        self, runtime_env: dict[str, Any], entrypoint: list[str], timeout_s: float
    ) -> subprocess.CompletedProcess:
        """Submit a job with the token, and wait for its end; returns what `ray job submit` printed."""
        command = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}"]
        return subprocess.run(
            [*command, "--runtime-env-json", json.dumps(runtime_env), "--", *entrypoint],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment | {"RAY_AUTH_MODE": "token"},
            cwd=ROOT,
            timeout=timeout_s,
        )

    def get(self, url: str, with_token: bool = False) -> tuple[int, str]:
        """Ask a URL; returns status and text, status 0 where nobody listens."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"} if with_token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            return 0, str(error)

    def is_well(self, probe: str, where: str) -> bool:
        """Run a probe of a pod, with the ports that a node has here."""
        here = {"52365": self.agents[where], "8265": self.dashboard}
        command = HEALTH_URL.sub(lambda url: f"http://localhost:{here[url[1]]}{url[2]}", probe)
        environment = {name: value for name, value in self.environment.items() if not name.startswith("RAY_AUTH")}
        return subprocess.run(["bash", "-c", command], check=False, env=environment).returncode == 0

    def logs(self) -> str:
        """Return what the commands printed."""
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))


@contextmanager
def started_head(more: Mapping[str, str], where: str = "aws-head") -> Iterator[LocalCluster]:
    """Start a head by a file's command, with tokens and with `more` in the environment of all nodes; ends all nodes."""
    # Sockets live in it, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, client = free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "HOME": str(folder),
        "RAY_HEAD_IP": "127.0.0.1",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        **more,
    }
    local = LocalCluster(folder, environment, gcs, dashboard)
    try:
        local.start(
            where,
            port=gcs,
            dashboard_host="127.0.0.1",
            dashboard_port=dashboard,
            ray_client_server_port=client,
            node_ip_address="127.0.0.1",
            temp_dir=folder / "ray",
        )
        wait_until(lambda: num_alive(local)[0] == 1, 60, "a head", local.logs)
        yield local
    finally:
        end_processes(local.started)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with started_head({}) as local:
        yield local


def num_alive(cluster: LocalCluster) -> tuple[int, float]:
    """Count nodes and CPUs, as the dashboard tells them to who has the token."""
    status, text = cluster.get(f"http://127.0.0.1:{cluster.dashboard}/api/v0/nodes?detail=1", with_token=True)
    if status != 200:
        return 0, 0
    nodes = [node for node in json.loads(text)["data"]["result"]["result"] if node["state"] == "ALIVE"]
    return len(nodes), sum(node["resources_total"].get("CPU", 0) for node in nodes)


def test_workers_of_every_kind_join_a_head_that_offers_no_cpu(cluster: LocalCluster) -> None:
    assert num_alive(cluster) == (1, 0)
    # One after the other: two nodes that start at once on one machine take each other's sockets.
    for count, worker in enumerate(WORKERS, start=2):
        cluster.join(worker)
        wait_until(lambda count=count: num_alive(cluster)[0] == count, 60, worker, cluster.logs)
    assert num_alive(cluster)[1] == 2 * (os.cpu_count() or 0) + 7 + 7


def test_the_probes_say_that_nodes_are_well_without_a_token(cluster: LocalCluster) -> None:
    head, _, worker = groups(ray_cluster_specs()["raycluster"])
    head_probe, worker_probe = probe(head), probe(worker)
    wait_until(lambda: cluster.is_well(head_probe, "aws-head"), 30, "the head's probe")
    wait_until(lambda: cluster.is_well(worker_probe, "raycluster-cpu-on-demand"), 30, "the worker's probe")
    assert not cluster.is_well(worker_probe.replace("local_raylet_healthz", "no_such_healthz"), "aws-worker")


def test_who_has_no_token_may_not_ask_the_cluster(cluster: LocalCluster) -> None:
    url = f"http://127.0.0.1:{cluster.dashboard}/api/jobs/"
    assert cluster.get(url)[0] == 401
    assert cluster.get(url, with_token=True) == (200, "[]")


@pytest.mark.parametrize("source", ["runtime_env.yaml", "rayjob.yaml"])
def test_an_entrypoint_finds_its_code_on_the_cluster(cluster: LocalCluster, source: str) -> None:
    if source == "runtime_env.yaml":
        runtime_env = read_yaml(source)
    else:
        runtime_env = yaml.safe_load(read_yaml("kuberay/rayjob.yaml")["spec"]["runtimeEnvYAML"])
    runtime_env["working_dir"] = str(ROOT)
    done = cluster.submit(runtime_env, [*shlex.split(entrypoint()), "--help"], timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"usage: .*infer_traces", done.stdout), done.stdout


def test_the_readmes_lines_submit_a_job_follow_it_ask_after_it_and_stop_it(cluster: LocalCluster) -> None:
    lines = {command: arguments for command, *arguments in readme_job_lines()}
    own_job = ["python", "-c", "import judgetrace, time; print('it runs', flush=True); time.sleep(600)"]
    lines["submit"] = [*lines["submit"][: lines["submit"].index("--") + 1], *own_job]

    def start(command: str) -> subprocess.Popen[str]:
        here = [word.replace("http://HEAD:8265", f"http://127.0.0.1:{cluster.dashboard}") for word in lines[command]]
        return subprocess.Popen(
            ["ray", "job", command, *here],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=cluster.environment | {"RAY_AUTH_MODE": "token"},
            cwd=ROOT,
        )

    def run(command: str) -> str:
        with start(command) as process:
            told, _ = process.communicate(timeout=60)
        assert process.returncode == 0, told
        return told

    assert "stories-1" in run("submit")
    with start("logs") as following:
        assert following.stdout is not None
        assert any("it runs" in line for line in following.stdout)
        assert "RUNNING" in run("status")
        run("stop")
        wait_until(lambda: "was stopped" in run("status"), 60, "the job's end", cluster.logs)
        following.communicate(timeout=60)


def test_a_pod_that_is_to_end_drains_its_node_at_once(cluster: LocalCluster) -> None:
    where, group = "raycluster-gpu-spot", groups(ray_cluster_specs()["raycluster"])[1]
    hook = drain_hook(group)
    node = cluster.nodes[where]
    # A pod has one Ray; this machine may have others.
    assert hook[-1].count("/proc/[0-9]*") == 1
    before = num_alive(cluster)[0]
    subprocess.run([*hook[:-1], hook[-1].replace("/proc/[0-9]*", f"/proc/{node.pid}")], check=True, timeout=10)
    # Where Ray is the pod's first process, Kubernetes then tells it too.
    node.terminate()
    assert node.wait(timeout=60) != 0
    wait_until(lambda: num_alive(cluster)[0] == before - 1, 30, "the node's end", cluster.logs)
    assert (cluster.folder / f"{where}.log").read_text().count("received SIGTERM. Draining for up to") == 1
