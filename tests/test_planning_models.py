"""The models behind a plan, against hand-worked cases and the real scheduler."""

import asyncio
import random

import pytest

from judgetrace.planning.engine_model import EngineRun, run_engine
from judgetrace.planning.pool_model import Pool, draw_shards, run_pool
from judgetrace.sampling import Draw, SamplingConfig, UnitSampling
from judgetrace.scheduler import DrawScheduler, UnitWork

SLOT = {"slots": 1, "max_draws": 4, "one_at_a_time": True, "spare": [10.0]}


def test_one_slot_does_all_needed_draws_one_after_the_other():
    assert run_engine([[3.0, 4.0], [5.0]], **SLOT) == EngineRun(end=12.0, useful=12.0, in_vain=0.0)


def test_a_draw_that_runs_ahead_is_cancelled_when_its_unit_is_decided():
    # The second slot has no other unit to work on: draw 1 runs beside draw 0 and is cancelled with it.
    assert run_engine([[3.0]], **SLOT | {"slots": 2}) == EngineRun(end=3.0, useful=3.0, in_vain=3.0)


def test_a_unit_waits_for_lower_draws_after_its_hit():
    # Draws 0 and 1 run at once; 1, the hit, ends first, and 0 is still needed.
    assert run_engine([[5.0, 2.0]], **SLOT | {"slots": 2}) == EngineRun(end=5.0, useful=7.0, in_vain=0.0)


def test_units_without_a_draw_take_no_time():
    assert run_engine([[], []], **SLOT) == EngineRun(0.0, 0.0, 0.0)


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_the_model_starts_the_same_draws_in_the_same_order_as_the_scheduler(one_at_a_time):
    chance = random.Random(3)
    units = [[float(chance.randint(20, 60)) for _ in range(chance.randint(1, 5))] for _ in range(25)]
    slots, max_draws, spare = 6, 5, 40.0
    modelled = run_engine(units, slots=slots, max_draws=max_draws, one_at_a_time=one_at_a_time, spare=[spare])

    async def measure() -> tuple[float, float]:
        loop, spent = asyncio.get_running_loop(), 0.0

        async def sample(work: UnitWork, index: int, _: bool) -> Draw:
            nonlocal spent
            lengths = work.payload
            length = lengths[index] if index < len(lengths) else spare
            began = loop.time()
            try:
                await asyncio.sleep(length / 1000)
            finally:
                spent += loop.time() - began
            hit = index == len(lengths) - 1
            return Draw(index, 0, "accepted" if hit else "disagrees")

        config = SamplingConfig(max_draws=max_draws, mode="sequential")
        scheduler = DrawScheduler(slots, sample)
        began = loop.time()
        with scheduler.feeding():
            works = [UnitWork(UnitSampling(config), unit, one_at_a_time) for unit in units]
            done = [scheduler.submit(work) for work in works]
        await asyncio.gather(*done)
        return (loop.time() - began) * 1000, spent * 1000

    end, spent = asyncio.run(measure())
    assert modelled.useful == sum(map(sum, units))
    # A real clock: timers are late by a millisecond or so each, and on a busy machine by more.
    assert end == pytest.approx(modelled.end, rel=0.15)
    assert spent == pytest.approx(modelled.useful + modelled.in_vain, rel=0.15)


def test_two_engines_share_equal_shards_and_end_together():
    run = run_pool([100.0] * 8, Pool(replicas=2, slot_rate=10.0, shards_held=2, startup_s=5.0, tail_s=1.0))
    # Four shards each, 10 s a shard, after 5 s of start and before 1 s of tail.
    assert run.wall_s == 46.0
    assert run.idle_share == pytest.approx(1 - 80 / 92)


def test_an_engine_that_holds_more_shards_than_its_share_leaves_the_other_idle():
    # The first engine is given shards 1 and 3, the second 2: nothing is left to give out.
    run = run_pool([100.0] * 3, Pool(replicas=2, slot_rate=10.0, shards_held=2, startup_s=0.0, tail_s=0.0))
    assert run.wall_s == 20.0


def test_a_slow_driver_sets_the_pace():
    run = run_pool([1.0] * 100, Pool(4, slot_rate=100.0, shards_held=2, startup_s=0, tail_s=0, driver_s_per_shard=0.5))
    assert run.wall_s == pytest.approx(50.0, abs=0.1)


def test_shards_add_up_to_the_units_they_hold():
    work = draw_shards(2500, 1000, mean=100.0, sd=0.0, seed=0)
    assert work == [100_000.0, 100_000.0, 50_000.0]
    assert sum(draw_shards(10**6, 1000, 100.0, 300.0, seed=1)) == pytest.approx(1e8, rel=0.01)
