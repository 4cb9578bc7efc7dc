"""The files of cluster/, as far as they can be checked without a cloud; commands run in test_cluster_commands.py."""

from __future__ import annotations

import ast
import copy
import gzip
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private import ray_constants

from judgetrace.config import load_config
from judgetrace.trace_config import LedgerConfig
from judgetrace.unit_worker import LEAVING_RESERVE_S
from tests.cluster_commands import (
    CLUSTER,
    LAUNCHERS,
    NOT_RUN,
    ROOT,
    command_lines,
    drain_hook,
    groups,
    ray_cluster_specs,
    ray_container,
    read_yaml,
    readme_job_lines,
    run_commands,
    split_start,
    start_commands,
    wait_for_driver,
    walk,
)

DRAIN_TIMEOUT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
GKE_POD_S = 15.0
"""What pods get of the 30 s before GKE ends a spot machine (Google, "Spot VMs" in GKE's documentation)."""
AWS_WARNING_S = 120.0
"""Between AWS's notice and a spot machine's end (AWS, "Spot Instance interruption notices")."""
SCHEMAS = json.loads(gzip.decompress(Path(__file__).with_name("kuberay_schemas.json.gz").read_bytes()))
"""KubeRay's own, Apache-2.0; `source` says of which version, and what is left out."""
YAML_FILES = sorted(CLUSTER.rglob("*.yaml"))
SPECS = ray_cluster_specs()
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SECRET_NAME = re.compile("key|token|secret|password|credential", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{12}|\bsk-\w{8}|\bhf_\w{8}|-----BEGIN|\b[0-9a-f]{32,}\b|\b(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{40,}"
)


def locked(package: str) -> str:
    """Return the version of a package in the locks."""
    text = "".join((CLUSTER / "locks" / f"{name}.lock").read_text(encoding="utf-8") for name in ("cpu", "dev"))
    return re.findall(rf"^{package}==(\S+)$", text, re.MULTILINE)[0]


def find_faults(manifest: Any) -> list[str]:
    """Hold a manifest against the operator's schema of its kind; returns where it does not fit, and why."""
    validator = jsonschema.Draft7Validator(SCHEMAS[manifest["kind"]])
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_operators_own_schema_finds_no_fault_in_a_manifest(name: str) -> None:
    assert find_faults(read_yaml(f"kuberay/{name}.yaml")) == []


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_operators_own_schema_refuses_a_misspelt_field_at_any_depth(name: str) -> None:
    manifest = read_yaml(f"kuberay/{name}.yaml")
    cluster = manifest["spec"]["rayClusterSpec"] if name == "rayjob" else manifest["spec"]
    gpu = cluster["workerGroupSpecs"][0]
    places = [manifest, cluster, gpu, gpu["template"]["spec"], ray_container(gpu)]
    for number, place in enumerate(places, start=1):
        place["replica"] = 1
        assert sum("'replica' was unexpected" in fault for fault in find_faults(manifest)) == number


def test_the_jobs_cluster_is_the_standing_one() -> None:
    assert SPECS["rayjob"] == SPECS["raycluster"]


def test_the_head_runs_no_work_and_only_spot_gpus_go_down_to_none() -> None:
    spec = SPECS["raycluster"]
    gpu, cpu = spec["workerGroupSpecs"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (gpu["replicas"], gpu["minReplicas"]) == (0, 0)
    assert 0 < cpu["minReplicas"] <= cpu["replicas"] <= cpu["maxReplicas"]
    assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")


def node_terms(group: Any) -> list[dict[str, tuple[str, list[str]]]]:
    """Return which nodes a group may be on: alternatives of labels, each with an operator and values."""
    rule = group["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [
        {match["key"]: (match["operator"], match["values"]) for match in term["matchExpressions"]}
        for term in rule["nodeSelectorTerms"]
    ]


def test_gpus_are_on_spot_nodes_and_all_else_is_on_none_of_them() -> None:
    spec = SPECS["raycluster"]
    gpu, cpu = spec["workerGroupSpecs"]
    spot = [(key, values) for term in node_terms(gpu) for key, (operator, values) in term.items() if operator == "In"]
    assert len(spot) == len(node_terms(gpu)) == 3
    for group in (spec["headGroupSpec"], cpu):
        assert node_terms(group) == [{key: ("NotIn", values) for key, values in spot}]
        assert "nvidia.com/gpu" not in ray_container(group)["resources"]["limits"]
    assert ray_container(gpu)["resources"]["limits"]["nvidia.com/gpu"] == int(gpu["rayStartParams"]["num-gpus"])


def test_what_submits_a_job_and_what_scales_are_nobody_too() -> None:
    submitter = read_yaml("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]["spec"]
    assert submitter["securityContext"]["runAsNonRoot"]
    assert submitter["securityContext"]["runAsUser"] == 1000
    assert [container["securityContext"] for container in submitter["containers"]] == [LOCKED]
    # The autoscaler is a container of the head's pod.
    assert SPECS["raycluster"]["autoscalerOptions"]["securityContext"] == LOCKED


@pytest.mark.parametrize("group", groups(SPECS["raycluster"]), ids=lambda group: group.get("groupName", "head"))
def test_a_pod_is_probed_bounded_and_nobody(group: Any) -> None:
    pod, container = group["template"]["spec"], ray_container(group)
    assert pod["restartPolicy"] == "Never", "the autoscaler of version 2 replaces pods itself"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000
    assert container["securityContext"] == LOCKED
    assert set(container["resources"]["requests"]) >= {"cpu", "memory", "ephemeral-storage"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert "healthz" in container[probe]["exec"]["command"][-1]
        num_checks = container[probe]["exec"]["command"][-1].count("wget -T 4 ")
        assert 4 * num_checks < container[probe]["timeoutSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("group", SPECS["raycluster"]["workerGroupSpecs"], ids=lambda group: group["groupName"])
def test_a_worker_has_time_to_commit_and_to_drain(group: Any) -> None:
    container = ray_container(group)
    assert "preStop" in container["lifecycle"], "test_cluster_commands.py and the test below run it"
    own = [variable["value"] for variable in container.get("env", []) if variable["name"] == DRAIN_TIMEOUT]
    drain_s = float(own[0]) if own else ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
    assert drain_s > LEAVING_RESERVE_S
    if group["groupName"] == "gpu-spot":
        assert drain_s < GKE_POD_S
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= drain_s + 30


@pytest.mark.parametrize("name", sorted(SPECS))
def test_what_a_manifest_says_of_eks_gives_draws_all_their_time_within_the_notice(name: str) -> None:
    text = " ".join((CLUSTER / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8").replace("#", "").split())
    ((drain_s, pod_s),) = re.findall(r'On EKS "(\d+)", and terminationGracePeriodSeconds: (\d+)', text)
    assert float(drain_s) - LEAVING_RESERVE_S >= LedgerConfig().drain_s
    assert float(drain_s) + 30 <= float(pod_s) <= AWS_WARNING_S


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_hook_of_a_pod_ends_ray_alone_and_ends_well(name: str, tmp_path: Path) -> None:
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    ray.chmod(0o755)
    started = [subprocess.Popen([ray, *words]) for words in (["start", "--block"], ["status"])]
    started.append(subprocess.Popen(["sleep", "60"]))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for group in SPECS[name]["workerGroupSpecs"]:
        (*shell, hook) = drain_hook(group)
        assert hook.count("/proc/[0-9]*") == 1
    try:
        # A pod has these processes alone.
        pod = " ".join(f"/proc/{process.pid}" for process in [*started, gone])
        done = subprocess.run([*shell, hook.replace("/proc/[0-9]*", pod)], timeout=30, check=False)
        assert done.returncode == 0
        assert started[0].wait(timeout=30) == -signal.SIGTERM
        assert [process.poll() for process in started[1:]] == [None, None]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_ray_reads_how_long_a_node_drains_from_the_variable_that_the_manifest_sets() -> None:
    source = inspect.getsource(ray_constants)
    assert f'"{DRAIN_TIMEOUT}"' in source


def test_kuberay_takes_the_token_from_a_secret_and_rights_from_accounts() -> None:
    spec = SPECS["raycluster"]
    accounts = yaml.safe_load_all((CLUSTER / "kuberay" / "access.yaml").read_text(encoding="utf-8"))
    names = {account["metadata"]["name"] for account in accounts if "eks.amazonaws.com/role-arn" in str(account)}
    assert spec["authOptions"] == {"mode": "token", "secretName": "judgetrace-ray-token"}
    assert {group["template"]["spec"]["serviceAccountName"] for group in groups(spec)} == names
    assert all(not group["template"]["spec"]["automountServiceAccountToken"] for group in spec["workerGroupSpecs"])


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.stem)
def test_no_file_holds_a_secret(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not SECRET_VALUE.findall(text)
    for document in yaml.safe_load_all(text):
        for found in walk(document):
            if isinstance(found, dict) and SECRET_NAME.search(str(found.get("name", ""))) and "value" in found:
                pytest.fail(f"{file.name}: {found} is written out; take it from a secret")


@pytest.mark.parametrize(
    "secret",
    ["AKIAIOSFODNN7EXAMPLE", "sk-0123456789", "hf_0123456789", "9f" * 20, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
)
def test_what_is_searched_for_is_found(secret: str) -> None:
    assert SECRET_VALUE.search(f"value: {secret}")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rays_own_check_takes_a_launcher_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read_yaml(f"{name}.yaml")
    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    assert set(whole["available_node_types"]) == set(config["available_node_types"]), "Ray adds no node type of its own"
    assert whole["setup_commands"] == []
    assert not any("ray-wheels" in command for command in whole["head_setup_commands"] + whole["worker_setup_commands"])


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rays_own_check_refuses_a_misspelt_field(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    for where in ((), ("auth",), ("docker",), ("available_node_types", "gpu_spot")):
        config = read_yaml(f"{name}.yaml")
        section = config
        for key in where:
            section = section[key]
        section["min_worker"] = 1
        with pytest.raises(jsonschema.ValidationError, match="min_worker"):
            validate_config(prepare_config(config))


def is_spot(node_config: Any) -> bool:
    """Say whether a machine is a spot one, on AWS or Google Cloud."""
    market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launchers_head_runs_no_work_and_its_gpus_alone_are_spot(name: str) -> None:
    config = read_yaml(f"{name}.yaml")
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert {kind for kind, node in types.items() if is_spot(node["node_config"])} == {"gpu_spot"}
    assert {kind for kind, node in types.items() if node["resources"].get("GPU")} == {"gpu_spot"}
    assert types["gpu_spot"]["min_workers"] == 0
    assert types["cpu_on_demand"]["min_workers"] > 0
    assert sum(node.get("max_workers", 0) for node in types.values()) == config["max_workers"]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("where", sorted(start_commands()))
def test_ray_knows_every_option_that_ray_is_started_with(where: str) -> None:
    from ray.scripts.scripts import start

    _, arguments = split_start(start_commands()[where])
    parsed = start.make_context("ray start", [*arguments, "--block"]).params
    assert parsed["head"] == where.endswith("head")
    if parsed["head"]:
        assert parsed["num_cpus"] == 0


@pytest.mark.parametrize("where", [f"{name}-{part}" for name in LAUNCHERS for part in ("head", "worker")])
def test_a_launcher_starts_ray_with_tokens(where: str) -> None:
    before, _ = split_start(start_commands()[where])
    assert "export RAY_AUTH_MODE=token;" in before
    assert "/home/ray/.ray/auth_token" in read_yaml(f"{where.split('-', maxsplit=1)[0]}.yaml")["file_mounts"]


def test_the_rayjob_runs_a_job_that_exists_on_a_config_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    python, dash_m, module, *arguments = shlex.split(read_yaml("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert (python, dash_m) == ("python", "-m")
    job = import_module(module)
    calls = [node for node in ast.walk(ast.parse(Path(str(job.__file__)).read_text())) if isinstance(node, ast.Call)]
    (model,) = [call.args[0].id for call in calls if isinstance(call.func, ast.Name) and call.func.id == "load_config"]
    config = load_config(getattr(job, model), module.split(".")[1], arguments)
    gpu = SPECS["rayjob"]["workerGroupSpecs"][0]
    limits = ray_container(gpu)["resources"]["limits"]
    assert config.engine.num_cpus <= float(limits["cpu"]), "an engine fits a pod"
    assert config.engine.num_gpus == limits["nvidia.com/gpu"]
    assert config.engine.max_replicas <= gpu["maxReplicas"]
    assert config.run.startswith("s3://")


def test_the_rayjob_sends_the_same_environment_as_a_laptop() -> None:
    from_image = yaml.safe_load(read_yaml("kuberay/rayjob.yaml")["spec"]["runtimeEnvYAML"])
    from_laptop = read_yaml("runtime_env.yaml")
    assert from_image["env_vars"] == from_laptop["env_vars"]
    assert f"WORKDIR {from_image['working_dir']}\n" in (CLUSTER / "Containerfile").read_text(encoding="utf-8")


def test_the_images_copy_what_exists_and_are_of_the_locks_versions() -> None:
    text = (CLUSTER / "Containerfile").read_text(encoding="utf-8")
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    sources = [name for words in copies for name in words if not name.startswith("--")]
    assert sources
    assert all((ROOT / name).exists() for name in sources), sources
    assert re.findall(r"^FROM (\S+) AS (\w+)$", text, re.MULTILINE) == [
        ("docker.io/library/python:3.11-slim-bookworm", "base"),
        ("base", "cpu"),
        ("base", "gpu"),
    ]
    assert "for CPython 3.11 on" in (CLUSTER / "locks" / "cpu.lock").read_text(encoding="utf-8")
    assert "useradd --create-home --uid 1000 " in text
    # The launchers' heads get their provider's library by `pip install --user`.
    assert "PYTHONNOUSERSITE" not in text
    assert text.count("USER 1000:1000\n") == 2


def test_every_image_and_version_is_that_of_the_locks() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in [*YAML_FILES, CLUSTER / "Containerfile"])
    images = re.findall(r"REGISTRY/judgetrace:(\S+)", text)
    assert set(images) == {f"cpu-ray{locked('ray')}", f"gpu-ray{locked('ray')}"}
    assert {spec["rayVersion"] for spec in SPECS.values()} == {locked("ray")}
    installed = [f"boto3=={locked('boto3')} s3transfer=={locked('s3transfer')}"]
    assert re.findall(r"boto3==.*", text) == 2 * installed, "on the head, and on the laptop"


def read_sizes(name: str) -> list[tuple[str, ...]]:
    """Return the rows of a file's table of sizes: the GPU, eight figures, the machine."""
    text = (CLUSTER / name).read_text(encoding="utf-8")
    return re.findall(r"^#   (\w+) +" + 8 * r"([\d.]+) +" + r"(\S.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "cloud", "key"), [("aws", "AWS", "InstanceType"), ("gcp", "Google Cloud", "machineType")]
)
def test_a_launcher_tells_the_sizes_of_its_own_machine(name: str, cloud: str, key: str) -> None:
    machine = read_yaml(f"{name}.yaml")["available_node_types"]["gpu_spot"]["node_config"][key]
    ((*row, where),) = read_sizes(f"{name}.yaml")
    assert where == f"{cloud} {machine}"
    assert (*row, f"{where} (cluster/{name}.yaml)") in read_sizes("kuberay/raycluster.yaml")


def test_the_table_of_sizes_follows_from_its_own_arithmetic() -> None:
    rows = read_sizes("kuberay/raycluster.yaml")
    assert [row[0] for row in rows] == ["L4", "L40S", "A100", "A100", "H100"]
    weights, kv = 2 * 8.03e9, 1500 * 32 * 8 * 128 * 2 * 2
    for _, *figures, _ in rows:
        memory, bandwidth, tflops, draws, rate, hours, price, money = (float(figure) for figure in figures)
        assert draws == min(256, (0.9 * memory * 1e9 - weights - 2e9) // kv)
        exact_rate = 0.6 * draws * bandwidth * 1e9 / (weights + draws * kv)
        assert rate == round(exact_rate)
        exact_hours = 1e6 / 3600 * (4000 / exact_rate + 2 * 8.03e9 * 1000 / (0.4 * tflops * 1e12))
        assert hours == round(exact_hours)
        assert money == pytest.approx(exact_hours * price, rel=0.005)


def test_every_command_line_is_run_by_a_test_or_named_as_one_that_is_not() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    run, left = set(run_commands()), set(command_lines()) - set(run_commands())
    assert run <= set(command_lines())
    for line in left:
        (reason,) = [reason for start, reason in NOT_RUN.items() if line.startswith(start)]
        assert reason
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in left), start
        assert f"`{start}`" in readme


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_the_readmes_command_lines_name_the_cluster_and_leave_no_address_to_jobs_of_the_same_shell() -> None:
    from ray.dashboard.modules.job import cli

    assert "export RAY_ADDRESS" not in (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme_job_lines()
    assert [line[0] for line in lines] == ["submit", "logs", "status", "stop"]
    for command, *arguments in lines:
        parsed = getattr(cli, command).make_context(f"ray job {command}", arguments).params
        assert parsed["address"] == "http://HEAD:8265"
        assert "stories-1" in (parsed.get("submission_id"), parsed.get("job_id"))


def test_start_lines_that_are_not_run_for_real_are_the_same_as_others_that_are() -> None:
    # tests/test_cluster_commands.py and tests/test_job_study_on_cluster.py run the others.
    commands = start_commands()
    assert commands["gcp-head"] == commands["aws-head"]
    for where in ("head", "gpu-spot", "cpu-on-demand"):
        assert commands[f"rayjob-{where}"] == commands[f"raycluster-{where}"]


@pytest.mark.parametrize(("has_gpu", "looks"), [(False, 0), (True, 2)])
def test_a_machine_waits_for_its_gpus_driver_and_only_where_it_has_one(tmp_path, has_gpu, looks):
    asked = tmp_path / "asked"
    scripts = {
        "lspci": f"echo 00:04.0 {'3D controller: NVIDIA Corporation' if has_gpu else 'Ethernet controller'}",
        "nvidia-smi": f"echo >> {asked}; test $(wc -l < {asked}) -ge 2",
        "sleep": "true",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", wait_for_driver()], env=environment, timeout=30, check=True)
    assert (len(asked.read_text().splitlines()) if asked.exists() else 0) == looks
