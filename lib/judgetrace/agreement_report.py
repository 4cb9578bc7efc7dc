"""The Markdown report of measure_agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def write_report(rows: Sequence[dict[str, Any]]) -> str:
    """Write the report."""
    lines = [
        "# Agreement",
        "",
        "| dimension | population | comparison | who | with | statistic | value | interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row["slice_by"]:
            lines.append(
                "| {dimension} | {population} | {comparison} | {who} | {with_whom} | {statistic} | {value} | {low} {high} |".format(
                    **{"low": None, "high": None, **row}
                )
            )
    return "\n".join(lines) + "\n"
