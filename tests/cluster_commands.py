"""The command lines of cluster/: found in manifests and launcher files, made to fit one machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ("aws", "gcp")
HEALTH_URL = re.compile(r"http://localhost:(\d+)(/\S+)")


def read_yaml(name: str) -> Any:
    """Read a file of cluster/ that holds one document."""
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def ray_cluster_specs() -> dict[str, Any]:
    """Return the clusters of the KubeRay manifests, by file."""
    return {
        "raycluster": read_yaml("kuberay/raycluster.yaml")["spec"],
        "rayjob": read_yaml("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"],
    }


def groups(spec: Any) -> list[Any]:
    """Return head and worker groups of a RayCluster."""
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def ray_container(group: Any) -> Any:
    """Return the container of a group that runs Ray: the first."""
    return group["template"]["spec"]["containers"][0]


def operator_command(group: Any) -> str:
    """Write the command that KubeRay makes of a group: its parameters, and the pod's limits where they name none."""
    limits = ray_container(group)["resources"]["limits"]
    options = {"num-cpus": limits["cpu"], **group["rayStartParams"]}
    where = "--address=$RAY_HEAD_IP:6379" if "groupName" in group else "--head"
    return " ".join(["ulimit -n 65536; ray start", where, *(f"--{name}={value}" for name, value in options.items())])


def start_commands() -> dict[str, str]:
    """Return every command line that starts Ray, by where it stands."""
    found = {}
    for launcher in LAUNCHERS:
        config = read_yaml(f"{launcher}.yaml")
        for part in ("head", "worker"):
            (found[f"{launcher}-{part}"],) = [
                line for line in config[f"{part}_start_ray_commands"] if "ray start" in line
            ]
    for name, spec in ray_cluster_specs().items():
        for group in groups(spec):
            found[f"{name}-{group.get('groupName', 'head')}"] = operator_command(group)
    return found


def split_start(command: str) -> tuple[str, list[str]]:
    """Split a command line into what the shell does before, and the arguments of `ray start`."""
    before, _, arguments = command.partition("ray start ")
    return before, shlex.split(arguments)


def with_options(command: str, drop: tuple[str, ...] = (), **options: object) -> str:
    """Replace options of a `ray start` line by others, and leave some out."""
    before, arguments = split_start(command)
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    kept = [argument for argument in arguments if argument.split("=")[0] not in (*given, *drop)]
    return f"{before}exec ray start {' '.join([*kept, *(f'{name}={value}' for name, value in given.items())])}"
