"""Whether a second model recovers the label from accepted traces, as a section of the report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from judgetrace.reporting.blocks import Block, Section, Table

_COUNTED = ("outcomes", "counts", "verified", "recovered", "by_label", "by_proposal")


def make_verification(about: Mapping[str, Any]) -> Section:
    """Make the section of a verification from what its manifest counts."""
    manifest = about["manifest"]
    made: list[Block] = [*_tabulate_counts(manifest)]
    lead = (
        "Every mention of the rating was stripped from a trace, and a second model was asked for the label. A trace "
        "from which it can't be recovered gives no reasons for its rating."
    )
    return Section("verification", "Verification of traces", lead, made)


def _tabulate_counts(manifest: Mapping[str, Any]) -> Iterator[Block]:
    for key in _COUNTED:
        counts = manifest.get(key)
        if isinstance(counts, Mapping) and counts:
            rows = [[str(name).replace("\x1f", " · "), _show(value)] for name, value in counts.items()]
            yield Table(key.replace("_", " ").capitalize(), ["", "traces"], rows)


def _show(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)
