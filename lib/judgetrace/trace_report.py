"""What a run of infer_traces has come to: a summary for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from judgetrace.accounting import Tally, acceptance_beyond_chance, utilisation_by_draws, utilisation_by_label
from judgetrace.gate import LevelShare, describe_level
from judgetrace.ledger import current_shard_files
from judgetrace.run_folder import RunFolder
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder

MAX_LABEL_ROWS = 40


def accepted_traces(run: Folder, limit: int) -> Iterator[dict[str, Any]]:
    """Read some accepted traces, as many as `limit`, from different labels as far as the first files allow."""
    seen: set[str] = set()
    spare: list[dict[str, Any]] = []
    given = 0
    for name in list(current_shard_files(run / "traces").values())[:5]:
        columns = ["item_id", "dimension", "target_label", "outcome", "trace", "rating", "draw_index", "fields"]
        for row in (run / "traces").read_table(name, columns).to_pylist():
            if row["outcome"] != "accepted":
                continue
            if row["target_label"] in seen:
                spare.append(row)
                continue
            seen.add(row["target_label"])
            yield row
            given += 1
            if given == limit:
                return
    yield from spare[: limit - given]


def print_trace_summary(console: Console, summary: dict[str, Any], scale: ScaleConfig, draws: int) -> None:
    """Print a run's figures: outcomes, data utilisation by draws and by label, acceptance beyond chance, tokens."""
    tally = Tally.from_json(summary["tally"])
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(tally.outcomes().items())) or "none yet"
    console.print(f"\n[bold]Units[/]: {summary['decided']:,} of {summary['units']:,} decided: {outcomes}")
    if not tally.num_tried:
        return
    _print_utilisation_by_draws(console, tally, draws)
    _print_utilisation_by_label(console, tally, scale)
    _print_gate(console, summary.get("gate"))
    for dimension in sorted({row[0] for row in utilisation_by_label(tally)}):
        own = scale.of(dimension)
        beyond = None if own is None else acceptance_beyond_chance(tally, dimension, len(own.values))
        if beyond is not None:
            console.print(
                f"First draw{f' ({dimension})' if dimension else ''}: matches {beyond['observed']:.1%}; "
                f"{beyond['corrected']:+.1%} beyond a uniform guess, kappa {beyond['kappa']:+.3f}",
                markup=False,
            )
    tokens, accepted = tally.tokens, tally.num_accepted
    rate = tokens["output"] / summary["engine_seconds"] if summary["engine_seconds"] else 0.0
    console.print(
        f"Tokens: {tokens['output']:,} sampled ({tokens['output'] / accepted if accepted else 0:,.0f} per accepted "
        f"trace, {tokens['overshoot'] / max(1, tokens['output']):.1%} on draws that nothing depended on), "
        f"{rate:,.0f} a second of engine time"
    )
    console.print(f"Draws: {', '.join(f'{n:,} {reason}' for reason, n in tally.draws.most_common())}")
    for error, count in tally.errors.most_common(5):
        console.print(f"  {count:,} x {error.replace(chr(31), ': ')}", markup=False)


def _print_gate(console: Console, gate: dict[str, Any] | None) -> None:
    """Print which levels are below the gate, if there is one."""
    if gate is None:
        return
    console.print(
        f"Gate: at least {gate['min_level_acceptance']:.1%} of each label's decided units are to be accepted; "
        f"{len(gate['breaches'])} below it, {len(gate['too_few_units'])} with fewer than {gate['min_units']} units"
    )
    for level in gate["breaches"]:
        console.print(f"  below: {describe_level(LevelShare(**level))}", markup=False)


def _print_utilisation_by_draws(console: Console, tally: Tally, max_draws: int) -> None:
    table = Table(title="Data utilisation by number of draws", title_justify="left", show_header=True)
    points = utilisation_by_draws(tally, max_draws)
    for n in points:
        table.add_column(f"{n}", justify="right")
    table.add_row(*(f"{share:.1%}" for share in points.values()))
    console.print(table)


def _print_utilisation_by_label(console: Console, tally: Tally, scale: ScaleConfig) -> None:
    table = Table(title="Data utilisation by target label", title_justify="left")
    rows = utilisation_by_label(tally)
    named = any(row[0] for row in rows)
    for name in (["dimension"] if named else []) + ["label"]:
        table.add_column(name)
    for name in ("accepted", "units", "utilisation"):
        table.add_column(name, justify="right")

    def order(row: tuple[str, str, int, int]) -> tuple[str, int]:
        own = scale.of(row[0])
        return row[0], (own.find_level(row[1]) or 0) if own else 0

    for dimension, label, hits, units in sorted(rows, key=order)[:MAX_LABEL_ROWS]:
        names = map(Text, [dimension, label] if named else [label])
        table.add_row(*names, f"{hits:,}", f"{units:,}", f"{hits / units:.1%}")
    console.print(table)
    if len(rows) > MAX_LABEL_ROWS:
        console.print(f"  ... and {len(rows) - MAX_LABEL_ROWS} more, in the manifest")


def print_traces(console: Console, run: RunFolder, limit: int = 3) -> None:
    """Print some accepted traces."""
    rows = list(accepted_traces(run.folder, limit))
    console.print(f"\n[bold]{len(rows)} accepted traces[/]" if rows else "\nNo trace was accepted.")
    for row in rows:
        what = f"{row['item_id']} {row['dimension']}".strip()
        console.print(f"  {what}: label {row['target_label']}, draw {row['draw_index']}", markup=False)
        console.print(f"    item:  {_shorten(row['fields'])}", markup=False)
        console.print(f"    trace: {_shorten(row['trace'] or '')}", markup=False)


def _shorten(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + " ..."
