"""When an engine counts as silent. Times are the test's own."""

import pytest

from judgetrace.watchdog import FIRST_SIGN_S, LOOK_EVERY_S, SilenceClock


def look_for(clock: SilenceClock, start: float, seconds: float, num_waiting: int, signs) -> float | None:
    """Look twice a second; returns when the clock first says silent."""
    for step in range(1, int(seconds / LOOK_EVERY_S) + 1):
        now = start + step * LOOK_EVERY_S
        if clock.look(now, num_waiting, signs(now)):
            return now
    return None


def alive_clock(limit_s: float = 30.0) -> SilenceClock:
    """A clock that has seen a first sign of life, at time 0."""
    clock = SilenceClock(limit_s)
    clock.look(-LOOK_EVERY_S, 1, "nothing yet")
    assert not clock.look(0.0, 1, "a token")
    return clock


def test_silence_is_noticed_within_its_limit_and_not_much_before():
    noticed = look_for(alive_clock(), 0, 60, 1, lambda now: "a token")
    assert 29 <= noticed <= 30


def test_a_token_now_and_then_is_life():
    assert look_for(alive_clock(), 0, 600, 64, lambda now: now // 29) is None


def test_an_engine_that_nobody_asks_anything_may_be_silent():
    clock = alive_clock()
    assert look_for(clock, 0, 600, 0, lambda now: "a token") is None
    # Its silence begins with the request.
    assert 629 <= look_for(clock, 600, 60, 1, lambda now: "a token") <= 630


def test_the_first_token_may_take_longer():
    clock = SilenceClock(30.0)
    noticed = look_for(clock, 0, 600, 64, lambda now: 0)
    assert FIRST_SIGN_S - 1 <= noticed <= FIRST_SIGN_S + 1


def test_time_in_which_this_process_stood_still_is_not_the_engines_silence():
    """A blocked loop, a suspended machine: the engine's tokens wait to be read while the clock looks first."""
    clock = alive_clock()
    assert not clock.look(500.0, 64, "a token")
    assert not clock.look(500.5, 64, "the next token")


@pytest.mark.parametrize("limit_s", [5.0, 90.0])
def test_the_limit_is_the_users(limit_s):
    assert limit_s - 1 <= look_for(alive_clock(limit_s), 0, 200, 1, lambda now: "a token") <= limit_s
