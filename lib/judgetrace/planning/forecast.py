"""Forecast runs from a pilot: accepted traces, tokens, hours and money with intervals, and the first bottleneck. Pure.

The whole run samples as the pilot did: the same draws at most, the same acceptance. So nothing is extrapolated beyond
the pilot's draws, and its units stand for all units: intervals are those of a bootstrap over its items, which keeps
utilisation, draws and tokens of a unit together and takes no shape for granted. (A Beta-binomial fit would be needed to
forecast other numbers of draws.) Hours also carry the stated error of the engines' rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.demands import Demand, RunShape, count_requests, list_demands, rank_bottlenecks
from judgetrace.planning.pilot import UNITS_PER_SLOT, Pilot, resample_items
from judgetrace.planning.pool_model import Pool, draw_shards, run_pool

TAIL_SLOTS = 4
"""The end of an engine's work is modelled with so many units for each slot."""
TAIL_RUNS = 4


@dataclass(frozen=True)
class Figure:
    """A forecast with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scenario:
    """One size on one cluster."""

    rows: int
    units: int
    replicas: int
    figures: Mapping[str, Figure]
    """accepted, output_tokens, prompt_tokens, wall_s, gpu_hours, money."""
    demands: list[Demand]
    """The first bottleneck first."""


@dataclass(frozen=True)
class EngineRates:
    """What an engine of the whole run is taken to do."""

    slots: int
    tokens_per_s: float
    is_measured: bool
    startup_s: float
    tail_s: float
    tail_tokens: float
    """Output tokens in vain at an engine's end."""
    gpus: float


@dataclass(frozen=True)
class UnitStatistics:
    """Per unit of the pilot, in bootstrap replicates: shape (replicates,) each; the first is the pilot itself."""

    accepted: np.ndarray
    output_tokens: np.ndarray
    prompt_tokens: np.ndarray
    sd_tokens: float
    """Between units, in the pilot."""


def summarise_units(pilot: Pilot, replicates: int, seed: int) -> UnitStatistics:
    """Compute means a unit, in the pilot and in bootstrap replicates of its items."""
    weights = np.vstack([np.ones(len(pilot.units)), resample_items(pilot.units, replicates, seed)])
    weights /= weights.sum(axis=1, keepdims=True)
    output = np.array([sum(unit.output_tokens) for unit in pilot.units], dtype=float)
    return UnitStatistics(
        accepted=weights @ np.array([unit.outcome == "accepted" for unit in pilot.units], dtype=float),
        output_tokens=weights @ output,
        prompt_tokens=weights @ np.array([unit.prompt_tokens for unit in pilot.units], dtype=float),
        sd_tokens=float(output.std(ddof=1)),
    )


def rate_engines(pilot: Pilot, config: PlanRunConfig) -> EngineRates:
    """Settle what an engine of the whole run does: from the config, else from the pilot."""
    own, engine = config.engine, pilot.config.engine
    slots = own.slots or engine.slots
    rate = own.tokens_per_s or pilot.slot_tokens_per_s()
    tail, in_vain = _model_tail(pilot, slots, config.seed)
    return EngineRates(
        slots=slots,
        tokens_per_s=rate,
        is_measured=own.tokens_per_s is None,
        startup_s=pilot.overhead_s if own.startup_s is None else own.startup_s,
        tail_s=tail / (rate / slots),
        tail_tokens=in_vain,
        gpus=engine.num_gpus if own.gpus is None else own.gpus,
    )


def _model_tail(pilot: Pilot, slots: int, seed: int) -> tuple[float, float]:
    """Model how an engine ends: tokens of one slot beyond its work at the full rate, and tokens in vain."""
    chance, lengths = np.random.default_rng(seed), pilot.lengths()
    beyond, in_vain = 0.0, 0.0
    for run in range(TAIL_RUNS):
        units = [lengths[i] for i in chance.integers(len(lengths), size=TAIL_SLOTS * slots)]
        end = pilot.run_engine(units, slots, seed=run)
        beyond += (end.end - end.useful / slots) / TAIL_RUNS
        in_vain += end.in_vain / TAIL_RUNS
    return beyond, in_vain


class Forecaster:
    """Forecasts any number of scenarios from one pilot."""

    def __init__(self, pilot: Pilot, config: PlanRunConfig):
        self._pilot, self._config = pilot, config
        self.rates = rate_engines(pilot, config)
        self.statistics = summarise_units(pilot, config.replicates, config.seed)
        self.units_per_row = config.units_per_row or pilot.units_per_row
        self._units_per_shard = config.units_per_shard or pilot.units_per_shard
        chance = np.random.default_rng(config.seed + 1)
        self._noise = chance.standard_normal(config.replicates + 1)
        error = chance.standard_normal(config.replicates + 1) * config.engine.tokens_per_s_error
        self._noise[0], error[0] = 0.0, 0.0
        self._slowness = np.exp(error)

    def forecast(self, rows: int, replicas: int) -> Scenario:
        """Forecast so many rows on so many engines."""
        units = max(1, round(rows * self.units_per_row))
        shape = self._model_run(units, replicas)
        demands = rank_bottlenecks(list_demands(shape, self._config.capacities))
        stats, rates = self.statistics, self.rates
        fixed = min(shape.wall_s, rates.startup_s + rates.tail_s)
        pace = stats.output_tokens / stats.output_tokens[0] * self._slowness
        walls = fixed + (shape.wall_s - fixed) * pace
        hours = walls / 3600 * replicas * rates.gpus
        # Sums of weights may pass 1 by a rounding.
        share = np.clip(stats.accepted, 0.0, 1.0)
        accepted = units * share + self._noise * np.sqrt(units * share * (1 - share))
        output = units * stats.output_tokens + replicas * rates.tail_tokens
        prompt = units * stats.prompt_tokens
        values = {
            "accepted": np.clip(accepted, 0, units),
            "output_tokens": output,
            "prompt_tokens": prompt,
            "wall_s": walls,
            "gpu_hours": hours,
            "money": self._cost(hours, walls / 3600, shape) + self._cost_of_answers(prompt, output),
        }
        figures = {name: self._figure(value) for name, value in values.items()}
        return Scenario(rows, units, replicas, figures, demands)

    @property
    def has_no_price(self) -> bool:
        """Whether GPU hours cost nothing for want of a price."""
        return self._config.prices.gpu_hour is None

    @property
    def takes_all_units(self) -> bool:
        """Whether a row is taken to make as many units as in the pilot's corpus, all of which are asked."""
        return self._config.units_per_row is None

    def _model_run(self, units: int, replicas: int) -> RunShape:
        config, rates, stats = self._config, self.rates, self.statistics
        mean = float(stats.output_tokens[0])
        work = draw_shards(units, self._units_per_shard, mean, stats.sd_tokens, config.seed)
        at_once, held = self._pilot.share_shards(rates.slots, replicas, len(work), self._units_per_shard)
        driver_ms = config.capacities.driver_ms_per_shard
        pool = Pool(replicas, rates.tokens_per_s, held, rates.startup_s, rates.tail_s, driver_ms / 1000)
        run = run_pool(work, pool)
        shape = RunShape(
            num_shards=len(work),
            units_per_shard=self._units_per_shard,
            replicas=replicas,
            shards_at_once=at_once,
            wall_s=run.wall_s,
            engine_share=1 - run.idle_share,
            commit_every_s=self._pilot.config.ledger.commit_every_s,
        )
        # A store that answers fewer requests stretches the run.
        demands = list_demands(shape, config.capacities)
        stretch = max(1.0, *(demand.share for demand in demands if not demand.is_memory))
        if stretch == 1.0:
            return shape
        return RunShape(
            **{**vars(shape), "wall_s": shape.wall_s * stretch, "engine_share": shape.engine_share / stretch}
        )

    def _cost(self, gpu_hours: np.ndarray, wall_hours: np.ndarray, shape: RunShape) -> np.ndarray:
        prices, requests = self._config.prices, count_requests(shape)
        of_requests = (requests.writes + requests.lists) * prices.million_writes + requests.reads * prices.million_reads
        of_machines: np.ndarray = gpu_hours * (prices.gpu_hour or 0.0) + wall_hours * prices.cluster_hour
        return of_machines + of_requests / 1e6

    def _cost_of_answers(self, prompt: np.ndarray, output: np.ndarray) -> np.ndarray:
        endpoint = self._pilot.config.endpoint
        if endpoint is None:
            return np.zeros_like(prompt)
        return np.array([endpoint.cost(int(p), int(o)) for p, o in zip(prompt, output, strict=True)])

    def _figure(self, values: np.ndarray) -> Figure:
        beyond = (1 - self._config.confidence) / 2
        low, high = np.quantile(values[1:], [beyond, 1 - beyond])
        return Figure(float(values[0]), float(low), float(high))


def list_warnings(pilot: Pilot, forecaster: Forecaster) -> list[str]:
    """Say what makes this pilot a weak one."""
    warnings = []
    slots, rates = pilot.config.engine.slots, forecaster.rates
    if len(pilot.units) < 100:
        warnings.append(f"the pilot has only {len(pilot.units)} units: intervals of a bootstrap are then too narrow")
    if rates.is_measured and len(pilot.units) < UNITS_PER_SLOT * slots * pilot.num_engines:
        warnings.append(
            f"{len(pilot.units)} units on {pilot.num_engines} engine(s) of {slots} slots: the pilot hardly had its "
            "slots full, and its rate says little of full ones; take at least "
            f"{UNITS_PER_SLOT * slots * pilot.num_engines} units, or give engine.tokens_per_s"
        )
    if rates.is_measured and rates.slots != slots:
        warnings.append(f"the pilot had {slots} slots, the plan {rates.slots}: give engine.tokens_per_s for them")
    num_accepted = sum(unit.outcome == "accepted" for unit in pilot.units)
    if min(num_accepted, len(pilot.units) - num_accepted) < 5:
        warnings.append(f"{num_accepted} of {len(pilot.units)} units accepted: too few of one kind for an interval")
    bad = sum(unit.outcome in ("failed", "quarantined") for unit in pilot.units)
    if bad:
        warnings.append(f"{bad} units of the pilot failed or were quarantined, and count as not accepted")
    if not math.isclose(rates.gpus, 0.0) and forecaster.has_no_price:
        warnings.append("prices.gpu_hour is not given: money is that of requests and answers only")
    return [*warnings, *_warn_of_uncovered(pilot, forecaster)]


def _warn_of_uncovered(pilot: Pilot, forecaster: Forecaster) -> Iterator[str]:
    """Say which units of a forecast the whole run would never ask."""
    config = pilot.config
    if config.after and forecaster.takes_all_units:
        yield (
            f"the pilot is one `after` {', '.join(config.after)} and asks only what that left without a trace, while "
            "the forecast takes all units: it is too high, in traces, tokens, time and money alike; give units_per_row "
            "as the units that are left of a row"
        )
    if config.quota.per_level is not None:
        yield (
            f"quota.per_level = {config.quota.per_level:,} ends a level that has so many traces, while the forecast "
            "asks all its units: where a level would fill up, it is too high, in traces, tokens, time and money alike"
        )
