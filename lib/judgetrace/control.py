"""What the driver and its workers tell each other while a run goes on: counts upward, the wish to stop downward.

Plain classes; the job makes `RunControl` a Ray actor that needs no CPU. Nothing that must last is kept here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from judgetrace.accounting import Tally, merge_errors
from judgetrace.flight_recorder import Crash
from judgetrace.scheduler import Suspicion
from judgetrace.schema import UnitKey
from judgetrace.shard_deaths import ShardDeaths

ALIVE_S = {"starting": 1800.0, "running": 15.0, "draining": 15.0}
"""A worker that has said nothing for so long is not counted any more; what it committed counts on. While it loads its
engine it can say nothing."""

REPORT_EVERY_S = 1.0
"""How often a worker reports, where there are few."""
REPORT_AT_LEAST_EVERY_S = 5.0
REPORTS_PER_S = 32
"""Of all workers together, where they are many."""
REPORT_MS = 2.0
"""What a report takes of the control's process, measured with 16 workers on two cores."""


def choose_report_interval(num_workers: int) -> float:
    """Choose how many seconds lie between two reports of a worker, where there are so many."""
    return min(max(REPORT_EVERY_S, num_workers / REPORTS_PER_S), REPORT_AT_LEAST_EVERY_S)


@dataclass
class WorkCounts:
    """What was done in one call of a job. Every field is a sum."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    num_draws: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    engine_s: float = 0.0
    levels: Counter[str] = field(default_factory=Counter)
    """Units committed by dimension, target label and outcome, keyed as accounting.Tally.units. They lag behind
    `outcomes` by a commit."""

    def __add__(self, other: WorkCounts) -> WorkCounts:
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "errors"}
        errors = self.errors.copy()
        merge_errors(errors, other.errors)
        return WorkCounts(**total, errors=errors)

    @property
    def num_units(self) -> int:
        """Units with a terminal outcome."""
        return sum(self.outcomes.values())


@dataclass
class WorkerReport:
    """What one worker has done since it started."""

    worker: str
    state: str
    """starting, running, draining."""
    done: WorkCounts = field(default_factory=WorkCounts)
    draws_in_flight: int = 0
    is_restart: bool = False
    """Whether it took the place of a worker that died."""
    node: str = ""
    """Ray's id of its node."""
    actor: str = ""
    """Ray's id of its actor, which the worker that replaces a dead one has, too."""
    failed_start: str = ""
    """Why its engine could not start."""
    shards: tuple[int, ...] = ()
    """What it works on."""
    flights: dict[tuple[UnitKey, int], Suspicion | None] = field(default_factory=dict)
    """Draws in flight of units whose shard is watched (shard_deaths.py)."""
    known_watched: frozenset[int] = frozenset()
    """Shards of which it has heard that they are watched."""
    says_why: bool = False
    """Whether its end is explained: the ledger says why, or its machine is to go."""

    @property
    def engine(self) -> str:
        """Whose place in the pool it has."""
        return self.actor or self.worker


@dataclass
class Orders:
    """What a worker hears back."""

    drain: bool = False
    accepted_elsewhere: dict[str, int] = field(default_factory=dict)
    """Accepted units by level (accounting.name_level) that others committed: other workers, earlier calls, earlier
    runs. Empty where no quota asks for it."""
    after_failed_start: Literal["fail", "wait", "again"] = "fail"
    """To a worker whose engine could not start: raise its error, ask again, or end, so that Ray starts it anew."""
    report_in_s: float = REPORT_EVERY_S
    """Until the next report."""
    watched: dict[int, list[Crash]] = field(default_factory=dict)
    """Of the worker's shards those that are watched (shard_deaths.py), where it has not heard so yet, with what earlier
    deaths say of their units."""


@dataclass
class RunSnapshot:
    """The sum of all workers' reports."""

    states: Counter[str] = field(default_factory=Counter)
    done: WorkCounts = field(default_factory=WorkCounts)
    draws_in_flight: int = 0
    num_restarts: int = 0
    num_engines: int = 0
    """Engines that have drawn; one that was replaced counts once."""
    starts_in_row: int = 0
    """Workers that took a dead one's place since an engine was last up."""
    failed_start: str = ""
    """Why an engine could not start, the last time that one could not."""
    cannot_start: bool = False
    """Whether no engine runs, and too many workers in a row ended before one did."""
    fenced: str | None = None
    num_broken: int = 0
    """Shards that can't be read; the driver counts them."""


class RunControl:
    """Adds up the workers' reports, and tells them when to drain."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        accepted_before: Mapping[str, int] | None = None,
        max_starts: int = 30,
        start_s: float = 0.0,
    ) -> None:
        """`accepted_before` is what was accepted of each level before this call; None where nobody has to know.

        While no engine runs, so many workers in a row may fail to start one. A start may take `start_s`, where that is
        longer than a worker that starts may be silent anyhow.
        """
        self._alive_s = ALIVE_S | {"starting": max(ALIVE_S["starting"], start_s)}
        self._clock, self._max_starts = clock, max_starts
        self._has_run, self._starts_in_row, self._failed_start = False, 0, ""
        self._reports: dict[str, WorkerReport] = {}
        self._accepted: dict[str, Counter[str]] = {}
        self._all_accepted = None if accepted_before is None else Counter(accepted_before)
        self._heard_at: dict[str, float] = {}
        self._newest: dict[str, str] = {}
        """The worker that each engine has now: those before it are dead."""
        self._deaths = ShardDeaths()
        self._drain = False
        self._fenced: str | None = None

    def report(self, report: WorkerReport) -> Orders:
        """Take a worker's latest report; returns what it should do and know."""
        self._note_start(self._reports.get(report.worker), report)
        self._note_death(report)
        self._deaths.hear(report.worker, report.flights, self._clock())
        self._reports[report.worker] = report
        self._heard_at[report.worker] = self._clock()
        self._newest[report.engine] = report.worker
        elsewhere = {} if self._all_accepted is None else self._count_elsewhere(report)
        on_start = self._decide_on_start() if report.failed_start else "fail"
        watched = self._deaths.tell(set(report.shards) - report.known_watched)
        return Orders(self._drain, elsewhere, on_start, choose_report_interval(len(self._newest)), watched)

    def _note_death(self, report: WorkerReport) -> None:
        """Note the death of the worker whose place a new one has taken."""
        worker = self._newest.get(report.engine, report.worker)
        last = self._reports.get(worker)
        if last is not None and report.worker not in self._reports and not last.says_why:
            self._deaths.note_death(worker, last.shards, last.flights, self._heard_at[worker])

    def _note_start(self, before: WorkerReport | None, report: WorkerReport) -> None:
        if report.state == "starting":
            self._starts_in_row += before is None and report.is_restart
            self._failed_start = report.failed_start or self._failed_start
        elif before is None or before.state == "starting":
            self._has_run, self._starts_in_row = True, 0

    def _decide_on_start(self) -> Literal["fail", "wait", "again"]:
        """Decide what a worker does whose engine could not start.

        Where others run it is the machine, and they go on without it; where none ever could it is the config. While
        others still start nobody knows.
        """
        heard = [report for report in self._reports.values() if self._is_heard(report)]
        if any(report.state == "running" for report in heard):
            return "again"
        if self._has_run:
            return "again" if self._starts_in_row < self._max_starts else "fail"
        return "wait" if any(report.state == "starting" and not report.failed_start for report in heard) else "fail"

    def _is_heard(self, report: WorkerReport) -> bool:
        if self._newest[report.engine] != report.worker:
            return False
        return self._clock() - self._heard_at[report.worker] < self._alive_s[report.state]

    def _count_elsewhere(self, report: WorkerReport) -> dict[str, int]:
        """Count what others accepted. The sum of all is kept by what has changed: every worker asks often."""
        assert self._all_accepted is not None
        accepted = Tally(units=report.done.levels).count_accepted()
        self._all_accepted.update(accepted)
        self._all_accepted.subtract(self._accepted.get(report.worker, {}))
        self._accepted[report.worker] = accepted
        return dict(self._all_accepted - accepted)

    def report_fenced(self, message: str) -> None:
        """Note that a newer driver has taken the run over: everyone drains."""
        self._fenced, self._drain = message, True

    def drain(self) -> None:
        """Ask all workers to drain."""
        self._drain = True

    def snapshot(self, nodes: Collection[str] | None = None) -> RunSnapshot:
        """Add up the latest report of every worker, those of workers that died included.

        Of `nodes`, the living ones, where they are known, come the workers that still count as there. Of others only
        committed units count: what else they had decided is decided again.
        """
        total = RunSnapshot(fenced=self._fenced, starts_in_row=self._starts_in_row, failed_start=self._failed_start)
        for report in self._reports.values():
            is_gone = nodes is not None and report.node not in nodes
            if not is_gone and self._is_heard(report):
                total.states[report.state] += 1
                total.draws_in_flight += report.draws_in_flight
                total.done += report.done
            else:
                total.done += replace(report.done, outcomes=Tally(units=report.done.levels).outcomes())
            total.num_restarts += report.is_restart
        total.num_engines = len({report.engine for report in self._reports.values() if report.done.num_draws})
        total.cannot_start = self._starts_in_row > self._max_starts and not total.states["running"]
        return total
