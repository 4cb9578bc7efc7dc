"""Let SIGTERM and Ctrl-C end a run with its message: in order, as a budget does, or at once. Knows no run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from judgetrace.config import make_early_error

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RECEIVED = "received"
"""Ends the first line of what is said of a run that a signal ended."""


@contextmanager
def keeping_handlers(own: Callable[[int, Any], None] | None = None) -> Iterator[bool]:
    """Let `own` take the signals in the block, and put back after it what took them before; yields whether it did.

    Outside of the main thread Python takes no signals, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS if own else ():
            signal.signal(number, own)
        yield True
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once(advice: str) -> Iterator[None]:
    """Raise the error of a run that goes on later (exit status 3) where a signal comes, whoever takes it in the block.

    Handlers of others end the process with a status of their own (Ray's SIGTERM, Ray Train's Ctrl-C: 0). Does nothing
    outside of the main thread.
    """
    came: list[str] = []

    def end(number: int, _: Any) -> None:
        came.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    with keeping_handlers(end) as takes:
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if not takes:
                raise
            raise make_early_error(f"{came[0] if came else 'SIGINT'} {RECEIVED}\n{advice}") from error


@contextmanager
def taking_stop_signals(is_stopping: Callable[[], bool], stop: Callable[[str], None]) -> Iterator[None]:
    """Tell `stop` the reason when a signal comes, unless the run stops already; a second Ctrl-C ends it at once.

    Does nothing outside of the main thread, where Python takes no signals.
    """

    def note(number: int, _: Any) -> None:
        if not is_stopping():
            stop(f"{signal.Signals(number).name} {RECEIVED}")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    with keeping_handlers(note):
        yield
