"""Run measure_agreement's stages in this process, and read its rows; what the tests of agreement share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jobs.measure_agreement import describe, gather_facts, measure
from jobs.prepare_corpus import make_manifest
from judgetrace.agreement.config import MeasureAgreementConfig
from judgetrace.agreement.report import write_report
from judgetrace.agreement.results import Results
from judgetrace.agreement.run import Collected, collect_counts
from judgetrace.agreement.sources import find_inputs
from judgetrace.corpus import BucketResult, commit_manifest, write_bucket
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corpus_plan import make_plan
from judgetrace.staging import stage_parts
from judgetrace.storage import Folder, encode_parquet


def run_here(_: str, run: Callable[[int, Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Run a stage's tasks one after another, the last first: their order must not matter."""
    return (run(number, task) for number, task in reversed(list(enumerate(tasks))))


def collect(folder: Path, config: dict[str, Any]) -> tuple[MeasureAgreementConfig, Collected]:
    """Count what a config names."""
    parsed = MeasureAgreementConfig(output=str(folder / "out"), **config)
    return parsed, collect_counts(parsed, find_inputs(parsed), Folder(parsed.output), run_here)


def measure_here(folder: Path, **config: Any) -> Results:
    """Measure what a config names."""
    parsed, collected = collect(folder, config)
    return measure(parsed, collected, run_here)


def report_here(folder: Path, **config: Any) -> str:
    """Measure what a config names and write the report."""
    parsed, collected = collect(folder, config)
    results = measure(parsed, collected, run_here)
    facts = gather_facts(parsed, find_inputs(parsed), collected, results)
    return write_report(results.to_table().to_pylist(), facts)


def write_table(path: Path, frame: pd.DataFrame, row_group_size: int | None = None) -> str:
    """Write a frame as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False, row_group_size=row_group_size)
    return str(path)


def select(results: Results, **wanted: Any) -> list[dict[str, Any]]:
    """Select rows by their columns; all units unless a slice is asked for."""
    wanted = {"slice_by": "", "population": "all", **wanted}
    return [row for row in results.rows if wanted.items() <= row.items()]


def read_value(results: Results, statistic: str, **wanted: Any) -> float:
    """Read the value of the one row that is meant."""
    (row,) = select(results, statistic=statistic, **wanted)
    return float("nan") if row["value"] is None else float(row["value"])


def prepare_here(folder: Path, people: pd.DataFrame, **config: Any) -> str:
    """Prepare a corpus of labels in long form, as prepare_corpus does; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "guideline.md").write_text("Rate it from 1 to 5.\n")
    source = write_table(folder / "people.parquet", people.assign(text="Text of " + people["item_id"]))
    columns = {name: name for name in ("item_id", "text", "annotator_id", "label")}
    defaults = {"scale": {"values": [1, 2, 3, 4, 5]}, "columns": columns}
    plan = make_plan(
        PrepareCorpusConfig.model_validate(
            {
                "corpus": str(folder / "corpus"),
                "source": {"paths": [source]},
                "guideline": {"path": str(folder / "guideline.md")},
                **defaults,
                **config,
            }
        )
    )
    plan.folder.write_atomic("guideline.md", plan.guideline.text.encode())
    staged = stage_parts(plan.folder, plan.parts, plan.stage, 0)
    total = BucketResult(staged.tally)
    for bucket, piece in staged.pieces.items():
        total.add(write_bucket(plan.folder, bucket, [piece], plan.rules))
    commit_manifest(plan.folder, make_manifest(plan, total))
    return plan.config.corpus


def draw_people(seed: int, items: int = 40, people: str = "abcd", missing: float = 0.25) -> pd.DataFrame:
    """Draw labels 1 ... 5 of some people, in long form."""
    random = np.random.default_rng(seed)
    centre = random.integers(1, 6, items)
    rows = [
        {
            "item_id": f"item {item}",
            "annotator_id": who,
            "label": str(np.clip(centre[item] + random.integers(-1, 2), 1, 5)),
        }
        for item in range(items)
        for who in people
        if random.random() >= missing
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)


def draw_rater(seed: int, name: str, items: int = 40, missing: float = 0.1) -> pd.DataFrame:
    """Draw the annotations of a rater, as rate_items writes them; even seeds give expectations, odd ones levels."""
    random = np.random.default_rng(1000 + seed)
    rows = []
    for item in range(items):
        rating = float(random.integers(1, 6)) if seed % 2 else float(np.round(random.uniform(1, 5), 2))
        rated = random.random() >= missing
        rows.append(
            {
                "item_id": f"item {item}",
                "dimension": "",
                "target_source": "aggregate",
                "rater_id": name,
                "label": str(int(np.ceil(rating - 0.5))) if rated else None,
                "rating": rating if rated else None,
                "spread": 0.1,
                "outcome": "rated" if rated else "unrated",
                "reason": None if rated else "unparsed",
            }
        )
    return pd.DataFrame(rows)


def write_agreement(folder: Path, raters: Sequence[str], items: int = 40, people: str = "abcd", **more: Any) -> str:
    """Write what measure_agreement leaves of some raters and people; returns its output's folder."""
    runs = [folder / f"run{number}" for number in range(len(raters))]
    for number, (run, name) in enumerate(zip(runs, raters, strict=True)):
        write_table(run / "annotations/shard-00000.parquet", draw_rater(number, name, items))
        Folder(str(run)).write_json("contract.json", {"rater_id": name})
    labels = write_table(folder / "people.parquet", draw_people(0, items, people))
    config = {
        "tables": [{"paths": [labels], "kind": "human"}],
        "raters": list(map(str, runs)),
        "scale": {"values": [1, 2, 3, 4, 5]},
        "target": {"rule": "median"},
        "intervals": {"replicates": 50},
        **more,
    }
    return write_output(folder, config)


def write_output(folder: Path, config: dict[str, Any]) -> str:
    """Write what measure_agreement leaves of a config; returns its output's folder."""
    parsed, collected = collect(folder, config)
    results = measure(parsed, collected, run_here)
    output = Folder(parsed.output)
    output.write_atomic("agreement.parquet", encode_parquet(results.to_table()))
    inputs = find_inputs(parsed)
    facts = gather_facts(parsed, inputs, collected, results)
    document = describe(parsed, inputs, collected, results, facts.notes)
    output.write_json("agreement.json", document)
    return parsed.output
