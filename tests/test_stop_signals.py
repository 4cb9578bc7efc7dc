from __future__ import annotations

import signal
import threading

import pytest

from judgetrace.config import UserError
from judgetrace.stop_signals import ending_at_once, keeping_handlers, taking_stop_signals


def test_the_first_signal_is_the_reason_and_a_second_ctrl_c_ends_at_once() -> None:
    reasons: list[str] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with taking_stop_signals(lambda: bool(reasons), reasons.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert reasons == ["SIGTERM received"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_of_the_main_thread_no_signal_is_taken() -> None:
    found: list[object] = []

    def look() -> None:
        with taking_stop_signals(lambda: False, lambda _: None):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


def leave_with(status: int) -> None:
    raise SystemExit(status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("others", [None, lambda *_: leave_with(0)])
def test_a_signal_ends_the_block_with_what_goes_on_whoever_took_it(number, others) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def work() -> None:
        with ending_at_once("The same command goes on."):
            if others is not None:
                # As Ray Train does, whose handler leaves with status 0.
                signal.signal(number, others)
            signal.raise_signal(number)

    with pytest.raises(UserError, match=r" received\nThe same command goes on\.") as raised:
        work()
    assert raised.value.exit_status == 3
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_handler_that_a_block_leaves_behind_is_taken_away() -> None:
    before = signal.getsignal(signal.SIGINT)
    with keeping_handlers():
        signal.signal(signal.SIGINT, lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is before
