"""What the driver and its workers tell each other while a run goes on: counts upward, the wish to stop downward.

Plain classes; the job makes `RunControl` a Ray actor that needs no CPU. Nothing that must last is kept here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace

from judgetrace.accounting import Tally, merge_errors

ALIVE_S = {"starting": 1800.0, "running": 15.0, "draining": 15.0}
"""A worker that has said nothing for so long is not counted any more; what it committed counts on. While it loads its
engine it can say nothing."""


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


@dataclass
class Orders:
    """What a worker hears back."""

    drain: bool = False
    accepted_elsewhere: dict[str, int] = field(default_factory=dict)
    """Accepted units by level (accounting.name_level) that others committed: other workers, earlier calls, earlier
    runs. Empty where no quota asks for it."""


@dataclass
class RunSnapshot:
    """The sum of all workers' reports."""

    states: Counter[str] = field(default_factory=Counter)
    done: WorkCounts = field(default_factory=WorkCounts)
    draws_in_flight: int = 0
    num_restarts: int = 0
    fenced: str | None = None


class RunControl:
    """Adds up the workers' reports, and tells them when to drain."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, accepted_before: Mapping[str, int] | None = None
    ) -> None:
        """`accepted_before` is what was accepted of each level before this call; None where nobody has to know."""
        self._clock = clock
        self._reports: dict[str, WorkerReport] = {}
        self._accepted: dict[str, Counter[str]] = {}
        self._all_accepted = None if accepted_before is None else Counter(accepted_before)
        self._heard_at: dict[str, float] = {}
        self._drain = False
        self._fenced: str | None = None

    def report(self, report: WorkerReport) -> Orders:
        """Take a worker's latest report; returns what it should do and know."""
        self._reports[report.worker] = report
        self._heard_at[report.worker] = self._clock()
        return Orders(self._drain, {} if self._all_accepted is None else self._count_elsewhere(report))

    def _count_elsewhere(self, report: WorkerReport) -> dict[str, int]:
        """Count what others accepted. The sum of all is kept by what has changed: every worker asks every second."""
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
        total = RunSnapshot(fenced=self._fenced)
        for worker, report in self._reports.items():
            is_gone = nodes is not None and report.node not in nodes
            if not is_gone and self._clock() - self._heard_at[worker] < ALIVE_S[report.state]:
                total.states[report.state] += 1
                total.draws_in_flight += report.draws_in_flight
                total.done += report.done
            else:
                total.done += replace(report.done, outcomes=Tally(units=report.done.levels).outcomes())
            total.num_restarts += report.is_restart
        return total
