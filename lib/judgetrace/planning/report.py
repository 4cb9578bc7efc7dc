"""A plan as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from judgetrace.live import format_seconds
from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.forecast import Figure, Forecaster, Scenario
from judgetrace.planning.pilot import Pilot

COLUMNS = (
    "rows",
    "engines",
    "accepted traces",
    "output tokens",
    "wall time",
    "GPU hours",
    "money",
    "first bottleneck",
    "next",
)


def list_cells(scenario: Scenario, currency: str) -> list[str]:
    """Write a scenario's row, in the order of COLUMNS."""
    figures, (first, second) = scenario.figures, scenario.demands[:2]
    return [
        short(scenario.rows),
        f"{scenario.replicas}",
        _with_interval(figures["accepted"]),
        _with_interval(figures["output_tokens"]),
        _with_interval(figures["wall_s"], _duration),
        _with_interval(figures["gpu_hours"]),
        f"{_with_interval(figures['money'])} {currency}",
        f"{first.part} {first.share:.0%}",
        f"{second.part} {second.share:.1%}",
    ]


def short(value: float) -> str:
    """Write a number in three digits: '12.3M'."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _with_interval(figure: Figure, write: Callable[[float], str] = short) -> str:
    return f"{write(figure.value)} ({write(figure.low)}-{write(figure.high)})"


def _duration(seconds: float) -> str:
    return format_seconds(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def describe_basis(pilot: Pilot, forecaster: Forecaster, config: PlanRunConfig) -> list[str]:
    """Say what the plan rests on."""
    rates, stats, prices = forecaster.rates, forecaster.statistics, config.prices
    source = "the pilot's own seconds and slots" if rates.is_measured else "engine.tokens_per_s of the config"
    return [
        f"Pilot: {len(pilot.units):,} units on {pilot.num_engines} engine(s) of {pilot.config.engine.slots} slots"
        f"{f' in {len(pilot.calls)} calls' if len(pilot.calls) > 1 else ''}; "
        f"{stats.accepted[0]:.1%} accepted; {stats.output_tokens[0]:,.0f} output tokens a unit, those of draws in vain "
        "apart.",
        f"Intervals ({config.confidence:.0%}): a bootstrap over the pilot's items. The whole run samples as the pilot "
        "did, so nothing is extrapolated beyond its draws. Those of time, GPU hours and money also carry an error of "
        f"{config.engine.tokens_per_s_error:.0%} (SD) in the engines' rate.",
        f"An engine with {rates.slots} full slots: {rates.tokens_per_s:,.0f} output tokens/s, from {source}. "
        "A pilot on other hardware does not carry over.",
        f"Start, last commits and end: {rates.startup_s:,.0f} s; the last draws of an engine: {rates.tail_s:,.0f} s. "
        "Engines are held, and paid, from the start to the end.",
        f"{forecaster.units_per_row:.3g} units a row. GPU hour: "
        + (f"{prices.gpu_hour:g} {prices.currency} {prices.gpu_source}".rstrip() if prices.gpu_hour else "no price")
        + ". An hour of the machines that stay up through the run (head, CPU workers): "
        + (f"{prices.cluster_hour:g} {prices.currency}." if prices.cluster_hour else "not in the money."),
        "A part's percentage is what is asked of it over what it can give ([capacities] in the config, with sources). "
        "No deaths, retries or throttling are in it.",
    ]


def print_plan(
    console: Console, scenarios: Sequence[Scenario], currency: str, basis: Sequence[str], warnings: Sequence[str]
) -> None:
    """Print a plan."""
    table = Table(title="Forecast", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[-2:] else "right", overflow="fold")
    for scenario in scenarios:
        table.add_row(*map(Text, list_cells(scenario, currency)))
    console.print(table)
    for line in basis:
        console.print(line, markup=False)
    for line in warnings:
        console.print(f"warning: {line}", markup=False)


def write_markdown(scenarios: Sequence[Scenario], currency: str, basis: Sequence[str], warnings: Sequence[str]) -> str:
    """Write a plan as Markdown."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(list_cells(scenario, currency) for scenario in scenarios)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    parts = "\n".join(
        f"- {short(s.rows)} rows on {s.replicas}: "
        + "; ".join(f"{d.part} {d.share:.1%} ({d.detail})" for d in s.demands)
        for s in scenarios
    )
    notes = "\n".join([*(f"- {line}" for line in basis), *(f"- **Warning**: {line}" for line in warnings)])
    return f"# Plan\n\n{table}\n\n## What it rests on\n\n{notes}\n\n## What is asked of each part\n\n{parts}\n"


def collect_json(
    scenarios: Sequence[Scenario], config: PlanRunConfig, basis: Sequence[str], warnings: Sequence[str]
) -> Mapping[str, Any]:
    """Collect a plan as data."""
    return {
        "config": config.model_dump(mode="json"),
        "basis": list(basis),
        "warnings": list(warnings),
        "scenarios": [asdict(scenario) for scenario in scenarios],
    }
