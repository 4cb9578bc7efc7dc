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
NOT_RUN = {
    "ray stop": "it ends every Ray of the machine, others' too",
    "pip install": "it needs a package index, and changes the user's packages",
}
"""How the command lines begin that no test runs, and why; the README names them."""
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


def drain_hook(group: Any) -> list[str]:
    """Return the command that a worker's pod runs before it ends."""
    command: list[str] = ray_container(group)["lifecycle"]["preStop"]["exec"]["command"]
    return command


def probe(group: Any) -> str:
    """Return the shell line by which a pod is asked whether it is well."""
    return str(ray_container(group)["livenessProbe"]["exec"]["command"][-1])


def entrypoint() -> str:
    """Return the command line of the RayJob."""
    return str(read_yaml("kuberay/rayjob.yaml")["spec"]["entrypoint"])


def wait_for_driver() -> str:
    """Return the shell line by which a machine of the GCP launcher waits for its GPU's driver."""
    (line,) = read_yaml("gcp.yaml")["initialization_commands"]
    return str(line)


def run_commands() -> list[str]:
    """Return the command lines that tests run, the `ray start` of each group and launcher among them."""
    head, gpu, cpu = groups(ray_cluster_specs()["raycluster"])
    return [*start_commands().values(), probe(head), probe(cpu), drain_hook(gpu)[-1], entrypoint(), wait_for_driver()]


def command_lines() -> list[str]:
    """Return all command lines of the launchers and manifests, wherever they stand in them."""
    found = [operator_command(group) for spec in ray_cluster_specs().values() for group in groups(spec)]
    for launcher in LAUNCHERS:
        config = read_yaml(f"{launcher}.yaml")
        found += [line for key, lines in config.items() if key.endswith("_commands") for line in lines]
    for file in sorted((CLUSTER / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            for part in walk(document):
                if isinstance(part, dict):
                    found += [part["entrypoint"]] if "entrypoint" in part else []
                    found += [part[key][-1] for key in ("command", "args") if key in part]
    return found


def walk(value: Any) -> list[Any]:
    """Return a value and all within it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(found for child in inner for found in walk(child))]


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


def readme_job_lines() -> list[list[str]]:
    """Return the arguments of the README's `ray job` command lines."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line, comments=True)[2:] for line in text.splitlines() if line.startswith("ray job ")]
