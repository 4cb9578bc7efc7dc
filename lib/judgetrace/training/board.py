"""How training stands, from its first worker to the driver's terminal. Nothing that must last is kept here."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from judgetrace.live import format_seconds
from judgetrace.session import StageWatch
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.progress import MIN_COVERAGE, read_coverage
from judgetrace.training.standing import Fault

SHOW_EVERY_S = 15.0
QUIET_S = 120.0


class Board:
    """Holds rows of progress.METRICS until the driver fetches them; a Ray actor that needs no CPU."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._fault: Fault | None = None

    def note(self, row: dict[str, Any]) -> None:
        """Take a row."""
        self._rows.append(row)

    def fetch(self) -> list[dict[str, Any]]:
        """Hand over the rows that came since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def note_fault(self, fault: Fault) -> None:
        """Take what trying again would not mend: the run folder may be on the disk that is full."""
        self._fault = fault

    def fetch_fault(self) -> Fault | None:
        """Tell the fault; None where there was none."""
        return self._fault


def tell_fault(board: Any, fault: Fault) -> None:
    """Note a fault on a board; None stands for a board that nobody watches."""
    import ray

    if board is not None:
        with suppress(ray.exceptions.RayActorError):
            ray.get(board.note_fault.remote(fault))


def ask_fault(board: Any) -> Fault | None:
    """Ask a board for a fault; None where there was none, or the board is gone."""
    import ray

    if board is None:
        return None
    try:
        fault: Fault | None = ray.get(board.fetch_fault.remote())
    except ray.exceptions.RayActorError:
        return None
    return fault


@contextmanager
def watch_board(
    console: Console, config: TrainRaterConfig, num_steps: int, needs: Mapping[str, float]
) -> Iterator[Any]:
    """Make a board, and show what is noted on it while the block runs; says so when nothing is for a while.

    `needs` are the Ray resources of a worker.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver: it must not go with a lost node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    stop = threading.Event()

    def watch() -> None:
        shown_at, has_warned = float("-inf"), False
        while not stop.wait(1.0):
            try:
                rows = ray.get(board.fetch.remote(), timeout=30)
            except Exception:  # noqa: BLE001 - a board that can't be reached is no reason to end a run
                continue
            if rows:
                stage.rename(f"train_rater (after step {rows[-1]['step']:,}: a step, a validation, or a wait for room)")
                stage.progress()
            due = time.monotonic() - shown_at >= SHOW_EVERY_S
            # A validated step is noted twice, the second time with what validation found.
            for row in {row["step"]: row for row in rows}.values():
                if row["validation"] is not None or (due and row is rows[-1]):
                    console.print(describe_row(row, num_steps), highlight=False, soft_wrap=True)
                    shown_at = time.monotonic()
                warning = None if has_warned or row["validation"] is None else warn_of_cuts(row["validation"], config)
                if warning is not None:
                    console.print(warning, highlight=False, markup=False, soft_wrap=True)
                    has_warned = True

    stage = StageWatch("train_rater (workers start, validate, or wait for room or examples)", needs, math.inf, QUIET_S)
    thread = threading.Thread(target=watch, name="training-board", daemon=True)
    thread.start()
    try:
        with stage:
            yield board
    finally:
        stop.set()
        thread.join(timeout=40)
        ray.kill(board)


def describe_row(row: dict[str, Any], num_steps: int) -> str:
    """Write a row as a line."""
    line = f"step {row['step']:,}/{num_steps:,}"
    if row["loss"] is not None:
        left = format_seconds(row["seconds"] * (num_steps - row["step"]))
        rate = row["num_tokens"] / max(row["seconds"], 1e-9)
        line += f"  loss {row['loss']:.3f}  {row['seconds']:.1f} s  {rate:,.0f} tokens/s  about {left} left"
    if row["validation"] is not None:
        line += describe_validation(row["validation"])
    return line


def describe_validation(metrics: Mapping[str, float | None]) -> str:
    """Write what validation found (validation.measure_ratings), a line for each way to read the rating."""
    lines = ""
    for kind in ("sampled", "expected"):
        own = {name.removeprefix(f"{kind}_"): value for name, value in metrics.items() if name.startswith(kind)}
        if own:
            shown = "  ".join(f"{name} {'undefined' if v is None else format(v, '.3f')}" for name, v in own.items())
            lines += f"\n  validation, {kind} rating: {shown}"
    return lines


def warn_of_cuts(metrics: Mapping[str, float | None], config: TrainRaterConfig) -> str | None:
    """Warn of a validation that cut answers and left most items without the rating that is scored; None of others.

    A rater that does not think is cut by what its levels take, which no setting changes.
    """
    coverage = read_coverage(metrics, config.validation.rating)
    truncated = metrics.get("truncated")
    if not config.thinks or not truncated or coverage is None or coverage >= MIN_COVERAGE:
        return None
    return (
        f"Warning: {coverage:.0%} of the validation items have a rating; {truncated:.0%} of the answers were cut at "
        f"validation.max_new_tokens = {config.validation.max_new_tokens}. So few ratings choose checkpoints badly: "
        "raise it, in another run folder."
    )
