"""Runs of infer_traces, small enough to write guidelines from in tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from judgetrace.schema import TRACES
from judgetrace.storage import Folder, encode_parquet

REASONS = {
    "1": "The word names something that hurts people, so most readers feel bad when they read it.",
    "2": "The word names a thing or an act that nobody likes or dislikes, so it is neither good nor bad.",
    "3": "The word names something that people wish for, so most readers feel good when they read it.",
}


def make_trace_row(number: int, level: str, trace: str, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TRACES.names, None)
    row |= {"item_id": f"item-{number:04d}", "dimension": "", "target_source": "aggregate", "target_label": level}
    row |= {"accepted_labels": [level], "annotator_labels": [level], "group": f"g{number}", "split": "train"}
    row |= {"fields": json.dumps({"text": f"word number {number}"}), "extra": "{}", "outcome": "accepted"}
    return row | {"trace": trace, "rating": level, "draws": [], "shortened": False} | more


def write_trace_run(url: str, shards: Sequence[Sequence[dict[str, Any]]]) -> str:
    for number, rows in enumerate(shards):
        table = pa.Table.from_pylist(list(rows), TRACES)
        (Folder(url) / "traces").write_atomic(f"shard-{number:05d}.parquet", encode_parquet(table))
    return url


def make_levels(num: int, levels: str = "123") -> list[dict[str, Any]]:
    return [
        make_trace_row(n, levels[n % len(levels)], f"{REASONS[levels[n % len(levels)]]} That is case {n} here.")
        for n in range(num)
    ]
