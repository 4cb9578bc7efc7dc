"""How many requests are in flight, and when one is tried again. On an event loop whose clock jumps."""

import asyncio
import itertools
import random
import selectors
from datetime import UTC, datetime

import pytest

from judgetrace.pacing import OutOfTriesError, Pacer, TransientError, parse_wait


class JumpingLoop(asyncio.SelectorEventLoop):
    """Waits for nothing: where it would, its clock jumps to the next timer."""

    def __init__(self):
        self.now = 0.0
        super().__init__(JumpingSelector(self))

    def time(self):
        return self.now


class JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self._jumping = loop

    def select(self, timeout=None):
        assert timeout is not None, "nothing will ever happen"
        self._jumping.now += max(0.0, timeout)
        return super().select(0)


def run(work):
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class Server:
    """Answers after a second; bears so many requests at once, refuses others in a tenth. Keeps when it was asked."""

    def __init__(self, bears=10**9, wait_s=None, latency_s=1.0):
        self.bears, self.wait_s, self.latency_s = bears, wait_s, latency_s
        self.in_flight, self.most_in_flight, self.asked = 0, 0, []

    async def ask(self, name="request"):
        self.asked.append((asyncio.get_running_loop().time(), name))
        if self.in_flight >= self.bears:
            await asyncio.sleep(0.1)
            raise TransientError("429: too many", overloaded=True, wait_s=self.wait_s)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        return name


def test_no_more_requests_are_in_flight_than_allowed_and_no_fewer():
    async def work():
        server, pacer = Server(), Pacer(4, 3)
        answers = await asyncio.gather(*(pacer.send(lambda n=n: server.ask(n)) for n in range(10)))
        # Ten requests of a second, four at once: 4 + 4 + 2.
        return answers, server.most_in_flight, asyncio.get_running_loop().time(), pacer.in_flight

    assert run(work()) == (list(range(10)), 4, 3.0, 0)


def test_a_server_that_refuses_all_halves_the_limit_once_for_all_that_were_on_their_way():
    async def work():
        server, pacer = Server(bears=0), Pacer(16, 1)
        gone = await asyncio.gather(*(pacer.send(server.ask) for _ in range(16)), return_exceptions=True)
        return pacer.limit, {type(error) for error in gone}

    assert run(work()) == (8.0, {OutOfTriesError})


def test_other_faults_leave_the_limit_alone():
    async def work():
        pacer = Pacer(16, 1)

        async def fail():
            raise TransientError("500: oops")

        with pytest.raises(OutOfTriesError, match="failed 1 times, the last time: 500: oops"):
            await pacer.send(fail)
        return pacer.limit

    assert run(work()) == 16.0


def test_the_limit_recovers_in_rounds_of_answers_by_growing_steps():
    async def work():
        server, pacer = Server(), Pacer(64, 3)
        pacer.limit = 1.0
        limits = []
        while pacer.limit < 64:
            await asyncio.gather(*(pacer.send(server.ask) for _ in range(int(pacer.limit))))
            limits.append(pacer.limit)
        return limits

    # One more after the first round, two after the second, and never more than a sixteenth of 64.
    assert run(work()) == [2, 4, 7, 11, *range(15, 64, 4), 64]


def test_an_eighth_refused_lowers_the_limit_by_a_sixteenth():
    async def work():
        pacer = Pacer(16, 1)

        async def ask(n):
            await asyncio.sleep(0.1)
            if n % 8 == 0:
                raise TransientError("503", overloaded=True)

        await asyncio.gather(*(pacer.send(lambda n=n: ask(n)) for n in range(16)), return_exceptions=True)
        return pacer.limit

    # 16 less a sixteenth, and seven eighths of a request more.
    assert run(work()) == 15.875


def test_a_server_that_refuses_one_in_ten_whatever_it_is_sent_is_still_asked_by_most():
    chance = random.Random(0)

    async def work():
        server, pacer = Server(), Pacer(16, 12)

        async def ask(n):
            if chance.random() < 0.1:
                await asyncio.sleep(1.0)
                raise TransientError("503", overloaded=True)
            return await server.ask(n)

        answers = await asyncio.gather(*(pacer.send(lambda n=n: ask(n)) for n in range(1600)))
        return answers, asyncio.get_running_loop().time()

    answers, seconds = run(work())
    assert answers == list(range(1600))
    # 1600 requests of a second in 16 slots, each tried 1.11 times: 111 s at best.
    assert seconds < 111 / 0.75


def test_a_server_that_bears_few_is_asked_by_about_so_many_and_nothing_is_lost():
    async def work():
        server, pacer = Server(bears=8), Pacer(64, 8)
        answers = await asyncio.gather(*(pacer.send(lambda n=n: server.ask(n)) for n in range(800)))
        return answers, asyncio.get_running_loop().time(), len(server.asked)

    answers, seconds, num_asked = run(work())
    assert answers == list(range(800))
    # At best 800 requests of a second, eight at once; and few are refused.
    assert 100 <= seconds < 200
    assert num_asked < 1200


def test_a_named_waiting_time_holds_for_all_and_the_longest_counts():
    async def work():
        pacer, began = Pacer(4, 3), []
        waits = iter([5.0, 20.0, 1.0])

        async def ask():
            began.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
            wait = next(waits, None)
            if wait is not None:
                raise TransientError("429", overloaded=True, wait_s=wait)

        await asyncio.gather(*(pacer.send(ask) for _ in range(9)))
        return began

    began = run(work())
    # Three were refused after a tenth of a second; the fourth was on its way as well.
    assert [moment for moment in began if moment < 20.1] == [0.0] * 4
    assert len(began) == 9 + 3


def test_a_request_that_was_refused_goes_before_those_that_came_after_it():
    async def work():
        server, pacer = Server(), Pacer(1, 3)
        failures = iter([True])

        async def first():
            if next(failures, False):
                raise TransientError("503", overloaded=True, wait_s=2.0)
            return await server.ask("first")

        await asyncio.gather(pacer.send(first), *(pacer.send(lambda n=n: server.ask(n)) for n in range(3)))
        return [name for _, name in server.asked]

    assert run(work()) == ["first", 0, 1, 2]


def test_a_request_that_waits_for_its_next_try_holds_no_room():
    async def work():
        server, pacer = Server(), Pacer(1, 3)
        failures = iter([True])

        async def first():
            if next(failures, False):
                raise TransientError("500")
            return await server.ask("first")

        await asyncio.gather(pacer.send(first), pacer.send(lambda: server.ask("second")))
        return server.asked

    # The second starts at once, while the first waits its quarter to half second, then for the room.
    assert run(work()) == [(0.0, "second"), (1.0, "first")]


def test_tries_are_bounded_and_ever_farther_apart():
    async def work():
        pacer, began = Pacer(1, 5), []

        async def fail():
            began.append(asyncio.get_running_loop().time())
            raise TransientError("503: busy", overloaded=True)

        with pytest.raises(OutOfTriesError, match="failed 5 times, the last time: 503: busy"):
            await pacer.send(fail)
        return [after - before for before, after in itertools.pairwise(began)]

    gaps = run(work())
    assert len(gaps) == 4
    assert all(0.25 * 2**n <= gap <= 0.5 * 2**n for n, gap in enumerate(gaps))


def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for_and_holds_nobody_up():
    async def work():
        server, pacer = Server(), Pacer(2, 3, longest_wait_s=60)

        async def fail():
            raise TransientError("429: come back tomorrow", overloaded=True, wait_s=86400)

        with pytest.raises(OutOfTriesError, match="asks to wait for 86400 s: 429: come back tomorrow"):
            await pacer.send(fail)
        await pacer.send(server.ask)
        return asyncio.get_running_loop().time()

    assert run(work()) == 1.0


def test_other_errors_pass_at_once_and_leave_room():
    async def work():
        pacer = Pacer(1, 3)

        async def fail():
            raise KeyError("bug")

        with pytest.raises(KeyError):
            await pacer.send(fail)
        return await pacer.send(lambda: Server().ask("next"))

    assert run(work()) == "next"


@pytest.mark.parametrize("seed", range(30))
def test_whatever_fails_or_is_cancelled_all_others_end_once_and_no_room_is_lost(seed):
    chance = random.Random(seed)

    async def work():
        server, pacer, failures = Server(bears=5, wait_s=chance.choice([None, 3.0])), Pacer(8, 30), {}

        async def ask(name):
            failures[name] = failures.get(name, 0) + 1
            if chance.random() < 0.2:
                raise TransientError("500")
            return await server.ask(name)

        tasks = [asyncio.create_task(pacer.send(lambda n=n: ask(n))) for n in range(60)]
        cancelled = set(chance.sample(range(60), 20))
        for n in sorted(cancelled):
            await asyncio.sleep(chance.random())
            tasks[n].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(answer == n for n, answer in enumerate(ended) if n not in cancelled)
        assert pacer.in_flight == server.in_flight == 0
        # All the room is still there.
        pacer.limit, server.bears, server.most_in_flight = 8.0, 100, 0
        await asyncio.gather(*(pacer.send(server.ask) for _ in range(16)))
        return server.most_in_flight

    assert run(work()) == 8


NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Tue, 24 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({}, None),
    ],
)
def test_a_waiting_time_is_read_in_seconds_or_as_a_date(headers, seconds):
    assert parse_wait(headers, NOW) == seconds
