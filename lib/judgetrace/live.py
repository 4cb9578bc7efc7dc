"""The live line of a job: one line that is rewritten on a terminal, a new line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable

from judgetrace.console import say
from judgetrace.control import RunSnapshot
from judgetrace.metrics import RunView

_WINDOW_S = 30.0


class LiveLine:
    """Shows how far a run is."""

    def __init__(self, view: RunView, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self._view, self._every_s = view, every_s
        self._is_terminal = sys.stderr.isatty()
        self._clock = clock
        self._began = clock()
        self._printed_at = float("-inf")
        self._history: deque[tuple[float, int]] = deque()
        self._drew_at: float | None = None

    def show(self, snapshot: RunSnapshot) -> None:
        """Show a snapshot; on anything but a terminal only every `every_s` seconds."""
        now = self._clock()
        if snapshot.done.num_draws and self._drew_at is None:
            self._drew_at = now
        self._history.append((now, snapshot.done.output_tokens))
        while now - self._history[0][0] > _WINDOW_S:
            self._history.popleft()
        self._print(snapshot, now)

    def _print(self, snapshot: RunSnapshot, now: float) -> None:
        if self._is_terminal:
            # A line that wraps is not taken back.
            line = self.text(snapshot)[: shutil.get_terminal_size().columns - 1]
            say(f"\r\x1b[2K{line}", end="")
        elif now - self._printed_at >= self._every_s:
            self._printed_at = now
            say(self.text(snapshot))

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            say("")

    def text(self, snapshot: RunSnapshot) -> str:
        """Write a snapshot as a line."""
        if not snapshot.done.num_draws:
            return f"engines: {describe_engines(snapshot)} ({self._clock() - self._began:.0f} s)"
        now, then, tokens = self._history[-1][0], *self._history[0]
        tokens_per_s = (snapshot.done.output_tokens - tokens) / max(now - then, 1e-9)
        figures, hit = self._view.figures(snapshot), self._view.hit
        # Over the whole call: units that are hard to decide end in bursts, which a short window takes for a trend.
        worked = now - (now if self._drew_at is None else self._drew_at)
        # What has failed is asked again by the next call.
        to_do = figures.planned - figures.decided - figures.others.get("failed", 0)
        rest = worked * to_do / max(1, snapshot.done.num_units)
        left = f"about {format_seconds(rest)} left" if worked > _WINDOW_S / 2 else "time left unknown yet"
        share = "" if figures.utilisation is None else f" ({figures.utilisation:.1%})"
        per_hit = f"none {hit} yet"
        if figures.tokens_per_accepted is not None:
            per_hit = f"{figures.tokens_per_accepted:,.0f} tokens per {hit}"
        others = [f"{count:,} {outcome}" for outcome, count in figures.others.items()]
        return "  ".join(
            [
                f"{figures.decided:,}/{figures.planned:,} units",
                ", ".join([f"{figures.accepted:,} {hit}{share}", *others]),
                left,
                f"{tokens_per_s:,.0f} tokens/s",
                per_hit,
                f"{snapshot.draws_in_flight} draws in flight, engines: {describe_engines(snapshot)}",
                *([f"{figures.restarts:,} restart(s)"] if figures.restarts else []),
                *([f"{snapshot.num_broken:,} shard(s) can't be read"] if snapshot.num_broken else []),
                f"{figures.draws:,} draws, {figures.output_tokens:,} tokens, {figures.prompt_tokens:,} of prompts",
            ]
        )


def describe_engines(snapshot: RunSnapshot) -> str:
    """Count the engines by state: '1 starting, 3 running'."""
    return ", ".join(f"{count} {state}" for state, count in sorted(snapshot.states.items())) or "none yet"


def format_seconds(seconds: float) -> str:
    """Write a duration for a person: '45 s', '12 min', '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
