"""What a run of rate_items has come to: a summary for people. Agreement with intervals is measure_agreement's."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judgetrace.accounting import Tally, coverage_by_dimension, label_counts
from judgetrace.ledger import current_shard_files
from judgetrace.run_folder import RunFolder
from judgetrace.scale import ScaleConfig

MAX_DIMENSIONS = 20
NOTHING_TO_COMPARE = (
    "No table of labels: none of these items has one target label (target.rule per_annotator keeps one for each "
    "annotator); measure_agreement compares with the annotators."
)


def print_rating_summary(console: Console, summary: dict[str, Any], scale: ScaleConfig) -> None:
    """Print a run's figures: coverage, how labels are distributed beside the target labels, tokens, faults."""
    tally = Tally.from_json(summary["tally"])
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(tally.outcomes().items())) or "none yet"
    console.print(f"\n[bold]Items[/]: {summary['decided']:,} of {summary['units']:,} decided: {outcomes}")
    if not tally.num_units:
        return
    has_targets = False
    for dimension, rated, total in coverage_by_dimension(tally)[:MAX_DIMENSIONS]:
        name = f" ({dimension})" if dimension else ""
        console.print(f"Coverage{name}: {rated / total:.1%} of {total:,} items have a rating", markup=False)
        own = scale.of(dimension)
        table = None if own is None else _tabulate_labels(tally, dimension, own.values)
        if table is not None:
            console.print(table)
            has_targets = True
    if not has_targets:
        console.print(NOTHING_TO_COMPARE)
    tokens = tally.tokens
    rate = tokens["output"] / summary["engine_seconds"] if summary["engine_seconds"] else 0.0
    console.print(
        f"Tokens: {tokens['prompt']:,} read, {tokens['output']:,} sampled, {rate:,.0f} a second of engine time"
    )
    for error, count in tally.errors.most_common(5):
        console.print(f"  {count:,} x {error.replace(chr(31), ': ')}", markup=False)


def _tabulate_labels(tally: Tally, dimension: str, levels: tuple[str, ...]) -> Table | None:
    """Make the table; None where no item has a target label to compare with."""
    targets, given = label_counts(tally, dimension)
    if not targets:
        return None
    table = Table(title="Labels: how often people's targets and this rater gave each", title_justify="left")
    table.add_column("")
    for level in levels:
        table.add_column(escape(level), justify="right")
    table.add_row("target", *(f"{targets[level]:,}" for level in levels))
    table.add_row("rater", *(f"{given[level]:,}" for level in levels))
    return table


def print_ratings(console: Console, run: RunFolder, limit: int = 3) -> None:
    """Print some of the annotations."""
    published = run.folder / "annotations"
    for name in list(current_shard_files(published).values())[:1]:
        columns = ["item_id", "dimension", "label", "rating", "spread", "target_label", "outcome"]
        for row in published.read_table(name, columns).slice(0, limit).to_pylist():
            what = f"{row['item_id']} {row['dimension']}".strip()
            number = "" if row["rating"] is None else f" ({row['rating']:.2f})"
            target = "" if row["target_label"] is None else f", target {row['target_label']}"
            console.print(f"  {what}: {row['label'] or row['outcome']}{number}{target}", markup=False)
