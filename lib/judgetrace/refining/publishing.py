"""Write and show what a run of refine_guideline came to: its outputs, and the manifest, last. Imports no Ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console

from judgetrace.console import print_place
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.refining.caller import CALL_KEY
from judgetrace.refining.calls import CALLS
from judgetrace.refining.embeddings import EMBEDDING_KEY, EMBEDDINGS
from judgetrace.refining.guideline_file import diff_guidelines
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.outcome import Outcome, describe_outcome, tabulate_candidates
from judgetrace.refining.part_log import PartLog
from judgetrace.refining.report import write_report
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder, encode_json, encode_parquet
from judgetrace.versions import list_versions

SHOWN = ("kendall_tau_b", "icc_3_1", "alpha_nominal")
Rows = Iterable[Mapping[str, Any]]


def write_outputs(outcome: Outcome, critiques: pa.Table, inputs: RefineInputs, folder: Folder) -> None:
    """Write all but the manifest."""
    file = outcome.winner.file
    assert file is not None, outcome.winner
    difference = diff_guidelines(inputs.guideline.text, file)
    folder.write_atomic("candidates.parquet", encode_parquet(tabulate_candidates(outcome)))
    folder.write_atomic("critiques.parquet", encode_parquet(critiques))
    folder.write_atomic("guideline.md", file.encode())
    folder.write_atomic("guideline.diff", difference.encode())
    folder.write_atomic("report.md", write_report(outcome, inputs.dimension, difference).encode())
    folder.write_json("refinement.json", describe_outcome(outcome))


def write_manifest(
    outcome: Outcome, inputs: RefineInputs, run: RunFolder, work: Sequence[Mapping[str, Any]], ratings: Rows
) -> None:
    """Write the manifest: the run is complete. `work` has the seconds and engine_s of every driver."""
    kept = list(ratings)
    by_rater = {}
    for place, rater in enumerate(inputs.config.raters):
        fingerprint = inputs.rater_fingerprint(place)
        own = [row for row in kept if row["rater"] == fingerprint]
        by_rater[rater.rater] = sum_rows("ratings", own, rater.endpoint)
    config = inputs.config
    calls = PartLog(run.folder / "calls", CALLS, CALL_KEY)
    embeddings = PartLog(run.folder / "embeddings", EMBEDDINGS, EMBEDDING_KEY)
    calls.refresh()
    embeddings.refresh()
    manifest = {
        "job": "refine_guideline",
        "config": inputs.config.model_dump(mode="json"),
        "contract": inputs.contract(),
        "dimension": inputs.dimension,
        "versions": list_versions(),
        "at": time.time(),
        "winner": outcome.contest.winner,
        "is_replaced": outcome.contest.confirmation.is_replaced,
        "items": {part: len(rows) for part, rows in outcome.items.rows.items()},
        "calls": sum_rows("calls", calls.rows, config.generator.endpoint),
        "embeddings": sum_rows("embeddings", embeddings.rows, config.embedding.endpoint),
        "ratings": by_rater,
        "seconds": sum(one["seconds"] for one in work),
        "engine_seconds": sum(one["engine_s"] for one in work),
    }
    run.folder.write_atomic("manifest.json", encode_json(manifest))


def sum_rows(name: str, rows: Rows, endpoint: EndpointConfig | None) -> dict[str, float]:
    """Sum up rows: their number, tokens, and what these cost at an endpoint."""
    kept = list(rows)
    prompt, output = (sum(row.get(f"{kind}_tokens") or 0 for row in kept) for kind in ("prompt", "output"))
    found: dict[str, float] = {name: len(kept), "prompt_tokens": prompt, "output_tokens": output}
    return found if endpoint is None else found | {"cost": endpoint.cost(prompt, output)}


def print_outcome(console: Console, run: str, outcome: Outcome) -> None:
    """Show what came of a run."""
    console.print(f"\n[bold]{outcome.contest.confirmation.describe()}[/]", soft_wrap=True)
    for row in outcome.changes.to_pylist():
        if row["before"] is not None and row["statistic"] in SHOWN:
            after = "" if row["after"] is None else f"{row['after']:>7.3f}"
            console.print(f"  {row['who']:<40} {row['statistic']:<16} {row['before']:>7.3f} {after}", markup=False)
    print_place(console, "Guideline", f"{run}/guideline.md")
    print_place(console, "Report", f"{run}/report.md")
