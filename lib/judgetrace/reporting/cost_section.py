"""What runs have cost, as a section of the report: tokens, engine time, money. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, Cells, Section, Table


@dataclass(frozen=True)
class Spent:
    """What one run has spent. None: not known, or it has no such figure."""

    name: str
    job: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    overshoot_tokens: int | None = None
    """Output of draws that no outcome depends on; part of `output_tokens`."""
    accepted: int | None = None
    """Accepted traces."""
    engine_s: float | None = None
    seconds: float | None = None
    money: float | None = None
    """At an endpoint's stated prices."""
    is_simulated: bool = False
    trained_tokens: int | None = None
    """Tokens that a rater learned from, padding left out; of each step once, however often it was gone back to."""

    @property
    def tokens_per_trace(self) -> float | None:
        """Output tokens per accepted trace."""
        return self.output_tokens / self.accepted if self.output_tokens is not None and self.accepted else None


def make_cost(spent: Sequence[Spent], currency: str) -> Section:
    """Make the section of costs."""
    made: list[Block] = [_tabulate(spent, currency)]
    money = [run.money for run in spent if run.money is not None]
    if not money:
        made.append(blocks.Prose("No run asked an endpoint with a stated price, so no money is counted.", quiet=True))
    if any(run.is_simulated for run in spent):
        made.append(blocks.Prose("Simulated: the engine was no model; its tokens and seconds are made up.", quiet=True))
    lead = (
        "Only recorded tokens are counted, of the runs that are shown: not those of a stage that was done anew. Engine "
        "seconds add over engines; the time is the job's own from start to end, restarts added, of training that of "
        "its steps alone."
    )
    return Section("cost", "Cost", lead, made, any(run.is_simulated for run in spent))


def _tabulate(spent: Sequence[Spent], currency: str) -> Table:
    has_money = any(run.money is not None for run in spent)
    has_trained = any(run.trained_tokens is not None for run in spent)
    rows: list[Cells] = []
    for run in [*spent, *([_add_up(spent)] if len(spent) > 1 else [])]:
        in_vain = (
            f"{run.overshoot_tokens / run.output_tokens:.1%} in vain"
            if run.overshoot_tokens and run.output_tokens
            else ""
        )
        rate = f"{run.output_tokens / run.engine_s:,.0f} a second" if run.output_tokens and run.engine_s else ""
        per_trace = "\u2013" if run.tokens_per_trace is None else f"{run.tokens_per_trace:,.0f}"
        row: Cells = [
            Cell(run.name + (" (simulated)" if run.is_simulated else ""), run.job),
            _count(run.prompt_tokens),
            Cell(_count(run.output_tokens), in_vain),
            per_trace,
            *([_count(run.trained_tokens)] if has_trained else []),
            Cell(_time(run.engine_s), rate),
            _time(run.seconds),
        ]
        rows.append([*row, "\u2013" if run.money is None else f"{run.money:,.2f}"] if has_money else row)
    money = [f"money ({currency})" if currency else "money"] if has_money else []
    trained = ["tokens trained on"] if has_trained else []
    columns = ["run", "prompt tokens", "output tokens", "output tokens per accepted trace", *trained]
    return Table("What runs have cost", [*columns, "engine time", "time", *money], rows)


def _add_up(spent: Sequence[Spent]) -> Spent:
    """Add runs up, as far as their figures are known; a trace may be of several runs, so not what one took."""

    def total(name: str) -> Any:
        known = [value for run in spent if (value := getattr(run, name)) is not None]
        return sum(known) if known else None

    names = ("prompt_tokens", "output_tokens", "overshoot_tokens", "trained_tokens", "engine_s", "seconds", "money")
    return Spent("together", "", **{name: total(name) for name in names})


def _count(value: int | None) -> str:
    return "\u2013" if value is None else f"{value:,}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "\u2013"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
