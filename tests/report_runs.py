"""Runs as the jobs leave them, written without any job: what the report's tests and its benchmark read."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from judgetrace.accounting import tally_traces
from judgetrace.ledger import encode_shard
from judgetrace.refining.critiques import CRITIQUES
from judgetrace.refining.guideline_file import diff_guidelines
from judgetrace.refining.outcome import Outcome, describe_outcome, tabulate_candidates
from judgetrace.schema import TRACES
from judgetrace.storage import Folder, encode_json, encode_parquet
from judgetrace.training.progress import METRICS

LEVELS = ["1", "2", "3", "4", "5"]


def make_draw(index: int, rating: str | None, label: str, text: str | None = None) -> dict[str, Any]:
    """Make a draw that disagrees, or is accepted where it says the label."""
    reason = "unparsed" if rating is None else "accepted" if rating == label else "disagrees"
    return {
        "index": index,
        "seed": index,
        "reason": reason,
        "rating": rating,
        "accepted_by": "exact" if reason == "accepted" else None,
        "constrained": False,
        "prompt_tokens": 100,
        "output_tokens": 20,
        "text": text,
        "trace": text,
    }


def make_row(
    item: str, fields: dict[str, str], label: str, ratings: Sequence[str | None], trace: str = "Because.", **more: Any
) -> dict[str, Any]:
    """Make a row of traces whose draws gave `ratings`; accepted where the last of them is the label."""
    accepted = bool(ratings) and ratings[-1] == label
    last = len(ratings) - 1
    draws = [make_draw(n, rating, label, trace if accepted and n == last else None) for n, rating in enumerate(ratings)]
    row = {
        "item_id": item,
        "dimension": "",
        "target_source": "aggregate",
        "target_label": label,
        "accepted_labels": [label],
        "annotator_labels": [label, label],
        "label_sd": 0.0,
        "group": item,
        "split": "train",
        "fields": json.dumps(fields),
        "extra": "{}",
        "outcome": "accepted" if accepted else "exhausted",
        "trace": trace if accepted else None,
        "rating": label if accepted else None,
        "draw_index": last if accepted else None,
        "accepted_by": "exact" if accepted else None,
        "num_needed": len(ratings),
        "shortened": False,
        "draws": draws,
    }
    return {**row, **more}


def write_trace_run(
    run: Folder, shards: Sequence[pa.Table], engine: str | None = None, units: int | None = None
) -> None:
    """Write a complete run of infer_traces of tables of schema.TRACES."""
    for number, table in enumerate(shards):
        (run / "traces").write_atomic(f"shard-{number:05d}.parquet", encode_shard(table, tally_traces(table)))
    config = {"corpus": "nowhere", "engine": {"kind": engine}, "sampling": {"max_draws": 8}, "endpoint": None}
    scale = {"values": LEVELS, "type": "ordinal", "dimensions": {}}
    total = sum(map(len, shards)) if units is None else units
    driver = {"job": "infer_traces", "product": "traces", "scale": scale, "max_draws": 8, "units": total}
    run.write_atomic("drivers/driver-00000.json", encode_json({**driver, "config": config}))
    run.write_atomic("manifest.json", encode_json({"job": "infer_traces", "config": config, "engine_seconds": 10.0}))


def make_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make a table of traces of rows."""
    return pa.Table.from_pylist(list(rows), schema=TRACES)


def write_refinement(run: Folder, outcome: Outcome, original: str, returned: str) -> None:
    """Write what refine_guideline leaves of an outcome, but for its ledgers and its manifest."""
    run.write_json("refinement.json", describe_outcome(outcome))
    run.write_atomic("candidates.parquet", encode_parquet(tabulate_candidates(outcome)))
    run.write_atomic("critiques.parquet", encode_parquet(CRITIQUES.empty_table()))
    run.write_atomic("guideline.diff", diff_guidelines(original, returned).encode())


def write_training_run(run: Folder, steps: int = 20) -> None:
    """Write the curves of a run of train_rater that is not complete; every fifth step is validated."""
    rows = []
    for step in range(steps + 1):
        share = step / steps
        figures = {"expected_tau": share / 2, "expected_qwk": share / 3, "expected_mse": 2 - share}
        validation = json.dumps(figures) if step % 5 == 0 else None
        # Before the first step the base is only validated.
        tokens = 100 if step else None
        rows.append(
            {"step": step, "loss": 3 - 2 * share, "num_tokens": tokens, "seconds": 1.5, "validation": validation}
        )
    run.write_atomic("metrics.parquet", encode_parquet(pa.Table.from_pylist(rows, METRICS)))
