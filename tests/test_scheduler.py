"""Filling the slots of an engine."""

import asyncio
import gc
import random
import weakref

import pytest

from judgetrace.sampling import Draw, SamplingConfig, UnitSampling
from judgetrace.scheduler import DrawScheduler, Suspicion, UnitWork


class Engine:
    """Answers by a table of unit -> index of the draw that is accepted, after a delay; notes what runs."""

    def __init__(self, hits: dict[str, int], delay=lambda unit, index: 0.001):
        self.hits, self.delay = hits, delay
        self.running: set[tuple[str, int]] = set()
        self.started: list[tuple[str, int]] = []
        self.most_at_once = 0

    async def sample(self, work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        draw = (work.payload, index)
        self.running.add(draw)
        self.started.append(draw)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            await asyncio.sleep(self.delay(*draw))
        except asyncio.CancelledError:
            assert may_be_cancelled, f"{draw} was cancelled, and nobody had said that it might be"
            return Draw(index, 0, "cancelled", output_tokens=1)
        finally:
            self.running.discard(draw)
        return Draw(index, 0, "accepted" if index == self.hits[work.payload] else "disagrees")


async def run(engine: Engine, slots: int, config: SamplingConfig) -> dict[str, UnitWork]:
    scheduler = DrawScheduler(slots, engine.sample)
    with scheduler.feeding():
        futures = [scheduler.submit(UnitWork(UnitSampling(config), name)) for name in engine.hits]
    async with asyncio.timeout(20):
        works = await asyncio.gather(*futures)
    assert scheduler.in_flight == 0
    return {work.payload: work for work in works}


def test_units_beyond_the_slots_are_drawn_one_at_a_time():
    engine = Engine({f"u{i}": i % 5 for i in range(40)})
    works = asyncio.run(run(engine, 4, SamplingConfig(max_draws=8)))
    assert engine.most_at_once == 4
    for name, hit in engine.hits.items():
        assert [d.index for d in works[name].sampling.accepted] == [hit]
    in_vain = [d for w in works.values() for d in w.sampling.draws if d.index >= w.sampling.num_needed]
    # Only the last few units, when fewer are left than slots, may run ahead.
    assert len(in_vain) <= 4 * 3
    early = {draw for draw in engine.started[:60] if draw[1] > engine.hits[draw[0]]}
    assert early == set()


def test_nothing_runs_ahead_while_more_units_are_on_their_way():
    async def scenario() -> None:
        engine = Engine({"a": 9, "b": 9}, delay=lambda unit, index: 0.3)
        scheduler = DrawScheduler(8, engine.sample)
        with scheduler.feeding():
            for name in engine.hits:
                scheduler.submit(UnitWork(UnitSampling(SamplingConfig(max_draws=4)), name))
            await asyncio.sleep(0.005)
            assert engine.running == {("a", 0), ("b", 0)}
        await asyncio.sleep(0.001)
        assert engine.running == {(unit, index) for unit in "ab" for index in range(4)}

    asyncio.run(scenario())


def test_a_lone_unit_uses_all_slots_and_the_lowest_accepted_index_wins():
    engine = Engine({"u": 2}, delay=lambda unit, index: 0.05 - 0.01 * index)
    work = asyncio.run(run(engine, 5, SamplingConfig(max_draws=8)))["u"]
    assert engine.most_at_once == 5
    assert [d.index for d in work.sampling.accepted] == [2]


def test_a_draw_cancelled_before_its_first_step_still_frees_its_slot():
    # Draw 1 is started and cancelled within one turn of the loop, when draw 0 is accepted at once.
    async def scenario() -> None:
        async def sample(work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
            return Draw(index, 0, "accepted")

        scheduler = DrawScheduler(2, sample)
        work = UnitWork(UnitSampling(SamplingConfig(max_draws=4)), "u")
        future = scheduler.submit(work)
        work.tasks[1].cancel()
        async with asyncio.timeout(5):
            await future
        assert scheduler.in_flight == 0
        assert [d.index for d in work.sampling.accepted] == [0]

    asyncio.run(scenario())


def test_any_order_of_completion_accepts_what_one_at_a_time_accepts():
    rng = random.Random(7)
    hits = {f"u{i}": rng.randrange(10) for i in range(60)}
    engine = Engine(hits, delay=lambda unit, index: rng.expovariate(1 / 0.003))
    works = asyncio.run(run(engine, 16, SamplingConfig(max_draws=8)))
    for name, hit in hits.items():
        assert [d.index for d in works[name].sampling.accepted] == ([hit] if hit < 8 else [])


def test_the_fixed_mode_makes_every_draw_once():
    async def scenario() -> list[tuple[str, int]]:
        engine = Engine({f"u{i}": 0 for i in range(6)})
        scheduler = DrawScheduler(4, engine.sample)
        config = SamplingConfig(mode="fixed", max_draws=3)
        works = [UnitWork(UnitSampling(config), name, one_at_a_time=False) for name in engine.hits]
        await asyncio.gather(*(scheduler.submit(work) for work in works))
        assert all(len(work.sampling.draws) == 3 for work in works)
        return engine.started

    started = asyncio.run(scenario())
    assert sorted(started) == sorted((f"u{i}", k) for i in range(6) for k in range(3))


def test_stopping_lets_draws_in_flight_end_and_gives_the_other_units_back_undecided():
    async def scenario() -> None:
        engine = Engine({f"u{i}": 5 for i in range(10)}, delay=lambda unit, index: 0.02)
        scheduler = DrawScheduler(3, engine.sample)
        with scheduler.feeding():
            futures = [scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), name)) for name in engine.hits]
        await asyncio.sleep(0.005)
        scheduler.stop()
        works = await asyncio.gather(*futures)
        assert sorted(engine.started) == [("u0", 0), ("u1", 0), ("u2", 0)]
        assert [len(work.sampling.draws) for work in works] == [1, 1, 1] + [0] * 7
        assert not any(work.sampling.is_decided for work in works)
        late = await scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), "late"))
        assert not late.sampling.is_decided

    asyncio.run(scenario())


def test_an_engine_error_reaches_every_waiting_unit():
    async def scenario() -> None:
        async def sample(work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
            await asyncio.sleep(0.001)
            raise RuntimeError("the engine is gone")

        scheduler = DrawScheduler(2, sample)
        futures = [scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), i)) for i in range(5)]
        for outcome in await asyncio.gather(*futures, return_exceptions=True):
            assert isinstance(outcome, RuntimeError)
        with pytest.raises(RuntimeError, match="gone"):
            await scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), "late"))

    asyncio.run(scenario())


def test_engine_time_is_counted_only_while_a_draw_runs():
    async def scenario() -> None:
        engine = Engine({"u": 0}, delay=lambda unit, index: 0.05)
        scheduler = DrawScheduler(1, engine.sample)
        await asyncio.sleep(0.05)
        assert scheduler.busy_s == 0.0
        await scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), "u"))
        busy = scheduler.busy_s
        assert 0.045 <= busy < 0.5
        await asyncio.sleep(0.02)
        assert scheduler.busy_s == busy

    asyncio.run(scenario())


def test_a_unit_that_must_be_alone_goes_first_and_shares_the_engine_with_no_other():
    """Three of ten, one after the other; what was in flight ends before, and the rest goes on after.

    Who had been in flight for the shortest time goes first: what kills does so soon, more often than late.
    """
    engine = Engine({f"u{i}": 3 for i in range(10)})
    seen: list[set[str]] = []

    async def sample(work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        try:
            return await engine.sample(work, index, may_be_cancelled)
        finally:
            seen.append({work.payload} | {name for name, _ in engine.running})

    async def scenario() -> None:
        scheduler = DrawScheduler(4, sample)
        config = SamplingConfig(max_draws=8)
        seconds = {5: 1.0, 6: 3.0, 7: 2.0}
        works = [
            UnitWork(
                UnitSampling(config), f"u{i}", suspicion=Suspicion("death", 8, seconds[i]) if i in seconds else None
            )
            for i in range(10)
        ]
        with scheduler.feeding():
            futures = [scheduler.submit(work) for work in works]
        async with asyncio.timeout(20):
            await asyncio.gather(*futures)
        assert all([d.index for d in work.sampling.accepted] == [3] for work in works)
        assert scheduler.in_flight == 0

    asyncio.run(scenario())
    assert all(len(together) == 1 for together in seen if together & {"u5", "u6", "u7"})
    assert any(len(together) > 1 for together in seen)
    order = list(dict.fromkeys(name for name, _ in engine.started))
    assert order == ["u0", "u1", "u2", "u3", "u5", "u7", "u6", "u4", "u8", "u9"]


def test_only_the_draws_that_were_lost_are_alone_and_then_the_unit_is_one_of_many():
    """Of eight draws that each of three suspects takes, the second one was lost."""
    engine = Engine({f"u{i}": 7 for i in range(9)})
    beside: dict[tuple[str, int], int] = {}

    async def sample(work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        draw = await engine.sample(work, index, may_be_cancelled)
        beside[work.payload, index] = len(engine.running)
        return draw

    async def scenario() -> None:
        scheduler = DrawScheduler(4, sample)
        suspicion, known = Suspicion("death", 2, 1.0), [Draw(0, 0, "disagrees")]
        with scheduler.feeding():
            suspects = [UnitWork(UnitSampling(SamplingConfig(), known), f"u{i}", suspicion=suspicion) for i in range(3)]
            others = [UnitWork(UnitSampling(SamplingConfig()), f"u{i}") for i in range(3, 9)]
            futures = [scheduler.submit(work) for work in [*suspects, *others]]
        async with asyncio.timeout(20):
            await asyncio.gather(*futures)
        assert all(work.suspicion is None for work in suspects)
        assert all([draw.index for draw in work.sampling.accepted] == [7] for work in suspects)

    asyncio.run(scenario())
    assert engine.started[:3] == [("u0", 1), ("u1", 1), ("u2", 1)]
    assert [beside[f"u{i}", 1] for i in range(3)] == [0, 0, 0]
    assert sum(beside[f"u{i}", index] > 0 for i in range(3) for index in range(2, 8)) > 9


def test_a_suspect_whose_lost_draws_are_known_by_now_is_one_of_many():
    async def scenario() -> None:
        engine = Engine({"cleared": 3, "other": 3})
        scheduler = DrawScheduler(2, engine.sample)
        sampling = UnitSampling(SamplingConfig(), [Draw(0, 0, "disagrees"), Draw(1, 0, "disagrees")])
        with scheduler.feeding():
            futures = [
                scheduler.submit(UnitWork(sampling, "cleared", suspicion=Suspicion("death", 2, 1.0))),
                scheduler.submit(UnitWork(UnitSampling(SamplingConfig()), "other")),
            ]
            assert engine.most_at_once == 0
            await asyncio.sleep(0)
            assert engine.running == {("cleared", 2), ("other", 0)}
        async with asyncio.timeout(20):
            await asyncio.gather(*futures)

    asyncio.run(scenario())


def test_an_engine_failure_leaves_each_unit_the_draws_that_it_lost():
    async def sample(work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        if work.payload == "killer":
            await asyncio.sleep(0.01)
            raise RuntimeError("engine died")
        await asyncio.sleep(10)
        raise AssertionError("unreachable")

    async def scenario() -> None:
        scheduler = DrawScheduler(2, sample)
        works = [UnitWork(UnitSampling(SamplingConfig()), name) for name in ("bystander", "killer", "waiting")]
        with scheduler.feeding():
            futures = [scheduler.submit(work) for work in works]
            async with asyncio.timeout(20):
                await asyncio.gather(*futures, return_exceptions=True)
        assert [list(work.lost_draws) for work in works] == [[0], [0], []]
        assert 0.01 <= works[1].lost_draws[0] <= works[0].lost_draws[0] < 10

    asyncio.run(scenario())


def test_stopping_gives_back_units_that_wait_to_be_alone():
    engine = Engine({f"u{i}": 0 for i in range(3)}, delay=lambda unit, index: 0.05)

    async def scenario() -> None:
        scheduler = DrawScheduler(4, engine.sample)
        suspicion = [None, Suspicion("death", 1, 1.0), Suspicion("death", 1, 1.0)]
        works = [UnitWork(UnitSampling(SamplingConfig()), f"u{i}", suspicion=suspicion[i]) for i in range(3)]
        futures = [scheduler.submit(work) for work in works]
        scheduler.stop()
        async with asyncio.timeout(20):
            await asyncio.gather(*futures)
        assert [work.sampling.is_decided for work in works] == [True, False, False]

    asyncio.run(scenario())


def test_a_unit_that_may_not_begin_ends_without_a_draw_and_one_that_has_begun_goes_on():
    async def scenario() -> None:
        engine = Engine({"new": 0, "begun": 1, "wanted": 0})
        scheduler = DrawScheduler(1, engine.sample, lambda work: work.payload == "wanted")
        config, known = SamplingConfig(max_draws=4), {"begun": [Draw(0, 0, "disagrees")]}
        futures = [scheduler.submit(UnitWork(UnitSampling(config, known.get(name, [])), name)) for name in engine.hits]
        async with asyncio.timeout(20):
            works = {work.payload: work for work in await asyncio.gather(*futures)}
        assert works["new"].sampling.draws == []
        assert [draw.index for draw in works["begun"].sampling.draws] == [0, 1]
        assert sorted(engine.started) == [("begun", 1), ("wanted", 0)]
        assert scheduler.in_flight == 0

    asyncio.run(scenario())


def test_units_that_are_done_are_let_go_while_new_ones_wait():
    """Their draws that could run ahead are queued behind new units, and never come to their turn."""

    async def scenario() -> int:
        units = {f"u{i}": 0 for i in range(2000)}
        engine = Engine(units, delay=lambda unit, index: 0.0)
        scheduler = DrawScheduler(4, engine.sample)
        done: list[weakref.ref[UnitWork]] = []
        waiting = list(units)
        with scheduler.feeding():
            futures = {scheduler.submit(UnitWork(UnitSampling(SamplingConfig(max_draws=4)), waiting.pop()))}
            while len(done) < 1500:
                while len(futures) < 40:
                    futures.add(scheduler.submit(UnitWork(UnitSampling(SamplingConfig(max_draws=4)), waiting.pop())))
                ended, futures = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                done += [weakref.ref(future.result()) for future in ended]
                del ended
            gc.collect()
            kept = sum(unit() is not None for unit in done)
        await asyncio.wait(futures)
        return kept

    assert asyncio.run(scenario()) <= 4 * 40 + 64
