"""A pool of engines that stay up over many stages: batches of items in, their rows out as they come.

Each engine lives in a Ray actor of its own, made from a plain class that needs no Ray. A large model is so loaded once,
not anew for every stage. Knows nothing of what an item is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from judgetrace.config import UserError
from judgetrace.console import say
from judgetrace.engine import EngineConfig, EngineDeadError, EngineStartError
from judgetrace.loop_guard import guard_loop
from judgetrace.refining.batch_queue import BatchQueue, Job
from judgetrace.session import StageWatch
from judgetrace.suspects import KILLED_TWICE
from judgetrace.unit_run import needs_of

BATCHES_AT_ONCE = 4
START_TRIES = 3
CLOSE_S = 20.0
NOTICE_S = 55.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class DoneRow:
    """A row that a worker has made."""

    row: dict[str, Any]
    worker: str
    engine_s: float
    """How long its engine has been busy since its start."""


class Worker(Protocol):
    """Holds one engine. Made in the actor that it lives in; making it starts the engine.

    `work` is called from several threads at once.
    """

    loop: asyncio.AbstractEventLoop
    """Where the engine lives; where it stands still for engine.silent_s, the process is ended."""

    def work(self, items: Sequence[Any]) -> Iterator[tuple[int, DoneRow]]:
        """Do a batch; yields (place, row) as items end.

        Raises EngineDeadError where the engine is gone: what has not ended is done again by another.
        """

    def refuse(self, item: Any, reason: str) -> DoneRow:
        """Make the row of an item that can't be asked, since it kills engines."""

    def close(self) -> None:
        """End the engine."""


@dataclass(eq=False)
class _Member:
    """An actor of the pool. `starting` is the call that starts its engine; None once it has."""

    actor: Any
    placed: Any
    """The call that ends as soon as the actor has its place."""
    starting: Any
    num_jobs: int = 0
    died_of: BaseException | None = None


class WorkerActor:
    """What an actor of a pool is: a worker that is made by a call, so that its failure can be told apart."""

    def __init__(self, make_worker: Callable[..., Worker], arguments: tuple[Any, ...], silent_s: float):
        self._make_worker, self._arguments, self._silent_s = make_worker, arguments, silent_s

    def answer(self) -> None:
        """Show that there is a place for this process, while the worker may still be in the making."""

    def start(self) -> None:
        """Make the worker; from then on the process ends where its loop stands still. Raises EngineStartError."""
        self._worker = self._make_worker(*self._arguments)
        guard_loop(self._worker.loop, self._silent_s)

    def work(self, items: Sequence[Any], refused: str | None) -> Iterator[tuple[int, DoneRow]]:
        """Do a batch, or refuse its items; yields (place, row) as they end."""
        if refused is None:
            yield from self._worker.work(items)
        else:
            yield from ((place, self._worker.refuse(item, refused)) for place, item in enumerate(items))

    def close(self) -> None:
        """End the engine."""
        self._worker.close()


class EnginePool:
    """Engines of one kind, from `engine.min_replicas` on up to `engine.max_replicas` while there is work for them.

    Use as a context in a process that is connected to Ray; leaving it ends all engines. They are started by the first
    batch, or by `warm_up`: a stage without batches needs none. `make_worker(*arguments)` makes a Worker; all of it is
    pickled.
    """

    def __init__(
        self,
        name: str,
        make_worker: Callable[..., Worker],
        arguments: tuple[Any, ...],
        engine: EngineConfig,
        wait_s: float,
    ):
        self.name, self._engine, self._wait_s = name, engine, wait_s
        self._making = (make_worker, arguments, engine.silent_s)
        self._members: list[_Member] = []
        self._deaths_at_start = 0
        self.num_deaths = 0

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        import ray

        members, self._members = self._members, []
        closing = [member.actor.close.remote() for member in members if member.starting is None]
        if closing:
            with suppress(Exception):  # they are killed all the same
                ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for member in members:
            ray.kill(member.actor)

    def warm_up(self) -> None:
        """Ask for the first engines, unless that is done; does not wait for them."""
        if not self._members:
            self._ask_for(self._engine.min_replicas)

    @property
    def needs(self) -> dict[str, float]:
        """The Ray resources of one engine."""
        return needs_of(self._engine)

    @property
    def batches_at_once(self) -> int:
        """Batches in flight in one engine."""
        return self._engine.shards_at_once or BATCHES_AT_ONCE

    def choose_batch_size(self, num_items: int) -> int:
        """Choose how many items a batch takes: engines' slots stay full, and all engines get some."""
        shared = num_items // (self._engine.max_replicas * self.batches_at_once)
        return max(1, min(2 * self._engine.slots // self.batches_at_once, shared))

    def run(
        self, batches: Iterable[Sequence[Item]], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 20.0
    ) -> Iterator[tuple[Item, DoneRow]]:
        """Have batches done; yields each item with its row, as they end. One stage at a time.

        `should_stop` is asked every second. Once it says so, no further batch is begun, those in flight have `drain_s`
        seconds to end, and the rest is left undone. An engine that dies is replaced, and what had not come is done
        again; what kills engines alone gets the row that Worker.refuse makes (batch_queue.py).
        Raises UserError where no engine can start, where resources don't come in time, and for a batch that too many
        engines died over; any other error of a worker as it is.
        """
        with StageWatch(self.name, self.needs, self._wait_s) as watch:
            yield from _Stage(self, iter(batches), should_stop, drain_s, watch).run()

    def _ask_for(self, number: int) -> None:
        """Ask Ray for further actors; they start when there is room for them."""
        import ray

        actor_type = ray.remote(WorkerActor).options(
            num_cpus=self._engine.num_cpus,
            num_gpus=self._engine.num_gpus or None,
            resources=self._engine.resources or None,
            max_concurrency=self.batches_at_once + 1,  # one for close()
        )
        for _ in range(number):
            actor = actor_type.remote(*self._making)
            self._members.append(_Member(actor, actor.answer.remote(), actor.start.remote()))

    def list_ready(self) -> list[_Member]:
        """List the members whose engine is up."""
        return [member for member in self._members if member.starting is None]

    def list_starting(self) -> dict[Any, _Member]:
        """List the members whose engine is not up yet, by the call that starts it."""
        return {member.starting: member for member in self._members if member.starting is not None}

    def count_placed(self) -> int:
        """Count the members that have their place, whether or not their engine is up."""
        import ray

        calls = [member.placed for member in self._members]
        return len(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) if calls else 0

    def grow(self) -> None:
        """Ask for the engines beyond the first, once those are up.

        Not before: several pools that are used together shall each get their first.
        """
        if len(self._members) == len(self.list_ready()) < self._engine.max_replicas:
            self._ask_for(self._engine.max_replicas - len(self._members))

    def note_started(self, member: _Member) -> None:
        """Take the end of a member's start. Raises UserError where engines can't start."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            ray.get(member.starting)
        except RayTaskError as error:
            if isinstance(error.cause, EngineStartError):
                raise UserError(
                    f"{self.name}: the engine could not start: {error.cause}\nChange its [model] or [engine]; the "
                    "workers' own logs are in Ray's session folder (--cluster.worker_logs shows them)."
                ) from error
            raise error.cause from error
        except RayError as error:
            self._deaths_at_start += 1
            if self._deaths_at_start >= START_TRIES:
                raise UserError(
                    f"{self.name}: {START_TRIES} engines in a row died while they started, the last one: {error}\n"
                    "Often they need more memory than there is: lower engine.max_replicas, or take a smaller model."
                ) from error
            self.replace(member)
            return
        member.starting = None
        self._deaths_at_start = 0

    def replace(self, member: _Member) -> None:
        """Replace a member that died, or whose engine did; one that was replaced already stays so."""
        import ray

        if member not in self._members:
            return
        self.num_deaths += 1
        self._members.remove(member)
        ray.kill(member.actor)
        say(f"{self.name}: an engine died; another one takes its place")
        self._ask_for(1)

    def check_deaths(self, job: Job[Any], error: BaseException) -> None:
        """Raise UserError for a batch that too many engines died over."""
        if job.num_deaths > self._engine.max_deaths:
            raise UserError(
                f"{self.name}: engines died {job.num_deaths} times over one batch, more than engine.max_deaths; the "
                f"last time: {error}\nThe same command goes on; look at the workers' logs in Ray's session folder."
            ) from error


class _Stage(Generic[Item]):
    """One call of EnginePool.run."""

    def __init__(
        self,
        pool: EnginePool,
        batches: Iterator[Sequence[Item]],
        should_stop: Callable[[], bool],
        drain_s: float,
        watch: StageWatch,
    ):
        self._pool, self._should_stop, self._drain_s, self._watch = pool, should_stop, drain_s, watch
        self._queue = BatchQueue(batches)
        self._in_flight: dict[Any, tuple[_Member, Job[Item]]] = {}
        """By the stream of their rows."""
        self._reserved: _Member | None = None
        """The engine that is kept for batches that must be alone."""
        self._stopped_at: float | None = None
        self._moved_at = time.monotonic()

    def run(self) -> Iterator[tuple[Item, DoneRow]]:
        """Hand out batches and take rows until none is left, or the stage is to stop."""
        import ray

        while not self._is_over():
            self._pool.warm_up()
            self._hand_out()
            calls = [*self._in_flight, *self._pool.list_starting()]
            ray.wait(calls, num_returns=1, timeout=1.0)
            # Of one alone it would be the oldest, again and again.
            for call in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
                self._moved_at = time.monotonic()
                if call in self._in_flight:
                    yield from self._take_row(call)
                elif call in (starting := self._pool.list_starting()):
                    self._pool.note_started(starting[call])
            self._check_waiting()
        yield from self._take_all(list(self._in_flight))

    def _is_over(self) -> bool:
        if self._stopped_at is None and self._should_stop():
            self._stopped_at = time.monotonic()
        if self._stopped_at is not None:
            return not self._in_flight or time.monotonic() - self._stopped_at > self._drain_s
        return not self._in_flight and not self._queue.has_suspects and not self._queue.has_jobs()

    def _hand_out(self) -> None:
        """Fill the engines that are up, those with the fewest batches first."""
        if self._stopped_at is not None:
            return
        self._hand_out_suspect()
        while self._queue.has_jobs():
            members = [member for member in self._pool.list_ready() if member is not self._reserved]
            ready = [member for member in members if member.num_jobs < self._pool.batches_at_once]
            if not ready:
                return
            self._begin(min(ready, key=_count_jobs), self._queue.take())

    def _hand_out_suspect(self) -> None:
        """Keep an engine for what must be alone; it gets one once it has nothing else to do."""
        ready = self._pool.list_ready()
        if self._reserved not in ready:
            self._reserved = None
        if self._reserved is None and self._queue.has_suspects and ready:
            self._reserved = min(ready, key=_count_jobs)
        if self._reserved is None or self._reserved.num_jobs:
            return
        if self._queue.has_suspects:
            self._begin(self._reserved, self._queue.take_suspect())
        else:
            self._reserved = None

    def _begin(self, member: _Member, job: Job[Item]) -> None:
        refused = None if job.convicted_by is None else f"{KILLED_TWICE}: {job.convicted_by}"[:500]
        call = member.actor.work.options(num_returns="streaming").remote(list(job.items.values()), refused)
        member.num_jobs += 1
        self._in_flight[call] = (member, job)
        self._pool.grow()

    def _take_row(self, call: Any) -> Iterator[tuple[Item, DoneRow]]:
        """Take the next row of a call, which is there, or its end."""
        import ray
        from ray.exceptions import RayError

        member, job = self._in_flight[call]
        try:
            place, done = ray.get(next(call))
        except StopIteration:
            self._end(call)
            if job.items:
                raise RuntimeError(
                    f"{self._pool.name}: a batch ended without a row of {len(job.items)} items"
                ) from None
        except RayError as error:
            self._end(call)
            # Once its process is ended, what has not been taken is lost.
            yield from self._take_all([other for other, (own, _) in self._in_flight.items() if own is member])
            self._note_death(member, job, error)
        else:
            yield job.items.pop(place), done

    def _take_all(self, calls: Sequence[Any]) -> Iterator[tuple[Item, DoneRow]]:
        """Take what is there of these calls."""
        for call in calls:
            while call in self._in_flight and call.next_ready():
                yield from self._take_row(call)

    def _end(self, call: Any) -> None:
        member, _ = self._in_flight.pop(call)
        member.num_jobs -= 1

    def _note_death(self, member: _Member, job: Job[Item], error: Exception) -> None:
        """Have done again what an engine died over; an error of the worker itself is raised as it is."""
        from ray.exceptions import RayTaskError

        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(error, RayTaskError) and not isinstance(cause, EngineDeadError):
            raise cause from error
        # Once it is replaced its other calls only say that its process is gone.
        member.died_of = member.died_of or cause
        self._pool.replace(member)
        if job.items:
            self._queue.note_death(job, member, member.died_of)
            self._pool.check_deaths(job, member.died_of)

    def _check_waiting(self) -> None:
        """Say what is waited for; raise UserError where no engine got its place in time."""
        if self._pool.list_ready():
            # The watch is for engines that get no place; a batch may take long.
            self._watch.progress()
            if time.monotonic() - self._moved_at > NOTICE_S:
                self._moved_at = time.monotonic()
                num, engines = len(self._in_flight), len(self._pool.list_ready())
                text = f"waiting: {self._pool.name}: {num} batches are in work on {engines} engines"
                say(text)
            return
        placed = self._pool.count_placed()
        self._watch.note(placed, f"engines: {placed} starting" if placed else "")
        if self._watch.expired:
            raise self._watch.give_up()


def _count_jobs(member: _Member) -> int:
    return member.num_jobs
