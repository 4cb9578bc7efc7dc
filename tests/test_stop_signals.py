from __future__ import annotations

import signal
import threading

import pytest

from judgetrace.stop_signals import taking_stop_signals


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
