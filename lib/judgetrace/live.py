"""The live line of a job: one line that is rewritten on a terminal, a new line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque

from judgetrace.control import RunSnapshot

_WINDOW_S = 30.0


class LiveLine:
    """Shows how far a run is. `done_before` units were decided before this call, of `total`."""

    def __init__(self, total: int, done_before: int, every_s: float = 10.0):
        self._total, self._done_before, self._every_s = total, done_before, every_s
        self._is_terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._printed_at = float("-inf")
        self._history: deque[tuple[float, int, int]] = deque()

    def show(self, snapshot: RunSnapshot) -> None:
        """Show a snapshot; on anything but a terminal only every `every_s` seconds."""
        now = time.monotonic()
        self._history.append((now, snapshot.output_tokens, snapshot.num_units))
        while now - self._history[0][0] > _WINDOW_S:
            self._history.popleft()
        if self._is_terminal:
            print(f"\r\x1b[2K{self.text(snapshot)}", end="", file=sys.stderr, flush=True)
        elif now - self._printed_at >= self._every_s:
            print(self.text(snapshot), file=sys.stderr, flush=True)
            self._printed_at = now

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            print(file=sys.stderr, flush=True)

    def text(self, snapshot: RunSnapshot) -> str:
        """Write a snapshot as a line."""
        if not snapshot.num_draws:
            states = ", ".join(f"{count} {state}" for state, count in sorted(snapshot.states.items())) or "none yet"
            return f"engines: {states} ({time.monotonic() - self._began:.0f} s)"
        then, tokens, units = self._history[0]
        seconds = max(self._history[-1][0] - then, 1e-9)
        tokens_per_s = (snapshot.output_tokens - tokens) / seconds
        units_per_s = (snapshot.num_units - units) / seconds
        done = self._done_before + snapshot.num_units
        accepted = snapshot.outcomes["accepted"]
        left = f"{format_seconds((self._total - done) / units_per_s)} left" if units_per_s > 0 else "time left unknown"
        per_trace = f"{snapshot.output_tokens / accepted:.0f} tokens per accepted" if accepted else "none accepted yet"
        return (
            f"{done:,}/{self._total:,} units  {accepted:,} accepted  {tokens_per_s:,.0f} tokens/s  {per_trace}  "
            f"{snapshot.draws_in_flight} draws in flight on {sum(snapshot.states.values())} engine(s)  {left}"
        )


def format_seconds(seconds: float) -> str:
    """Write a duration for a person: '45 s', '12 min', '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
