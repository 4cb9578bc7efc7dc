"""What the driver of refine_guideline keeps an eye on while engines work: counts, budgets, signals, newer drivers.

Nothing that must last is kept here. `look` is called several times a second by whoever waits for engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from judgetrace.accounting import count_error, name_error
from judgetrace.console import say
from judgetrace.control import WorkCounts
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.limits import LimitsConfig, RunLimits, StopReason
from judgetrace.live import format_seconds
from judgetrace.run_folder import Fence, FencedError, RunFolder
from judgetrace.stop_signals import taking_stop_signals

STATE_EVERY_S = 10.0
LINE_EVERY_S = 10.0


class StoppedEarlyError(RuntimeError):
    """The run ends before it is complete; the same command goes on."""

    def __init__(self, message: str, is_planned: bool = False):
        """`is_planned` as in limits.StopReason."""
        super().__init__(message)
        self.is_planned = is_planned


class DriverWatch:
    """Counts what each pool of engines has done in this call, and finds out when to stop."""

    def __init__(
        self,
        run: RunFolder,
        driver: int,
        limits: LimitsConfig,
        endpoints: Mapping[str, EndpointConfig | None],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begin; `endpoints` has the name of every model that is asked, with the endpoint that has its prices."""
        self._run, self._driver, self._limits, self._clock = run, driver, limits, clock
        self._fence = Fence(run, driver)
        self._endpoints = dict(endpoints)
        self.counts = {name: WorkCounts() for name in endpoints}
        self._engine_s: dict[tuple[str, str], float] = {}
        self._began, self._wrote_at, self._said_at = clock(), float("-inf"), float("-inf")
        self.stage = "starting"
        """What is going on, for a person."""
        self.progress = (0, 0)
        """Done and wanted of the stage."""
        self.stop_reason: StopReason | None = None

    @property
    def total(self) -> WorkCounts:
        """What all pools have done."""
        return sum(self.counts.values(), WorkCounts())

    @property
    def seconds(self) -> float:
        """Seconds since the call began."""
        return self._clock() - self._began

    def begin(self, stage: str, wanted: int) -> None:
        """Say what is going on now, and how many calls it takes."""
        self.stage, self.progress = stage, (0, wanted)

    def note(self, pool: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows that a pool has made; each has outcome, error, prompt_tokens, output_tokens."""
        counts = self.counts[pool]
        for row in rows:
            counts.outcomes[row["outcome"]] += 1
            counts.num_draws += 1
            counts.prompt_tokens += row["prompt_tokens"] or 0
            counts.output_tokens += row["output_tokens"] or 0
            if row["error"]:
                count_error(counts.errors, name_error(row["outcome"], row["error"]))
            self.progress = (self.progress[0] + 1, self.progress[1])

    def note_embedded(self, embedder: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the prompt_tokens of sentences that were embedded. They are no calls, of which too many may fail."""
        self.counts[embedder].prompt_tokens += sum(row["prompt_tokens"] for row in rows)

    def note_engine(self, pool: str, worker: str, busy_s: float) -> None:
        """Note how long a worker's engine has been busy since its start."""
        known = self._engine_s.get((pool, worker), 0.0)
        self._engine_s[pool, worker] = max(known, busy_s)
        self.counts[pool].engine_s += max(0.0, busy_s - known)

    def cost(self) -> float:
        """Compute what this call's tokens cost at the endpoints' prices."""
        return sum(
            endpoint.cost(self.counts[name].prompt_tokens, self.counts[name].output_tokens)
            for name, endpoint in self._endpoints.items()
            if endpoint is not None
        )

    def should_stop(self) -> bool:
        """Whether a reason to stop has been found. May be called from any thread."""
        return self.stop_reason is not None

    def look(self) -> bool:
        """Look for reasons to stop, and tell how the run stands; returns whether to stop."""
        if self.stop_reason is None:
            self.stop_reason = self._find_reason()
        self.say()
        return self.should_stop()

    def _find_reason(self) -> StopReason | None:
        try:
            self._fence.check()
        except FencedError as error:
            return StopReason(str(error), is_planned=True)
        total = self.total
        # A guideline that is too long for a rater is that candidate's fault, and shows in its score.
        del total.outcomes["quarantined"]
        reason = RunLimits(self._limits).find_reason(total, self.seconds)
        if reason is None and self._limits.max_cost is not None and self.cost() >= self._limits.max_cost:
            return StopReason(f"limits.max_cost reached ({self.cost():.2f})", is_planned=True)
        return reason

    def check(self) -> None:
        """Raise StoppedEarlyError where there is a reason to stop."""
        if self.look():
            assert self.stop_reason is not None
            raise StoppedEarlyError(self.stop_reason.text, self.stop_reason.is_planned)

    def say(self) -> None:
        """Tell people and `jobs.status` how the run stands, now and then."""
        now = self._clock()
        if now - self._wrote_at >= STATE_EVERY_S:
            self.write_state("running" if self.stop_reason is None else "stopping")
        if now - self._said_at >= LINE_EVERY_S:
            say(self.describe())
            self._said_at = now

    def describe(self) -> str:
        """Write how the run stands as a line."""
        total, (done, wanted) = self.total, self.progress
        tokens = f"{total.output_tokens:,} tokens sampled in this call ({format_seconds(self.seconds)})"
        return f"{self.stage}: {done:,} of {wanted:,}; {tokens}"

    def write_state(self, state: str) -> None:
        """Write the driver's latest word for `jobs.status`."""
        done, wanted = self.progress
        self._wrote_at = self._clock()
        self._run.write_state(
            self._driver,
            {
                "state": state,
                "at": time.time(),
                "seconds": self.seconds,
                "stage": self.stage,
                "done": done,
                "wanted": wanted,
                **vars(self.total),
            },
        )

    def signals(self) -> AbstractContextManager[None]:
        """Let SIGTERM and Ctrl-C end the run as a budget does; a second Ctrl-C ends it at once."""

        def stop(reason: str) -> None:
            self.stop_reason = StopReason(reason)

        return taking_stop_signals(self.should_stop, stop)
