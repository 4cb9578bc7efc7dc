"""Join or start Ray for a job, and say what a job waits for when it can't get its resources.

The same call serves a laptop (starts Ray for itself), a running cluster and `ray job submit`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, Field

from judgetrace.config import STRICT, UserError
from judgetrace.console import say

_CHATTY_LOGGERS = (
    "ray._private.authentication.authentication_token_setup",
    "ray.data._internal.execution.streaming_executor",
    "ray.data._internal.progress",
)
"""They greet, and repeat what the job's own live line says."""
_STARTED: list[bool] = []
"""Holds something while this process has a Ray of its own: jobs that share it must know that it can't grow."""


class RayConfig(BaseModel):
    """Where the job runs."""

    model_config = STRICT

    address: str | None = Field(
        default=None,
        description="'local' starts Ray for this job alone; an address joins that cluster; nothing: RAY_ADDRESS, "
        "the cluster this job was submitted to or one that runs on this machine, else starts Ray.",
    )
    num_cpus: int | None = Field(default=None, ge=1, description="CPUs of a Ray that the job starts; all by default.")
    temp_dir: str | None = Field(default=None, description="Where a Ray that the job starts keeps logs and sockets.")
    object_store_bytes: int | None = Field(
        default=None, description="Object store of a Ray that the job starts; 256 MB by default: only counts pass."
    )
    worker_logs: bool = Field(default=False, description="Show the workers' own log lines in the job's output.")
    wait_s: float = Field(
        default=1800.0,
        gt=0,
        description="How long to wait for resources that the cluster does not have now (an autoscaler may add them).",
    )


@contextmanager
def connect_ray(config: RayConfig) -> Iterator[bool]:
    """Connect this process to Ray while the block runs; yields whether it started Ray (which then can't grow).

    An existing connection is used and left as it is; one that an outer block of this kind started counts as started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.data import DataContext
    from ray.util.annotations import RayDeprecationWarning

    # Ray Data 2.60 deprecates the arguments that bound an actor's replays, and offers no others yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", category=RayDeprecationWarning)
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        _quieten(DataContext.get_current())
        yield bool(_STARTED)
        return
    was_submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    # Ray itself takes RAY_ADDRESS where no address is given, and never for "local".
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    joins = config.address != "local" and bool(address or was_submitted)
    if joins and address.startswith(("http://", "https://")):
        raise UserError(
            f"cluster.address or RAY_ADDRESS is {address}, which `ray job submit` wants\nexpected: HOST:PORT of the "
            "cluster's head, to join it from one of its machines; or --cluster.address=local. To run the job there, "
            "submit it."
        )
    starting = {} if joins else _start_options(config)
    ray.init(
        address=config.address,
        log_to_driver=config.worker_logs,
        logging_level="WARNING",
        runtime_env=None if was_submitted else {"env_vars": {"PYTHONPATH": worker_path()}},
        **starting,
    )
    _quieten(DataContext.get_current())
    _STARTED.extend([True] if starting else [])
    try:
        yield bool(starting)
    finally:
        _STARTED.clear()
        ray.shutdown()


def _start_options(config: RayConfig) -> dict[str, object]:
    options: dict[str, object] = {
        "include_dashboard": False,
        "num_cpus": config.num_cpus,
        "object_store_memory": config.object_store_bytes or 256 * 2**20,
    }
    if config.temp_dir:
        options["_temp_dir"] = str(Path(config.temp_dir).resolve())
    if config.address is None:
        # Ray refuses start options when it finds a cluster to join; ask it which it would do.
        from ray._private.services import find_gcs_addresses

        if find_gcs_addresses():
            return {}
    return options


def worker_path() -> str:
    """Return the PYTHONPATH that workers on this machine need to import what the driver imports."""
    library = str(Path(__file__).resolve().parents[1])
    here = str(Path.cwd())
    existing = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys([library, here, *existing]))


def _quieten(context: Any) -> None:
    """Turn off Ray Data's own progress bars and usage notes: the job prints one live line of its own.

    Nor is each task's memory looked up every second, by a thread a shard: nothing reads it.
    """
    for name in ("enable_progress_bars", "print_on_execution_start", "enable_rich_progress_bars"):
        if hasattr(context, name):
            setattr(context, name, False)
    context.memory_usage_poll_interval_s = None


def check_resources(stage: str, needs: Mapping[str, float], started_here: bool) -> None:
    """Check that some node can hold one worker of a stage. Raises UserError where the cluster can't grow.

    `needs` maps resource names (CPU, GPU, ...) to amounts of one worker. Where Ray may still grow (a cluster that was
    joined), a lack is only said; StageWatch ends the wait.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        return
    message = f"{stage} needs {describe_resources(needs)} on one node; the cluster has {describe_nodes(nodes)}"
    if started_here:
        raise UserError(f"{message}\nLower the stage's num_cpus or num_gpus, or use a machine that has them.")
    say(f"waiting: {message}")


def describe_resources(resources: Mapping[str, float]) -> str:
    """Write resources for a person: '1 CPU, 2 GPU'."""
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()) if amount) or "nothing"


def describe_nodes(nodes: list[dict[str, float]]) -> str:
    """Write what each node has, at most five of them."""
    names = [
        describe_resources({k: v for k, v in node.items() if not k.startswith(("node:", "memory", "object_store"))})
        for node in nodes
    ]
    return f"{len(names)} node(s): " + "; ".join(names[:5]) + ("; ..." if len(names) > 5 else "")


class StageWatch:
    """Says which stage waits for what when nothing has moved for a while, and gives up after a limit.

    Use as a context; call `note()` with what would have changed if something had moved, and with who is at work, if
    anybody has got a place. `expired` is true once the limit has passed without any change.
    """

    def __init__(self, stage: str, needs: Mapping[str, float], limit_s: float, notice_s: float = 45.0):
        self._stage, self._needs, self._limit_s, self._notice_s = stage, dict(needs), limit_s, notice_s
        self._moved_at = time.monotonic()
        self._seen: object = None
        self._at_work = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stage-watch", daemon=True)
        self.expired = False

    def __enter__(self) -> StageWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def note(self, seen: object, at_work: str = "") -> None:
        """Note how the stage stands; what differs from the last time means that it moved.

        `at_work` names who has got a place ("engines: 2 starting"): then it is not room that the stage waits for.
        """
        self._at_work = at_work
        if seen != self._seen:
            self._seen = seen
            self.progress()

    def rename(self, stage: str) -> None:
        """Say differently from now on what it is that moves or does not."""
        self._stage = stage

    def progress(self) -> None:
        """Note that the stage moved."""
        self._moved_at = time.monotonic()
        self.expired = False

    def describe(self) -> str:
        """Say what the stage needs and what the cluster has free; or, where it has a place, who is at work."""
        import ray

        waited = time.monotonic() - self._moved_at
        stands = f"{self._stage} has not moved for {waited:.0f} s"
        if self._at_work:
            return f"{stands}; {self._at_work}"
        free = {k: v for k, v in ray.available_resources().items() if k in {"CPU", "GPU", *self._needs}}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return (
            f"{stands}: a worker needs {describe_resources(self._needs)}; "
            f"free now: {describe_resources(free)}; cluster: {describe_nodes(nodes)}"
        )

    def give_up(self) -> UserError:
        """Make the error of a stage that does not wait any longer."""
        return UserError(f"gave up: {self.describe()}\nGive it resources, or raise cluster.wait_s.")

    def _watch(self) -> None:
        next_notice = self._notice_s
        while not self._stop.wait(1.0):
            waited = time.monotonic() - self._moved_at
            if waited < self._notice_s:
                next_notice = self._notice_s
            elif waited >= next_notice:
                say(f"waiting: {self.describe()}")
                next_notice += self._notice_s
            self.expired = waited >= self._limit_s


def wait_for_room(
    stage: str, needs: Mapping[str, float], count: int, wait_s: float, *, beside: Mapping[str, float] | None = None
) -> None:
    """Wait for room for `count` workers that need so much each, and what is to run beside them.

    Ray Train and Ray Data would wait for ever, in silence. An autoscaler sees what is wanted. The room is given back at
    once, for the stage to take. Raises UserError where there is none after `wait_s` seconds.
    """
    from ray.util import placement_group, remove_placement_group

    if not needs:
        return
    group = placement_group([dict(needs)] * count + ([dict(beside)] if beside else []))
    try:
        with StageWatch(stage, needs, wait_s) as watch:
            while not group.wait(1):
                if watch.expired:
                    raise watch.give_up()
    finally:
        remove_placement_group(group)
