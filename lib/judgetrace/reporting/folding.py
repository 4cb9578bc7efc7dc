"""Fold what is long, and say what a page leaves out of what is too long for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from judgetrace.reporting.blocks import Block, Figure, Figures, Folded, Prose, Table


def fold_rows(table: Table, whole: str, shown: int = 60, most: int = 600) -> list[Block]:
    """Show a table's first `shown` rows and fold the others, up to `most` in all; say that `whole` has the rest."""
    made: list[Block] = [replace(table, rows=table.rows[:shown])]
    rest = table.rows[shown:most]
    if rest:
        made.append(Folded(f"{len(rest):,} more rows", [replace(table, rows=rest, note="")]))
    return [*made, *say_left_out(len(table.rows) - most, "rows", whole)]


def fold_figures(figures: Sequence[Figure], shown: int, title: str) -> list[Block]:
    """Show the first `shown` plots and fold the others under a title."""
    made: list[Block] = [Figures(figures[:shown])] if figures[:shown] else []
    return [*made, Folded(title, [Figures(figures[shown:])])] if figures[shown:] else made


def group(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a sequence into runs of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def say_left_out(count: int, what: str, whole: str) -> list[Block]:
    """Say how much a page leaves out, and where the whole is; nothing where nothing is left out."""
    return [Prose(f"{count:,} more {what} are left out here; all are in {whole}.", quiet=True)] if count > 0 else []
