"""What a run of verify_traces has come to: a summary for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from judgetrace.accounting import Tally, recovery_by_label

MAX_LABEL_ROWS = 40


def print_verification_summary(console: Console, summary: dict[str, Any]) -> None:
    """Print a run's figures: how many ratings were recovered, by label, and what was found of the traces."""
    tally = Tally.from_json(summary["tally"])
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(tally.outcomes().items())) or "none yet"
    console.print(f"\n[bold]Traces[/]: {summary['decided']:,} of {summary['units']:,} decided: {outcomes}")
    if not tally.num_units:
        return
    console.print(f"Ratings recovered: {tally.outcomes()['recovered'] / tally.num_units:.1%}")
    _print_by_label(console, tally)
    flags = tally.flags
    console.print(
        f"Still name a level when stripped: {flags['leaks']:,}; hinted: {flags['hinted']:,}, of which "
        f"{flags['hinted_leaks']:,} name a level or say that they were told"
    )
    tokens = tally.tokens
    console.print(f"Tokens: {tokens['prompt']:,} read, {tokens['output']:,} sampled")
    for error, count in tally.errors.most_common(5):
        console.print(f"  {count:,} x {error.replace(chr(31), ': ')}", markup=False)


def _print_by_label(console: Console, tally: Tally) -> None:
    table = Table(title="Recovered by target label", title_justify="left")
    for name in ("dimension", "label"):
        table.add_column(name)
    for name in ("traces", "recovered", "share"):
        table.add_column(name, justify="right")
    for dimension, label, hits, total in recovery_by_label(tally)[:MAX_LABEL_ROWS]:
        table.add_row(Text(dimension), Text(label), f"{total:,}", f"{hits:,}", f"{hits / total:.1%}")
    console.print(table)
