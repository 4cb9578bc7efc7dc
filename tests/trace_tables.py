"""Small tables of units and decisions for tests."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from judgetrace.ledger import current_shard_files
from judgetrace.schema import DECISIONS, ITEMS
from judgetrace.storage import Folder


def make_items(num: int, labels: str = "12345", dimension: str = "", prefix: str = "item") -> pa.Table:
    rows = [
        {
            "item_id": f"{prefix}-{i:04d}",
            "dimension": dimension,
            "target_source": "aggregate",
            "target_label": labels[i % len(labels)],
            "accepted_labels": [labels[i % len(labels)]],
            "annotator_labels": [labels[i % len(labels)], labels[(i + 1) % len(labels)]],
            "label_sd": 0.5,
            "group": f"{prefix}-{i:04d}",
            "split": "train",
            "fields": json.dumps({"text": f"text of {i}"}),
            "extra": "{}",
        }
        for i in range(num)
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def make_draw(index: int, reason: str, rating: str | None = None, tokens: int = 10, **more: Any) -> dict[str, Any]:
    draw: dict[str, Any] = dict.fromkeys((field.name for field in DECISIONS.field("draws").type.value_type), None)
    draw |= {"index": index, "seed": index, "reason": reason, "rating": rating, "constrained": False}
    return draw | {"prompt_tokens": 100, "output_tokens": tokens} | more


def make_decision(items: pa.Table, row: int, outcome: str, draws: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    unit = items.slice(row, 1).to_pylist()[0]
    decision: dict[str, Any] = dict.fromkeys(DECISIONS.names, None)
    decision |= {name: unit[name] for name in ("item_id", "dimension", "target_source")}
    decision |= {"outcome": outcome, "draws": draws, "shortened": False, "num_needed": len(draws)}
    accepted = next((d for d in draws if d["reason"] == "accepted"), None)
    if outcome == "accepted" and accepted is not None:
        decision |= {"trace": "because", "rating": accepted["rating"], "draw_index": accepted["index"]}
        decision |= {"accepted_by": "exact", "num_needed": accepted["index"] + 1}
    return decision | more


def read_published(run: Folder, kind: str = "traces") -> list[dict[str, Any]]:
    """Read the rows that count of a run."""
    published = run / kind
    return [row for name in current_shard_files(published).values() for row in published.read_table(name).to_pylist()]


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DECISIONS)
