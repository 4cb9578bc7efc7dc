"""What runs of infer_traces came to, as sections of the report: data utilisation, acceptance, label noise. Pure.

Takes the tallies that runs keep; counts nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.accounting import (
    Tally,
    acceptance_beyond_chance,
    correct_for_chance,
    count_first_draws,
    sum_margins,
    utilisation_by_draws,
    utilisation_by_label,
)
from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, Cells, Section, Table
from judgetrace.reporting.charts import Line, draw_lines, draw_shares
from judgetrace.reporting.folding import fold_figures
from judgetrace.scale import ScaleConfig

MAX_PLOTS = 6


@dataclass(frozen=True)
class TraceRun:
    """A run of infer_traces, or an output of decide_again."""

    name: str
    tally: Tally
    scale: ScaleConfig
    max_draws: int
    units: int
    """Units that the run covers; not all of them need be decided."""
    state: str = "complete"
    is_simulated: bool = False
    is_hinted: bool = False
    """Its draws were told the label."""
    asks_the_rest: bool = False
    """It asks units that earlier runs left without a trace (`after`): the hard ones."""

    @property
    def title(self) -> str:
        """Its name, saying so where it is simulated."""
        return f"{self.name} (simulated)" if self.is_simulated else self.name

    @property
    def utilisation(self) -> float:
        """The share of decided units with an accepted draw; units over quota, which were never asked, are none."""
        return self.tally.num_accepted / self.tally.num_tried if self.tally.num_tried else 0.0


def unite_runs(runs: Sequence[TraceRun], name: str, units: Tally) -> TraceRun:
    """Make one run of several; `units` has one outcome for each unit of theirs (uniting.tally_together)."""
    return TraceRun(
        name,
        units,
        runs[0].scale,
        max(run.max_draws for run in runs),
        max(units.num_units, *(run.units for run in runs)),
        is_simulated=any(run.is_simulated for run in runs),
    )


def make_utilisation(runs: Sequence[TraceRun], together: Sequence[TraceRun] = ()) -> Section:
    """Make the section of data utilisation, by number of draws and by label; `together`: several runs as one."""
    lead = (
        "Data utilisation is the share of units for which some draw's rating matched the human label, so that its "
        "reasoning was kept. A unit is an item in a dimension."
    )
    if together:
        lead += " Further runs ask about what earlier ones left: together they have a trace where any of them has one."
    if any(run.tally.outcomes()["over_quota"] for run in runs):
        lead += " Units over their level's quota, which were never asked, are not counted."
    shares = [figure for number, run in enumerate([*together, *runs]) for figure in _draw_by_label(run, number)]
    plots = [_draw_by_draws(runs), *shares]
    more = f"{len(shares) - MAX_PLOTS} more plots by target label"
    made = [_tabulate_outcomes([*together, *runs]), *fold_figures(plots, 1 + MAX_PLOTS, more)]
    return Section("utilisation", "Data utilisation", lead, made, any(run.is_simulated for run in runs))


def _tabulate_outcomes(runs: Sequence[TraceRun]) -> Table:
    usual = ("accepted", "exhausted", "quarantined", "failed")
    outcomes = [*usual, *sorted({name for run in runs for name in run.tally.outcomes()} - set(usual))]
    rows: list[Cells] = []
    for run in runs:
        counts = run.tally.outcomes()
        draws = sum(run.tally.draws.values())
        each = f"{draws / run.tally.num_tried:.1f}" if draws else "\u2013"
        decided = Cell(f"{run.tally.num_units:,}", f"of {run.units:,}" if run.units > run.tally.num_units else "")
        kept = [f"{counts[outcome]:,}" for outcome in outcomes]
        share = f"{run.utilisation:.1%}" if run.tally.num_tried else "\u2013"
        about = ", ".join(filter(None, [run.state.replace("complete", ""), "told the label" if run.is_hinted else ""]))
        rows.append([Cell(run.title, about), decided, share, *kept, each])
    columns = ["run", "decided", "utilisation", *(name.replace("_", " ") for name in outcomes), "draws a unit"]
    return Table("Outcomes of units", columns, rows)


def _draw_by_draws(runs: Sequence[TraceRun]) -> blocks.Figure:
    points = [(run, utilisation_by_draws(run.tally, run.max_draws)) for run in runs]
    lines = [Line(run.title, list(shares), list(shares.values())) for run, shares in points]
    alternative = "Data utilisation by number of draws. " + " ".join(
        f"{run.title}: " + ", ".join(f"{share:.1%} at {n}" for n, share in shares.items()) + "."
        for run, shares in points
    )
    svg = draw_lines("by-draws", lines, alternative, "draws at most", shares=True, log_x=True)
    heads = sorted({n for _, shares in points for n in shares})
    data = Table(
        "Data utilisation by number of draws",
        ["run", *(f"{n}" for n in heads)],
        [[run.title, *(f"{shares[n]:.1%}" if n in shares else "" for n in heads)] for run, shares in points],
    )
    return blocks.Figure(svg, "Units with an accepted draw among the first n.", alternative, data)


def _draw_by_label(run: TraceRun, number: int) -> list[blocks.Figure]:
    by_dimension: dict[str, list[tuple[str, int, int]]] = {}
    for dimension, label, hits, units in utilisation_by_label(run.tally):
        by_dimension.setdefault(dimension, []).append((label, hits, units))
    figures = []
    for place, (dimension, counted) in enumerate(sorted(by_dimension.items())):
        rows = sorted(counted, key=lambda row: _order(run, dimension, row[0]))
        about = " · ".join(filter(None, [run.title, dimension]))
        shares = [(label, hits / units) for label, hits, units in rows]
        alternative = f"Data utilisation by target label, {about}. " + ", ".join(f"{a}: {b:.0%}" for a, b in shares)
        svg = draw_shares(f"by-label{number}-{place}", shares, alternative)
        cells = [[label, f"{hits:,}", f"{units:,}", f"{hits / units:.1%}"] for label, hits, units in rows]
        data = Table("By target label", ["label", "accepted", "units", "utilisation"], cells)
        figures.append(blocks.Figure(svg, f"By target label: {about}.", alternative, data))
    return figures


def _order(run: TraceRun, dimension: str, label: str) -> int:
    scale = run.scale.of(dimension)
    return -1 if scale is None else (-1 if (level := scale.find_level(label)) is None else level)


def make_acceptance(runs: Sequence[TraceRun]) -> Section:
    """Make the section that holds the first draw against chance, by label."""
    lead = (
        "A label is matched by luck about once in as many guesses as there are levels, twice as often where either of "
        "two labels is accepted. The first draw, which is never selected, tells reasoning from luck: what it matches "
        "beyond a uniform guess, and κ, which also forgives a generator that prefers some levels."
    )
    if any(run.asks_the_rest for run in runs):
        lead += " Of runs that ask what others have left this says less: their units are those that were missed before."
    rows = [_describe_first_draw(run, dimension) for run in runs for dimension in _list_dimensions(run)]
    named = any(dimension for run in runs for dimension in _list_dimensions(run))
    overall = Table(
        "The first draw against chance",
        ["run", *(["dimension"] if named else []), "matches", "beyond a uniform guess", "κ"],
        [row if named else [row[0], *row[2:]] for row in rows if row],
        num_heads=1 + named,
        note="A match is the label, or either one where the target rule accepts either; what a wider acceptance rule "
        "accepts besides is none here. The tables below: a high match may be mere habit where the first draw says a "
        "level often at all.",
    )
    tables = [_tabulate_first_draws(run, dimension) for run in runs for dimension in _list_dimensions(run)]
    made: list[Block] = [overall, *tables[:MAX_PLOTS]]
    if tables[MAX_PLOTS:]:
        made.append(blocks.Folded(f"{len(tables) - MAX_PLOTS} more tables", tables[MAX_PLOTS:]))
    return Section("acceptance", "Acceptance and chance", lead, made, any(run.is_simulated for run in runs))


def _list_dimensions(run: TraceRun) -> list[str]:
    return sorted({row[0] for row in utilisation_by_label(run.tally)})


def _describe_first_draw(run: TraceRun, dimension: str) -> Cells:
    scale = run.scale.of(dimension)
    beyond = None if scale is None else acceptance_beyond_chance(run.tally, dimension, len(scale.values))
    if beyond is None:
        return []
    tone = "bad" if beyond["corrected"] <= 0 and not run.asks_the_rest else ""
    numbers: Cells = [
        f"{beyond['observed']:.1%}",
        Cell(show_signed(beyond["corrected"]), tone=tone),
        f"{beyond['kappa']:+.3f}".replace("-", "\u2212"),
    ]
    about = ["told the label"] * run.is_hinted + ["of units that earlier runs left"] * run.asks_the_rest
    return [Cell(run.title, ", ".join(about)), dimension, *numbers]


def show_signed(share: float) -> str:
    """Show a share that may be negative."""
    return f"{share:+.1%}".replace("-", "\u2212")


def _tabulate_first_draws(run: TraceRun, dimension: str) -> Table:
    scale = run.scale.of(dimension)
    levels = () if scale is None else scale.values
    counts = count_first_draws(run.tally, dimension)
    units, ratings = sum_margins(counts)
    rows: list[Cells] = []
    for labels, number in sorted(units.items(), key=lambda own: [_order(run, dimension, label) for label in own[0]]):
        share = sum(counts[labels, label] for label in labels) / number
        corrected = correct_for_chance(share, len(labels) / len(levels) if levels else 0.0)
        often = sum(ratings[label] for label in labels) / counts.total()
        tone = "bad" if corrected <= 0 and share < 1 else ""
        shown = Cell(show_signed(corrected), tone=tone)
        rows.append([" or ".join(labels), f"{number:,}", f"{share:.1%}", shown, f"{often:.1%}"])
    about = " · ".join(filter(None, [run.title, dimension]))
    columns = ["target label", "units", "first draw matches", "beyond a uniform guess", "share of all first draws"]
    return Table(f"First draw by target label: {about}", columns, rows)


@dataclass(frozen=True)
class NoisyUnit:
    """A unit that no draw reached."""

    item_id: str
    dimension: str
    label: str
    annotator_labels: Sequence[str]
    ratings: Sequence[tuple[str, int]]
    """What the draws said instead, most frequent first."""
    text: str


def make_noise(units: Sequence[NoisyUnit], num_units: int, num_read: int, min_draws: int) -> Section:
    """Make the section of units that no draw reached though many agree on another level: hard, or mislabelled."""
    lead = (
        f"{num_units:,} of the {num_read:,} units in this page's trace browser have {min_draws} or more rated draws "
        "(browser.min_draws), in all runs together, and none that matches the label. Such a unit is hard, or its label "
        "is wrong. First those whose draws agree most on another level; the trace browser has all of them as a filter."
    )
    rows: list[list[Any]] = []
    for unit in units:
        said = ", ".join(f"{rating} \u00d7 {count}" for rating, count in unit.ratings[:4])
        said += ", …" if len(unit.ratings) > 4 else ""
        people = " ".join(unit.annotator_labels[:12]) + (" …" if len(unit.annotator_labels) > 12 else "")
        head = Cell(unit.item_id, unit.dimension)
        rows.append([head, unit.text, unit.label, people, said])
    columns = ["item", "text", "label", "people said", "draws said"]
    caption = f"The {len(rows):,} most suspect of {num_units:,}" if len(rows) < num_units else "Suspected units"
    made: list[Block] = [Table(caption, columns, rows)] if rows else []
    return Section("noise", "Suspected label noise", lead, made)
