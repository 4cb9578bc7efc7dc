"""The driver of a job that asks units: which shards are left, the pool of workers, and when to stop.

Rows never pass through here: the workers write them. The driver sees shard numbers and counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

from judgetrace.config import UserError, make_early_error
from judgetrace.console import say
from judgetrace.control import Orders, RunControl, RunSnapshot, WorkerReport
from judgetrace.engine import EngineConfig
from judgetrace.flight_recorder import flights_folder
from judgetrace.gate import GateConfig, describe_breach, find_breaches
from judgetrace.ledger import is_finished, list_shard_files, select_current
from judgetrace.limits import RunLimits, StopReason
from judgetrace.live import LiveLine, describe_engines
from judgetrace.loop_guard import guard_loop
from judgetrace.metrics import RunMetrics, RunView
from judgetrace.node_notice import watch_node
from judgetrace.products import Product
from judgetrace.run_failures import explain_broken, explain_failure, explain_lost_control, explain_starts
from judgetrace.run_folder import RunFolder
from judgetrace.session import StageWatch
from judgetrace.stop_signals import taking_stop_signals
from judgetrace.storage import Folder, StoreError
from judgetrace.unit_worker import UnitWorker, WorkerSpec

STATE_EVERY_S = 10.0
CONTROL_NOTICE_S = 45.0
IDLE_GRACE_S = 5.0
OPEN_UNITS_PER_SLOT = 8
SHARDS_WAITING = 2
"""Shards that an engine holds beside those that feed it: enough to go on at once; it gives none back at the end."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to work on: its number, how many of its first units."""

    number: int
    num_units: int


def plan_shards(shards: Iterable[tuple[int, int]], limit: int | None) -> list[ShardTask]:
    """List the shards, and how many units of each, that a run covers; `shards` are (number, units) in order."""
    tasks, left = [], float("inf") if limit is None else limit
    for number, num_units in shards:
        if left <= 0:
            break
        if num_units:
            tasks.append(ShardTask(number, int(min(num_units, left))))
            left -= num_units
    return tasks


def drop_finished(run: Folder, product: Product, tasks: list[ShardTask]) -> list[ShardTask]:
    """Drop the shards that are finished, and clear away what an interrupted publication left of them."""
    published = run / product.folder
    # One listing: an older driver may publish a shard between two, which must not count as left over.
    names = list_shard_files(published)
    current = select_current(names)
    published.delete(set(names) - set(current.values()))
    finished = {shard for shard, name in current.items() if is_finished(name)}
    for name in (run / "ledger").list_files(".parquet", recursive=True):
        if int(name.split("/")[0].removeprefix("shard-")) in finished:
            (run / "ledger").delete([name])
    return [task for task in tasks if task.number not in finished]


class ActorLink:
    """How a worker reaches the RunControl actor."""

    def __init__(self, control: Any):
        import ray

        self._control = control
        context = ray.get_runtime_context()
        self._about = {
            "is_restart": bool(context.was_current_actor_reconstructed),
            "node": context.get_node_id(),
            "actor": str(context.get_actor_id()),
        }

    async def report(self, report: WorkerReport) -> Orders:
        """Send the latest report; returns what to do and know."""
        orders: Orders = await self._control.report.remote(replace(report, **self._about))
        return orders

    async def report_fenced(self, message: str) -> None:
        """Say that a newer driver has taken over."""
        await self._control.report_fenced.remote(message)


class UnitActor(UnitWorker):
    """A UnitWorker as Ray Data makes it."""

    def __init__(self, spec: WorkerSpec, control: Any):
        import ray

        super().__init__(spec, ActorLink(control), flights_folder(spec.run, spec.driver))
        guard_loop(self._loop, spec.engine.silent_s, self.evidence)
        watch_node(ray.get_runtime_context().get_node_id(), spec.engine.spot_notice, self.leave)


def needs_of(engine: EngineConfig) -> dict[str, float]:
    """Return the Ray resources of one engine."""
    return {"CPU": engine.num_cpus, "GPU": engine.num_gpus, **engine.resources}


def shards_at_once(engine: EngineConfig, units_per_shard: int) -> int:
    """Choose how many shards feed one engine at once, where there are enough.

    A shard is open until its last unit is decided, and the last ones may take many times as long as most. Other shards
    fill their slots meanwhile. Modelled with 4 engines of 32 slots and lengths of log-SD 1, two open units a slot leave
    a fifth of the slots idle, eight leave 1%.
    """
    if engine.shards_at_once is not None:
        return engine.shards_at_once
    return min(64, 2 + OPEN_UNITS_PER_SLOT * engine.slots // max(1, units_per_shard))


def share_shards(engine: EngineConfig, num_shards: int, units_per_shard: int) -> tuple[int, int]:
    """Choose how many of a run's shards feed an engine at once, and how many it holds with those that wait.

    No engine holds more than its share of all (but two), or the first that is up would leave none for the others.
    """
    at_once, share = shards_at_once(engine, units_per_shard), max(2, -(-num_shards // engine.max_replicas))
    if engine.shards_at_once is None:
        at_once = min(at_once, share)
    return at_once, max(at_once, min(at_once + SHARDS_WAITING, share))


def start_pool(spec: WorkerSpec, tasks: list[ShardTask], control: Any) -> Iterator[dict[str, Any]]:
    """Run the shards on the pool of workers; yields (shard, num_decided, given_back, broken) as each ends."""
    import ray

    engine = spec.engine
    at_once, held = share_shards(engine, len(tasks), sum(task.num_units for task in tasks) // max(1, len(tasks)))
    shards = ray.data.from_items(
        [{"shard": task.number, "num_units": task.num_units} for task in tasks], override_num_blocks=len(tasks)
    )
    results = shards.map_batches(
        UnitActor,
        fn_constructor_args=(spec, control),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=engine.min_replicas,
            max_size=engine.max_replicas,
            max_concurrent_calls_per_actor=at_once,
            max_tasks_in_flight_per_actor=held,
            enable_true_multi_threading=True,
        ),
        num_cpus=engine.num_cpus,
        num_gpus=engine.num_gpus or None,
        resources=engine.resources or None,
        # Ray's default would replay a shard that kills its engine for ever.
        max_restarts=-1,
        max_task_retries=engine.max_deaths,
    )
    # Ray's default waits until engines hold 1.75 times what they work on, which these never do.
    results.context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    # Else Ray Data asks for no more engines than the cluster has room for now, until a first shard has ended, which may
    # take hours: an autoscaler would hear of none (ray#59144).
    results.context.op_resource_reservation_enabled = False
    yield from results.iter_rows()


def ask_control(control: Any) -> RunSnapshot:
    """Ask how the run stands, until it answers: it takes a while where engines start on all CPUs of the driver's node.

    Raises RayActorError where the control is gone.
    """
    import ray

    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    answer, began = control.snapshot.remote(nodes), time.monotonic()
    while not ray.wait([answer], timeout=CONTROL_NOTICE_S)[0]:
        waited = time.monotonic() - began
        say(f"waiting: the driver's node is too busy to answer for {waited:.0f} s")
    snapshot: RunSnapshot = ray.get(answer)
    return snapshot


@dataclass(frozen=True)
class LevelGoals:
    """What is wanted of each level, and how the levels stood before this call."""

    gate: GateConfig
    units: Counter[str]
    """Units of earlier calls of the run, keyed as accounting.Tally.units."""
    accepted: Mapping[str, int] | None
    """Accepted units by level, of earlier runs too; None where there is no quota."""


NO_GOALS = LevelGoals(GateConfig(), Counter(), None)


@dataclass
class RunEnd:
    """How a call of the job ended."""

    reason: str
    """complete, or why it stopped early."""
    is_complete: bool
    snapshot: RunSnapshot
    seconds: float
    is_planned: bool = False
    """Whether it ended early as it was told to (limits.StopReason)."""


class UnitRun:
    """Drives one call of the job to its end."""

    def __init__(
        self,
        job: str,
        run: RunFolder,
        driver: int,
        limits: RunLimits,
        view: RunView,
        *,
        levels: LevelGoals = NO_GOALS,
    ):
        self._job, self._run, self._driver, self._limits = job, run, driver, limits
        self._live, self._metrics = LiveLine(view), RunMetrics(job, run.folder.url, view)
        self._levels = levels
        self._told_breaches: set[tuple[str, str]] = set()
        self._stop_reason: StopReason | None = None
        self._told_failed_start = ""
        self._seen = RunSnapshot()
        self._failure: BaseException | None = None
        self._broken: dict[int, str] = {}
        """Why a shard can't be read."""
        self._told_broken = 0
        self._began = time.monotonic()

    def work(self, spec: WorkerSpec, tasks: list[ShardTask], wait_s: float) -> RunEnd:
        """Run the shards; returns how it ended. Raises UserError where the resources never came."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver: it must not go with a lost node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        control = ray.remote(num_cpus=0, scheduling_strategy=here)(RunControl).remote(
            accepted_before=self._levels.accepted,
            # All may lose their machines at once, and start anew: that is no sign.
            max_starts=spec.engine.max_deaths + spec.engine.max_replicas,
            start_s=spec.engine.start_s,
        )
        thread = threading.Thread(target=self._consume, args=(spec, tasks, control), name="ray-data", daemon=True)
        with StageWatch(self._job, needs_of(spec.engine), wait_s) as watch, self._signals():
            thread.start()
            snapshot = self._watch(thread, control, watch)
        self._live.end()
        if thread.is_alive():
            # Only Ray's end is its own, and at that Ray Data would fill the screen, under what went wrong.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
        return self._end(snapshot, spec.engine.max_deaths)

    def _end(self, snapshot: RunSnapshot, max_deaths: int) -> RunEnd:
        """Write the last state; returns how the run ended, or raises why it failed."""
        if self._failure is not None:
            failure = explain_failure(self._failure, max_deaths, snapshot.done.num_draws > 0)
            # Who gave up says so itself; what a worker met is a failure.
            state = f"{failure}" if isinstance(self._failure, UserError) else f"failed: {failure}"
            # Where the store is what failed, the reason is told nowhere but here.
            with suppress(StoreError):
                self.write_state(state[:1000], snapshot)
            raise failure
        stop, seconds = self._stop_reason, time.monotonic() - self._began
        reason = "complete" if stop is None else stop.text
        self.write_state(reason, snapshot)
        return RunEnd(reason, stop is None, snapshot, seconds, stop is not None and stop.is_planned)

    def _consume(self, spec: WorkerSpec, tasks: list[ShardTask], control: Any) -> None:
        try:
            left = tasks
            while left and self._stop_reason is None:
                # Nodes that are taken away give their shards back; the other engines went on meanwhile.
                given_back = {row["shard"] for row in self._note_broken(spec, left, control) if row["given_back"]}
                left = [task for task in left if task.number in given_back]
            if self._broken and self._stop_reason is None:
                self._failure = self._failure or explain_broken(self._broken)
        except BaseException as error:  # noqa: BLE001 - re-raised by work() in the main thread
            # Of a run that has been given up already the workers' last words are no reason.
            self._failure = self._failure or error

    def _note_broken(self, spec: WorkerSpec, tasks: list[ShardTask], control: Any) -> Iterator[dict[str, Any]]:
        """Run the shards, and note which can't be read: the others are worked on first."""
        for row in start_pool(spec, tasks, control):
            if row["broken"]:
                self._broken[int(row["shard"])] = str(row["broken"])
            yield row

    def _watch(self, thread: threading.Thread, control: Any, watch: StageWatch) -> RunSnapshot:
        """Watch the run to its end; returns how it stands then, as far as it is known."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        try:
            return self._follow(thread, control, watch)
        except (RayActorError, OutOfMemoryError) as error:
            # What the workers then say of it is no news.
            self._failure = explain_lost_control(error)
            return self._seen

    def _follow(self, thread: threading.Thread, control: Any, watch: StageWatch) -> RunSnapshot:
        import ray

        said_at, told_at = float("-inf"), float("inf")
        while thread.is_alive():
            thread.join(timeout=1.0)
            seen = ask_control(control)
            at_work = f"engines: {describe_engines(seen)}" if seen.states else ""
            watch.note((seen.done.num_draws, seen.done.num_units, sorted(seen.states.items())), at_work)
            self._show(seen)
            self._warn_of_failed_start(seen)
            self._warn_of_broken()
            self._note_reasons_to_stop(seen)
            if seen.cannot_start:
                self._failure = explain_starts(seen)
                return seen
            if watch.expired and not seen.states:
                gave_up = watch.give_up()
                has_begun = seen.done.num_draws or seen.done.num_units
                self._failure = make_early_error(str(gave_up)) if has_begun else gave_up
                return seen
            if self._stop_reason and told_at == float("inf"):
                say(f"\nstopping: {self._stop_reason.text}; draws in flight may end")
                ray.get(control.drain.remote())
                told_at = time.monotonic()
            works = seen.states["running"] or seen.states["draining"]
            if time.monotonic() - told_at > IDLE_GRACE_S and not works:
                # No worker has anything to commit: engines that still start, or never got a place, are not waited for.
                return seen
            if time.monotonic() - said_at > STATE_EVERY_S:
                # A store that stays away ends the workers, which say why; jobs.status is not worth a run.
                with suppress(StoreError):
                    self.write_state("running" if told_at == float("inf") else "stopping", seen)
                said_at = time.monotonic()
        last = ask_control(control)
        self._show(last)
        self._warn_of_broken()
        return last

    def _show(self, seen: RunSnapshot) -> None:
        seen.num_broken = len(self._broken)
        self._seen = seen
        self._live.show(seen)
        self._metrics.record(seen)

    def _warn_of_failed_start(self, seen: RunSnapshot) -> None:
        """Say why an engine could not start, where the run goes on without it."""
        if seen.failed_start == self._told_failed_start or not seen.done.num_draws:
            return
        self._told_failed_start = seen.failed_start
        say(f"\nwarning: an engine could not start, and tries again: {seen.failed_start}")

    def _warn_of_broken(self) -> None:
        """Say of each shard that it can't be read, the first five times."""
        reasons = list(self._broken.values())
        for reason in reasons[self._told_broken : 5]:
            where = reason.partition("\n")[0]
            say(f"\nwarning: {where}; the other shards are worked on")
        self._told_broken = len(reasons)

    def _note_reasons_to_stop(self, seen: RunSnapshot) -> None:
        if self._stop_reason is not None:
            return
        if seen.fenced:
            self._stop_reason = StopReason(seen.fenced, is_planned=True)
            return
        self._stop_reason = self._limits.find_reason(seen.done, time.monotonic() - self._began)
        self._stop_reason = self._stop_reason or self._hold_against_gate(seen)

    def _hold_against_gate(self, seen: RunSnapshot) -> StopReason | None:
        """Warn of each level that falls below the gate, once; returns why to stop, where the gate is to."""
        gate = self._levels.gate
        breaches = find_breaches(self._levels.units + seen.done.levels, gate)
        new = [level for level in breaches if (level.dimension, level.label) not in self._told_breaches]
        if not new:
            return None
        self._told_breaches |= {(level.dimension, level.label) for level in new}
        told = describe_breach(new, gate)
        if gate.on_breach == "stop":
            return StopReason(told, is_planned=True)
        say(f"\nwarning: {told}")
        return None

    def write_state(self, state: str, seen: RunSnapshot) -> None:
        """Write the driver's latest word for `jobs.status`."""
        self._run.write_state(
            self._driver,
            {
                "state": state,
                "at": time.time(),
                "seconds": time.monotonic() - self._began,
                "states": seen.states,
                "draws_in_flight": seen.draws_in_flight,
                "engine_restarts": seen.num_restarts,
                "num_engines": seen.num_engines,
                **vars(seen.done),
            },
        )

    def _signals(self) -> AbstractContextManager[None]:
        def stop(reason: str) -> None:
            self._stop_reason = StopReason(reason)

        return taking_stop_signals(lambda: self._stop_reason is not None, stop)
