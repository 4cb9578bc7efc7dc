"""Let SIGTERM and Ctrl-C end a run as a budget does. Knows no run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def taking_stop_signals(is_stopping: Callable[[], bool], stop: Callable[[str], None]) -> Iterator[None]:
    """Tell `stop` the reason when a signal comes, unless the run stops already; a second Ctrl-C ends it at once.

    Does nothing outside of the main thread, where Python takes no signals.
    """

    def note(number: int, _: Any) -> None:
        if not is_stopping():
            stop(f"{signal.Signals(number).name} received")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
