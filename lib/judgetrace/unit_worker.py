"""One worker of a job that asks units: an engine, the units of several shards in flight, the ledger's commits.

Ray Data calls the worker with shard descriptors from several threads; all work happens on the worker's own event loop,
where the engine lives, so that the units of all shards share one limit of draws in flight. What a call returns is
counts; the rows are in the ledger. A call that is replayed after a death reads the ledger first.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from judgetrace.accounting import count_error, name_error, name_level
from judgetrace.asking import AskedUnit, UnitAsker
from judgetrace.control import REPORT_EVERY_S, Orders, WorkerReport
from judgetrace.decisions import FINAL_OUTCOMES, Decider, decode_draw, tabulate_rows
from judgetrace.draws import DrawSampler
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import (
    Engine,
    EngineConfig,
    EngineDeadError,
    EngineStartError,
    ModelConfig,
    PromptRefusedError,
)
from judgetrace.engine_loop import check_room, give_up_when_silent, load_thinking_engine, run_on, start_loop
from judgetrace.flight_recorder import Crash, read_crashes, start_recorder
from judgetrace.guideline import parse_guideline
from judgetrace.ledger import ShardFinishedError, ShardLedger
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.quota import LevelQuota
from judgetrace.run_folder import Fence, FencedError, RunFolder
from judgetrace.run_inputs import read_units
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.scale import ScaleConfig
from judgetrace.scheduler import DrawScheduler, Suspicion, UnitWork
from judgetrace.schema import UnitKey, unit_key
from judgetrace.storage import CorruptFileError, Folder, StoreError
from judgetrace.suspects import blame_unit, convict_unit, find_suspects, judge_crashes, mark_suspect, note_unit

Result = TypeVar("Result")

ENGINE_DIED_STATUS = 70
LEFT_STATUS = 71
NOT_STARTED_STATUS = 72
START_AGAIN_AFTER_S = 10.0
"""A machine on which engines can't start is not to be tried without a pause."""
LEAVING_RESERVE_S = 10.0
"""Kept for the last commits of the warning that a node gets."""
LEAVING_COMMIT_EVERY_S = 0.5
IDLE_BEFORE_LEAVING_S = 2.0
DRIVER_SILENT_S = 60.0
ANSWER_WITHIN_S = 10.0
"""A report without an answer by then has failed: a driver whose node is frozen must not hold up the commits."""
MAX_PENDING_ROWS = 5000
COMMIT_TRIES = 3
TELL_AFTER_S = 0.02
"""How long draws of watched shards wait for others that the same report may tell of: hundreds may begin in a second."""
ASKED_AT_ONCE = 128
QUEUED_SHARE = 8
"""One draw in so many waits in the engine's own queue, so that a slot that falls free is filled in the same step."""


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs to know; can be pickled."""

    run: str
    corpus: str
    driver: int
    model: ModelConfig
    engine: EngineConfig
    endpoint: EndpointConfig | None
    prompt: PromptConfig
    template: str
    guideline: str
    by_section: bool
    scale: ScaleConfig
    thinking: ThinkingConfig
    decider: Decider
    num_buckets: int
    """Shards whose numbers are so far apart follow each other in a bucket of the corpus."""
    commit_every_s: float
    drain_s: float
    per_level: int | None = None
    """Accepted units of a level that are enough (quota.QuotaConfig)."""


class ControlLink(Protocol):
    """How a worker reaches the driver's RunControl."""

    async def report(self, report: WorkerReport) -> Orders:
        """Send the latest report; returns what to do and know. Raises any error where the driver is gone."""

    async def report_fenced(self, message: str) -> None:
        """Say that a newer driver has taken over."""


@dataclass(frozen=True)
class Decided:
    """A row of the run's product that is not committed yet, and the level that its unit belongs to."""

    level: str
    row: dict[str, Any]


@dataclass
class OpenShard:
    """A shard being worked on."""

    number: int
    items: pa.Table
    ledger: ShardLedger
    pending: list[Decided] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class ShardEnd:
    """How a call's work on a shard ended."""

    num_decided: int
    """Its units that have a final outcome now."""
    broken: str = ""
    """Why its files can't be read; empty where they can."""


class ShardBrokenError(Exception):
    """A shard's files can't be read, or are not there: nothing of it was begun."""


class UnitWorker:
    """Takes shard descriptors, returns counts. One instance is one engine."""

    def __init__(self, spec: WorkerSpec, link: ControlLink, flights: Path | None = None):
        """`flights` is where workers of this node tell their successors what they had in flight, if they do."""
        self._spec, self._link = spec, link
        self._verdict = judge_crashes([] if flights is None else read_crashes(flights))
        self._recorder = None if flights is None else start_recorder(flights)
        self._corpus, self._run = Folder(spec.corpus), Folder(spec.run)
        self._fence = Fence(RunFolder(self._run), spec.driver)
        self._shards: dict[int, OpenShard] = {}
        self._watched: set[int] = set()
        self._watched_units: set[UnitKey] = set()
        """Of watched shards (shard_deaths.py): the driver hears of their draws before they begin."""
        self._num_telling = 0
        """Draws that wait for the driver to hear of them: of these the engine knows nothing yet, or nothing more."""
        self._telling = asyncio.Lock()
        self._num_changes = self._num_told = 0
        """Of the watched draws in flight; how many of them the driver has heard of."""
        self._draining = self._leaving = False
        self._commit_every_s = spec.commit_every_s
        self._num_calls = 0
        self._report_in_s = REPORT_EVERY_S
        self._told_to_drain = False
        self._heard_at = 0.0
        """When the driver last answered, by the loop's clock."""
        self._quota = LevelQuota(spec.per_level)
        self._report = WorkerReport(worker=f"{os.getpid()}-{uuid.uuid4().hex[:8]}", state="starting")
        self._done = self._report.done
        self._loop = start_loop()
        self._call(self._start())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Work on shards to their end. `batch` has the columns shard and num_units (how many of its first units)."""
        numbers = [int(number) for number in batch["shard"]]
        limits = [int(limit) for limit in batch["num_units"]]
        ends = [self._call(self._work_on(n, limit)) for n, limit in zip(numbers, limits, strict=True)]
        decided, broken = np.array([end.num_decided for end in ends]), np.array([end.broken for end in ends])
        given_back = (decided < np.array(limits)) & (broken == "") & self._leaving
        return {"shard": np.array(numbers), "num_decided": decided, "given_back": given_back, "broken": broken}

    def leave(self, seconds: float) -> None:
        """Give all shards back, then end the process: its node will be gone in so many seconds. From any thread."""
        self._loop.call_soon_threadsafe(self._begin_leaving, seconds)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def _call(self, coroutine: Any) -> Any:
        return run_on(self._loop, coroutine)

    async def _start(self) -> None:
        spec = self._spec
        reporting = asyncio.create_task(self._report_forever())
        await self._report_first()
        try:
            self._engine = self._load_engine()
        except EngineStartError as error:
            await self._end_unless_first(error)
            raise
        guideline = parse_guideline(spec.guideline, spec.by_section)
        self._asker = UnitAsker(
            self._engine,
            spec.prompt,
            spec.template,
            guideline,
            spec.scale,
            max_output_tokens=spec.decider.sampling.max_tokens,
            thinks=spec.thinking.format != "none",
            tell=spec.decider.tell,
        )
        self._sampler = DrawSampler(self._engine, spec.thinking, spec.decider)
        self._scheduler = DrawScheduler(
            spec.engine.slots + spec.engine.slots // QUEUED_SHARE, self._sample, self._may_begin
        )
        # While the engine was loaded nothing could be heard.
        self._heard_at = self._loop.time()
        self._report.state = "running"
        watching = give_up_when_silent(
            self._engine,
            spec.engine.silent_s,
            lambda: (self._scheduler.in_flight - self._num_telling, self._done.num_draws),
            self._scheduler.fail,
        )
        self._tasks = [reporting, asyncio.create_task(self._commit_forever()), asyncio.create_task(watching)]
        # Others that could not start ask whether one could.
        await self._report_last()

    def _load_engine(self) -> Engine:
        spec, max_tokens = self._spec, self._spec.decider.sampling.max_tokens
        engine = load_thinking_engine(
            spec.model, spec.engine, spec.endpoint, spec.thinking, spec.prompt.chat_template_args
        )
        check_room(engine, max_tokens, f"max_tokens {max_tokens} (in [sampling], for rate_items in [decoding])")
        return engine

    async def _end_unless_first(self, error: EngineStartError) -> None:
        """End the process where engines of this run have started: Ray starts it anew, perhaps on a better machine.

        To Ray Data an error in the start of one worker would be the end of all. How long to wait for others is the
        control's to say: it knows who may still be loading a large model.
        """
        self._report.failed_start = str(error)[:1000]
        while (decision := await self._ask_after_failed_start()) == "wait":
            await asyncio.sleep(REPORT_EVERY_S)
        if decision == "fail":
            return
        await asyncio.sleep(START_AGAIN_AFTER_S)
        self._exit(NOT_STARTED_STATUS)

    async def _ask_after_failed_start(self) -> str:
        try:
            return (await self._send_report()).after_failed_start
        except TimeoutError:
            return "wait"

    async def _work_on(self, number: int, num_units: int) -> ShardEnd:
        self._num_calls += 1
        try:
            return ShardEnd(await self._run_shard(number, num_units))
        except ShardBrokenError as error:
            # To Ray Data an error would be the end of all shards.
            return ShardEnd(0, str(error))
        finally:
            self._num_calls -= 1

    async def _run_shard(self, number: int, num_units: int) -> int:
        """Decide the first `num_units` units of a shard; returns how many have a final outcome now."""
        if self._draining:
            return 0
        try:
            with self._scheduler.feeding():
                shard = await self._outlive_faults(self._open_shard, number)
                self._shards[number] = shard
                # Who dies of this shard must be known to have had it; and what earlier deaths say of it is heard.
                await self._report_last()
                suspects = find_suspects(shard.ledger.latest()) if shard.ledger.tables else {}
                done = [
                    self._begin(shard, unit, draws, suspects.get(unit.key))
                    async for units in self._undecided(shard, num_units)
                    for unit, draws in units
                ]
            await asyncio.gather(*(future for future in done if future is not None))
            decided = await self._close_shard(shard)
            await self._report_last()
            return decided
        except EngineDeadError:
            await self._die()
            raise
        except ShardFinishedError:
            if number in self._shards:
                self._shards[number].pending.clear()
            return num_units
        except FencedError as error:
            shard.pending.clear()
            await self._drain_fenced(error)
            return 0
        finally:
            left = self._shards.pop(number, None)
            if left is not None and left.pending:
                await self._commit(left)

    def _open_shard(self, number: int) -> OpenShard:
        decider = self._spec.decider
        ledger = ShardLedger(self._run, number, decider.product)
        try:
            ledger.refresh()
            return OpenShard(number, read_units(self._corpus, number, self._spec.num_buckets, decider), ledger)
        except CorruptFileError as error:
            raise ShardBrokenError(str(error)) from error

    async def _undecided(self, shard: OpenShard, num_units: int) -> AsyncIterator[list[tuple[AskedUnit, list[Draw]]]]:
        """Yield the undecided units with their earlier draws, some at a time, asked on another thread."""
        rows = [
            row for row in shard.items.slice(0, num_units).to_pylist() if not shard.ledger.is_decided(unit_key(row))
        ]
        earlier = shard.ledger.read_draws() if shard.ledger.tables else {}
        for start in range(0, len(rows), ASKED_AT_ONCE):
            if self._draining:
                return
            asked = await asyncio.to_thread(self._asker.ask, rows[start : start + ASKED_AT_ONCE])
            yield [(unit, [decode_draw(draw) for draw in earlier.get(unit.key, [])]) for unit in asked]

    def _begin(
        self, shard: OpenShard, unit: AskedUnit, draws: list[Draw], known: Suspicion | None
    ) -> asyncio.Future[None] | None:
        """Send a unit to the scheduler; a unit that can't be asked, or is not to be, is decided at once.

        `known` is what the ledger suspects it of.
        """
        decider = self._spec.decider
        sampling = UnitSampling(decider.sampling, draws)
        if unit.refused is not None or unit.skipped is not None:
            self._decided(shard, unit, decider.decide(unit, sampling))
            return None
        if unit.key in self._verdict.convicted:
            self._decided(shard, unit, convict_unit(unit, sampling, decider))
            return None
        if shard.number in self._watched:
            self._watched_units.add(unit.key)
        suspicion = self._find_suspicion(known, self._verdict.accused.pop(unit.key, None))
        if suspicion is not None and suspicion != known:
            self._decided(shard, unit, mark_suspect(decider.decide(unit, sampling), suspicion))
        one_at_a_time = decider.sampling.mode == "sequential"
        work = UnitWork(sampling, unit, one_at_a_time=one_at_a_time, suspicion=suspicion)
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def note(future: asyncio.Future[UnitWork]) -> None:
            self._watched_units.discard(unit.key)
            failure = future.exception()
            if failure is not None:
                blamed = blame_unit(work, failure, decider, self._report.worker, self._scheduler.isolated)
                if blamed is not None:
                    self._decided(shard, work.payload, blamed)
                finished.set_exception(failure)
                return
            row = note_unit(work, decider)
            was_cleared = known is not None and work.suspicion is None
            if row["outcome"] != "undecided" or row["draws"] or was_cleared:
                self._decided(shard, work.payload, row)
            finished.set_result(None)

        self._scheduler.submit(work).add_done_callback(note)
        return finished

    def _find_suspicion(self, *of: Suspicion | None) -> Suspicion | None:
        """Choose what a unit must be alone for: the most draws, of deaths that nothing explains yet."""
        left = (own for own in of if own is not None and own.death not in self._verdict.explained)
        return max(left, key=lambda own: own.num_draws, default=None)

    def _may_begin(self, work: UnitWork) -> bool:
        """Whether a unit's level still wants traces; asked before its first draw."""
        if not self._quota.is_full(_level_of(work.payload)):
            return True
        work.payload = replace(work.payload, skipped="over_quota")
        return False

    def _decided(self, shard: OpenShard, unit: AskedUnit, row: dict[str, Any]) -> None:
        level = _level_of(unit)
        shard.pending.append(Decided(level, row))
        if row["outcome"] == "accepted":
            self._quota.note_accepted(level)
        if row["outcome"] != "undecided":
            self._done.outcomes[row["outcome"]] += 1
            if row["error"]:
                count_error(self._done.errors, name_error(row["outcome"], row["error"]))

    async def _sample(self, work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        try:
            async with self._recording(work, index):
                draw = await self._sampler.sample(work.payload, index, may_be_cancelled)
        except PromptRefusedError as error:
            work.payload = replace(work.payload, refused=str(error))
            work.sampling.refuse()
            draw = Draw(index, 0, "failed", error=str(error))
        self._done.num_draws += 1
        self._done.prompt_tokens += draw.prompt_tokens
        self._done.output_tokens += draw.output_tokens
        return draw

    @asynccontextmanager
    async def _recording(self, work: UnitWork, index: int) -> AsyncIterator[None]:
        """Say where this process's end does not hide it that a draw is in flight."""
        draw = (work.payload.key, index)
        try:
            if work.payload.key in self._watched_units:
                self._report.flights[draw] = work.suspicion
                await self._tell_flights()
            if self._recorder is not None:
                self._recorder.begin(*draw, work.suspicion)
            yield
        finally:
            if self._recorder is not None:
                self._recorder.end(*draw)
            if self._report.flights.pop(draw, None) is not None:
                # What ends this process next must not be laid to a unit that was alone, and has ended.
                await self._tell_flights()

    async def _tell_flights(self) -> None:
        """Tell the driver which watched draws are in flight; one report tells of all that changed before it."""
        self._num_changes += 1
        self._num_telling += 1
        change = self._num_changes
        try:
            async with self._telling:
                if self._num_told < change:
                    await asyncio.sleep(TELL_AFTER_S)
                    told = self._num_changes
                    await self._report_last()
                    self._num_told = told
        finally:
            self._num_telling -= 1

    async def _commit(self, shard: OpenShard) -> None:
        """Commit a shard's pending rows as a ledger part."""
        async with shard.lock:
            with self._taking_pending(shard) as rows:
                if rows:
                    await asyncio.to_thread(self._write, shard, rows)
                    self._count_levels(rows)

    @contextmanager
    def _taking_pending(self, shard: OpenShard) -> Iterator[list[Decided]]:
        """Take a shard's pending rows; they are pending again if the block fails."""
        rows, shard.pending = shard.pending, []
        try:
            yield rows
        except BaseException:
            shard.pending = rows + shard.pending
            raise

    def _write(self, shard: OpenShard, rows: Sequence[Decided]) -> None:
        self._fence.check()
        shard.ledger.commit(self._tabulate(rows))

    def _count_levels(self, rows: Sequence[Decided]) -> None:
        """Count what was committed; on the loop, where the counts are reported."""
        decided = (own for own in rows if own.row["outcome"] != "undecided")
        self._done.levels.update(name_level(own.level, own.row["outcome"]) for own in decided)

    async def _close_shard(self, shard: OpenShard) -> int:
        """Publish a shard; returns how many of its units have a final outcome."""
        async with shard.lock:
            with self._taking_pending(shard) as rows:
                num_decided = await self._outlive_faults(self._publish, shard, rows)
                self._count_levels(rows)
                return num_decided

    async def _outlive_faults(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do what asks the store on another thread, as often as a commit is tried."""
        for _ in range(COMMIT_TRIES - 1):
            try:
                return await asyncio.to_thread(work, *arguments)
            except StoreError:
                await asyncio.sleep(min(5.0, self._spec.commit_every_s))
        return await asyncio.to_thread(work, *arguments)

    def _tabulate(self, rows: Sequence[Decided]) -> pa.Table:
        return tabulate_rows([own.row for own in rows], self._spec.decider.product.decisions)

    def _publish(self, shard: OpenShard, rows: Sequence[Decided]) -> int:
        self._fence.check()
        tally = shard.ledger.publish(shard.items, self._tabulate(rows))
        return sum(count for outcome, count in tally.outcomes().items() if outcome in FINAL_OUTCOMES)

    async def _commit_forever(self) -> None:
        failures = 0
        while True:
            waited = 0.0
            # What failed is tried again at once: a full disk is told within seconds. A store that stays away takes some
            # two minutes, since each try waits for it by itself (s3_retries.py).
            while not failures and waited < self._commit_every_s and self._num_pending() < MAX_PENDING_ROWS:
                await asyncio.sleep(min(0.5, self._commit_every_s))
                waited += 0.5
            try:
                for shard in list(self._shards.values()):
                    await self._commit_unless_finished(shard)
                # Of a worker that dies the driver counts what it knows to be committed.
                await self._report_last()
                failures = 0
            except FencedError as error:
                await self._drain_fenced(error)
            except Exception as error:  # noqa: BLE001 - a store that fails again and again ends all units with its error
                failures += 1
                if failures == COMMIT_TRIES:
                    self._scheduler.fail(error)
                await asyncio.sleep(min(5.0, self._spec.commit_every_s))

    async def _commit_unless_finished(self, shard: OpenShard) -> None:
        try:
            await self._commit(shard)
        except ShardFinishedError:
            shard.pending.clear()

    def _num_pending(self) -> int:
        return sum(len(shard.pending) for shard in self._shards.values())

    async def _report_forever(self) -> None:
        """Tell the driver the counts; drain when it asks, or when it has been out of reach for a minute."""
        while True:
            await asyncio.sleep(self._report_in_s)
            await self._report_last()
            if self._draining or self._report.state != "running":
                continue
            if self._loop.time() - self._heard_at > DRIVER_SILENT_S:
                # The driver may live, cut off from this node alone: then its shards go to others.
                self._begin_leaving(self._spec.drain_s + LEAVING_RESERVE_S)
            elif self._told_to_drain:
                self._begin_drain()

    async def _send_report(self) -> Orders:
        """Tell the counts; returns the answer. Raises TimeoutError where none comes in time, and the link's errors."""
        if self._report.state != "starting":
            self._done.engine_s = self._scheduler.busy_s
            self._report.draws_in_flight = self._scheduler.in_flight
            self._report.shards = tuple(self._shards)
            self._report.known_watched = frozenset(self._watched)
        asking = asyncio.ensure_future(self._link.report(self._report))
        # Of a driver that is only slow a late answer counts, too.
        asking.add_done_callback(self._hear)
        return await asyncio.wait_for(asyncio.shield(asking), ANSWER_WITHIN_S)

    def _hear(self, asking: asyncio.Future[Orders]) -> None:
        """Hear what others have accepted, and whether to drain."""
        if asking.cancelled() or asking.exception() is not None:
            return
        orders = asking.result()
        self._heard_at = self._loop.time()
        self._told_to_drain = orders.drain
        self._quota.hear(orders.accepted_elsewhere)
        self._report_in_s = orders.report_in_s
        self._hear_of_deaths(orders.watched)

    def _hear_of_deaths(self, watched: Mapping[int, list[Crash]]) -> None:
        """Hear what deaths that left nothing on this node say of the units of a shard, once for each shard."""
        for number in watched.keys() - self._watched:
            self._watched.add(number)
            self._verdict.join(judge_crashes(watched[number]))

    async def _report_first(self) -> None:
        """Report until there is an answer: a quota must know, before any unit begins, what others have accepted."""
        while True:
            with suppress(TimeoutError):
                await self._send_report()
                return

    async def _drain_fenced(self, error: FencedError) -> None:
        """Drain, since a newer driver has taken over, and let this one know."""
        self._begin_drain()
        try:
            await asyncio.wait_for(self._link.report_fenced(str(error)), ANSWER_WITHIN_S)
        except Exception:  # noqa: BLE001 - a driver that can't be told finds out by itself, before it writes its manifest
            return

    async def _report_last(self) -> None:
        """Tell the counts ahead of time: the process may end before the next report."""
        try:
            await self._send_report()
        except Exception:  # noqa: BLE001 - whether the driver is gone is for _report_forever to find out
            return

    @property
    def evidence(self) -> Path | None:
        """Where it is written why this process had to be ended."""
        return None if self._recorder is None else self._recorder.evidence

    def _begin_leaving(self, seconds: float) -> None:
        """Give everything back in time; what is decided is committed at once, and from then on as it comes.

        Clouds may end a machine earlier than they said.
        """
        self._leaving = self._report.says_why = True
        self._commit_every_s = LEAVING_COMMIT_EVERY_S
        self._begin_drain(max(0.0, min(self._spec.drain_s, seconds - LEAVING_RESERVE_S)))
        self._tasks.append(asyncio.create_task(self._end_when_idle()))

    async def _end_when_idle(self) -> None:
        """End the process once its calls have returned, so that Ray starts it anew where there is a place for it."""
        idle_s = 0.0
        while idle_s < IDLE_BEFORE_LEAVING_S:
            await asyncio.sleep(0.2)
            idle_s = 0.0 if self._num_calls else idle_s + 0.2
        await self._report_last()
        self._exit(LEFT_STATUS)

    def _begin_drain(self, drain_s: float | None = None) -> None:
        """Start no further draws, give those in flight a while, then cancel them.

        While it drains, only a time of its own, of a machine that is to go, can make it shorter.
        """
        if self._draining and drain_s is None:
            return
        self._draining = True
        self._report.state = "draining"
        self._scheduler.stop()
        self._loop.call_later(self._spec.drain_s if drain_s is None else drain_s, self._scheduler.cancel_draws)

    async def _die(self) -> None:
        """Commit what is decided and end the process: Ray starts a new one and replays the shards."""
        try:
            for shard in list(self._shards.values()):
                await self._commit_unless_finished(shard)
            self._report.says_why = True
            await self._report_last()
        finally:
            self._exit(ENGINE_DIED_STATUS)

    def _exit(self, status: int) -> NoReturn:
        """End the process, for Ray to start it anew; what was in flight is told of otherwise."""
        if self._recorder is not None:
            self._recorder.close()
        os._exit(status)


def _level_of(unit: AskedUnit) -> str:
    return name_level(unit.key[1], unit.accepted_labels[0] if unit.accepted_labels else "")
