"""Forecasts from a pilot, against hand-worked figures and textbook intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from judgetrace.control import RunControl, WorkerReport
from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.demands import RunShape, count_requests, list_demands, rank_bottlenecks
from judgetrace.planning.forecast import Forecaster, list_warnings, summarise_units
from judgetrace.planning.pilot import Pilot, PilotCall, PilotUnit, resample_items
from judgetrace.planning.report import collect_json, describe_basis, short, write_markdown
from judgetrace.storage import encode_json
from judgetrace.trace_config import InferTracesConfig

CONFIG = {"pilot": "runs/pilot", "output": "plan"}


def make_pilot(num: int = 400, slots: int = 10, **changes) -> Pilot:
    """Every second unit is accepted at its first draw, the others never in 4; a draw has 100 tokens."""
    units = tuple(
        PilotUnit(f"item-{i}", "accepted", (100,), 50)
        if i % 2
        else PilotUnit(f"item-{i}", "exhausted", (100,) * 4, 200)
        for i in range(num)
    )
    engine = {"slots": slots, "num_gpus": 2}
    config = InferTracesConfig.model_validate(
        {"corpus": "c", "run": "r", "model": {"path": "m"}, "engine": engine, "sampling": {"max_draws": 4}}
    )
    calls = (PilotCall(engine_s=100.0, seconds=130.0, num_engines=1),)
    made = Pilot(units, (100,), calls, config=config, units_per_row=1.0, units_per_shard=1000)
    return replace(made, **changes)


def make_forecaster(pilot: Pilot | None = None, **changes) -> Forecaster:
    return Forecaster(pilot or make_pilot(), PlanRunConfig.model_validate(CONFIG | changes))


def test_the_rate_of_full_slots_is_that_at_which_the_model_takes_the_pilots_seconds():
    # 400 units x 250 tokens on one slot, never idle, in 100 s.
    assert make_pilot(slots=1).slot_tokens_per_s() == pytest.approx(1000.0)
    # On 10 slots no slot idles either until the last draws; the model's clock runs a little over 10,000.
    assert 1000.0 <= make_pilot().slot_tokens_per_s() <= 1050.0


def test_a_pilot_in_two_calls_is_as_fast_as_each_of_them():
    # One draw of 100 tokens a unit and a slot for each: 10 s for 200 units at 10 tokens a second and slot.
    units, call = make_pilot(num=200).units, PilotCall(engine_s=10.0, seconds=40.0, num_engines=1)
    units = tuple(replace(unit, outcome="accepted", output_tokens=(100,)) for unit in units)
    alone = make_pilot(slots=400, units=units, calls=(call,))
    both = make_pilot(slots=400, units=units + units, calls=(call, call))
    assert alone.slot_tokens_per_s() == pytest.approx(4000)
    assert both.slot_tokens_per_s() == pytest.approx(4000)
    assert (alone.overhead_s, both.overhead_s) == (30.0, 30.0)
    config = PlanRunConfig.model_validate(CONFIG)
    assert (
        "400 units on 2 engine(s) of 400 slots in 2 calls;" in describe_basis(both, Forecaster(both, config), config)[0]
    )


def test_accepted_and_tokens_are_means_of_the_pilot_times_units():
    scenario = make_forecaster().forecast(1_000_000, 8)
    assert scenario.figures["accepted"].value == pytest.approx(500_000)
    tokens = scenario.figures["output_tokens"].value
    assert 250e6 <= tokens <= 250e6 + 8 * 10 * 400  # beside the needed ones, at most what slots do ahead at the end


def test_a_pilot_whose_units_are_all_accepted_forecasts_that_of_all():
    # Weights of 200 units add up to a little more than 1, and the root of a negative number is none.
    units = tuple(replace(unit, outcome="accepted") for unit in make_pilot(num=200).units)
    figure = make_forecaster(make_pilot(units=units)).forecast(1600, 4).figures["accepted"]
    assert (figure.low, figure.value, figure.high) == (1600, 1600, 1600)


def test_draws_in_vain_of_the_pilot_are_not_scaled_up():
    few = make_forecaster(make_pilot(spare_tokens=(100_000,))).forecast(1_000_000, 1).figures["output_tokens"]
    assert few.value == pytest.approx(250e6, rel=0.01)


def test_the_interval_of_accepted_traces_is_that_of_a_proportion():
    figure = make_forecaster(replicates=4000).forecast(1_000_000, 8).figures["accepted"]
    half = 1.96 * math.sqrt(0.5 * 0.5 / 400) * 1e6
    assert figure.high - figure.value == pytest.approx(half, rel=0.1)
    assert figure.value - figure.low == pytest.approx(half, rel=0.1)


def test_units_of_one_item_are_drawn_together():
    apart = make_pilot().units
    # Two units of the same kind an item: as much information as half the units.
    together = tuple(replace(unit, item_id=f"item-{i // 4}-{i % 2}") for i, unit in enumerate(apart))
    spread = [
        summarise_units(make_pilot(units=units), 4000, seed=0).accepted[1:].std(ddof=1) for units in (apart, together)
    ]
    assert spread[1] / spread[0] == pytest.approx(math.sqrt(2), rel=0.1)
    weights = resample_items(together, 5, seed=0)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert (weights.sum(axis=1) == len(together)).all()


def test_hours_and_money_follow_from_tokens_rate_and_price():
    forecaster = make_forecaster(
        engine={"tokens_per_s": 2000.0, "tokens_per_s_error": 0.0, "startup_s": 60.0},
        prices={"gpu_hour": 3.0, "million_writes": 0.0, "million_reads": 0.0},
    )
    scenario = forecaster.forecast(1_000_000, 1)
    # 250e6 tokens at 2,000/s.
    assert scenario.figures["wall_s"].value == pytest.approx(125_000 + 60, rel=0.01)
    hours = scenario.figures["gpu_hours"].value
    assert hours == pytest.approx(scenario.figures["wall_s"].value / 3600 * 2)
    assert scenario.figures["money"].value == pytest.approx(3 * hours)


def test_the_error_of_the_rate_widens_hours_and_nothing_else():
    sure, unsure = (
        make_forecaster(engine={"tokens_per_s_error": error}).forecast(10**6, 8).figures for error in (0.0, 0.2)
    )
    assert unsure["accepted"] == sure["accepted"]
    assert unsure["wall_s"].high - unsure["wall_s"].low > 1.5 * (sure["wall_s"].high - sure["wall_s"].low)


def test_machines_that_stay_up_through_the_run_cost_its_wall_time():
    free = {"gpu_hour": 0.0, "million_writes": 0.0, "million_reads": 0.0}
    figures = make_forecaster(prices=free | {"cluster_hour": 1.5}).forecast(100_000, 4).figures
    assert figures["money"].value == pytest.approx(1.5 * figures["wall_s"].value / 3600)


def test_more_engines_take_less_time_but_never_fewer_gpu_hours():
    forecaster = make_forecaster()
    walls, hours = [], []
    for replicas in (1, 8, 64, 512):
        figures = forecaster.forecast(1_000_000, replicas).figures
        walls.append(figures["wall_s"].value)
        hours.append(figures["gpu_hours"].value)
    assert walls == sorted(walls, reverse=True)
    assert hours == sorted(hours)


@pytest.mark.parametrize(
    ("capacities", "part"),
    [
        ({}, "engine"),
        ({"driver_ms_per_shard": 1e6}, "driver"),
        ({"writes_per_s": 0.01}, "S3 requests"),
        ({"store_bytes": 1000.0}, "object store"),
        ({"worker_bytes": 1e6}, "ids in memory"),
    ],
)
def test_the_first_bottleneck_is_named(capacities, part):
    assert make_forecaster(capacities=capacities).forecast(1_000_000, 8).demands[0].part == part


def test_a_store_that_answers_fewer_requests_stretches_the_run():
    free = make_forecaster().forecast(1_000_000, 8)
    slow = make_forecaster(capacities={"reads_per_s": 0.1}).forecast(1_000_000, 8)
    assert slow.figures["wall_s"].value > 2 * free.figures["wall_s"].value


def test_requests_are_counted_per_shard_and_commit():
    shape = RunShape(100, 1000, replicas=2, shards_at_once=3, wall_s=1000, engine_share=0.9, commit_every_s=20)
    requests = count_requests(shape)
    # 2 engines x 3 open shards x 50 intervals = 300 commits.
    assert (requests.writes, requests.deletes) == (100 + 300, 300)
    assert (requests.lists, requests.reads) == (800 + 300, 500)


@pytest.mark.parametrize(("replicas", "reports_per_s"), [(1, 1), (32, 32), (64, 32), (160, 32), (400, 80)])
def test_the_drivers_time_for_reports_is_that_of_the_intervals_that_the_control_gives(replicas, reports_per_s):
    shape = RunShape(0, 1000, replicas, shards_at_once=1, wall_s=1000.0, engine_share=1.0, commit_every_s=20)
    limits = PlanRunConfig.model_validate(CONFIG).capacities
    (driver,) = (demand for demand in list_demands(shape, limits) if demand.part == "driver")
    # 2 ms a report.
    assert driver.share == pytest.approx(reports_per_s * 0.002)
    control = RunControl()
    for number in range(replicas):
        interval = control.report(WorkerReport(f"worker-{number}", "running")).report_in_s
    assert replicas / interval == pytest.approx(reports_per_s)


def test_memory_that_is_not_full_limits_nothing():
    shape = RunShape(100, 1000, replicas=1, shards_at_once=1, wall_s=1000, engine_share=0.5, commit_every_s=20)
    limits = PlanRunConfig.model_validate(CONFIG | {"capacities": {"store_bytes": 76_000}}).capacities
    ranked = rank_bottlenecks(list_demands(shape, limits))
    assert [demand.part for demand in ranked[:2]] == ["engine", "object store"]
    assert ranked[0].share == 0.5
    assert 0.9 < ranked[1].share < 1


def test_weak_pilots_are_warned_of():
    pilot = make_pilot(num=60, slots=64)
    warnings = "\n".join(list_warnings(pilot, make_forecaster(pilot)))
    for words in ("only 60 units", "64 slots: the pilot hardly had its slots full", "prices.gpu_hour is not given"):
        assert words in warnings
    strong = make_pilot()
    assert list_warnings(strong, make_forecaster(strong, prices={"gpu_hour": 1.0})) == []


def test_what_a_quota_or_an_earlier_run_keeps_from_being_asked_is_warned_of_as_too_high_a_forecast():
    pilot = make_pilot()

    def warn(more, **changes):
        changed = replace(pilot, config=InferTracesConfig.model_validate(pilot.config.model_dump() | more))
        return list_warnings(changed, make_forecaster(changed, prices={"gpu_hour": 1.0}, **changes))

    (of_quota,) = warn({"quota": {"per_level": 500}})
    assert "quota.per_level = 500" in of_quota
    assert "it is too high" in of_quota
    after = {"proposal": "second", "after": ["runs/first"]}
    (of_after,) = warn(after)
    assert "`after` runs/first" in of_after
    assert "it is too high" in of_after
    assert "give units_per_row" in of_after
    # Who says how many units are left of a row has heard of it.
    assert warn(after, units_per_row=0.2) == []


def test_a_plan_can_be_read_by_people_and_programs():
    config = PlanRunConfig.model_validate(CONFIG)
    pilot, forecaster = make_pilot(), make_forecaster()
    scenarios = [forecaster.forecast(rows, 8) for rows in (10**6, 10**8)]
    basis = describe_basis(pilot, forecaster, config)
    text = write_markdown(scenarios, "USD", basis, ["look out"])
    assert "| 1M | 8 | 500k (" in text
    assert "| 100M | 8 | 50M (" in text
    assert "**Warning**: look out" in text
    assert "does not carry over" in text
    encode_json(collect_json(scenarios, config, basis, []))


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (12_345, "12.3k"), (2.5e8, "250M"), (3e12, "3T")])
def test_numbers_are_written_in_three_digits(number, text):
    assert short(number) == text


@pytest.mark.parametrize("more", [{"pilot": None}, {"pilot_config": "x.toml"}, {"rows": [0]}, {"unknown": 1}])
def test_configs_that_contradict_themselves_are_refused(more):
    with pytest.raises(ValidationError):
        PlanRunConfig.model_validate(CONFIG | more)
