"""annotations -> agreement: how far annotators and raters agree, among themselves and with each other.

python -m jobs.measure_agreement CONFIG.toml [--section.key=value ...]

sources --map--> rows by bucket --reduce--> counts that add --> statistics, intervals, report. Writes into the output
folder agreement.parquet (a row a statistic), report.md, and last agreement.json: its existence means complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from judgetrace.agreement.config import MeasureAgreementConfig
from judgetrace.agreement.counts import MAX_CLUSTERS
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.agreement.report import ReportFacts, write_report
from judgetrace.agreement.results import (
    DimensionCounts,
    MeasureRules,
    Results,
    join_results,
    measure_dimension,
    split_dimensions,
)
from judgetrace.agreement.run import Collected, RunTasks, collect_counts
from judgetrace.agreement.sources import Inputs, find_inputs
from judgetrace.agreement.summary import print_first_look
from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.labels import TargetConfig
from judgetrace.session import connect_ray
from judgetrace.storage import Folder, encode_parquet
from judgetrace.tasks import run_tasks
from judgetrace.versions import list_versions

FORMAT_VERSION = 1
BLOCKS = f", hashed into {MAX_CLUSTERS:,} blocks"


def main(arguments: list[str]) -> int:
    """Run the job; returns the exit status."""
    config = load_config(MeasureAgreementConfig, "measure_agreement", arguments)
    inputs = find_inputs(config)
    if config.dry_run:
        print_dry_run(config, inputs)
        return 0
    started = time.monotonic()
    folder = Folder(config.output)
    folder.delete(["agreement.json"])
    with connect_ray(config.cluster):
        run_each = partial(run_tasks, wait_s=config.cluster.wait_s)
        collected = collect_counts(config, inputs, folder, run_each)
        results = measure(config, collected, run_each)
    facts = gather_facts(config, inputs, collected, results)
    document = describe(config, inputs, collected, results, facts.notes)
    document["seconds"] = round(time.monotonic() - started, 1)
    table = results.to_table()
    folder.write_atomic("agreement.parquet", encode_parquet(table))
    rows = table.to_pylist()
    folder.write_atomic("report.md", write_report(rows, facts).encode())
    folder.write_json("agreement.json", document)
    console = open_console()
    print_first_look(console, rows, facts)
    console.print(f"{collected.total.num_units:,} units, {len(rows):,} figures")
    print_place(console, "Report", f"{config.output}/report.md")
    return 0


def measure(config: MeasureAgreementConfig, collected: Collected, run_tasks: RunTasks) -> Results:
    """Measure everything, a task for each dimension."""
    rules, total = collected.rules, collected.total
    tables = total.finish()
    codes = {name: RatingCodes(scale) for name in {key.dimension for key in tables} if (scale := rules.scales.of(name))}
    measure_rules = MeasureRules(
        clusters=total.clusters.names,
        replicates=config.intervals.replicates,
        seed=config.intervals.seed,
        level=config.intervals.level,
        eps=config.alternative_test.eps,
        raters=rules.rater_names,
    )

    def run(number: int, counts: DimensionCounts) -> tuple[int, Results]:
        return number, measure_dimension(counts, measure_rules)

    parts = dict(run_tasks("measure", run, split_dimensions(tables, total.tests, codes)))
    return join_results([part for _, part in sorted(parts.items())])


def gather_facts(config: MeasureAgreementConfig, inputs: Inputs, collected: Collected, results: Results) -> ReportFacts:
    """Gather what the report says besides the figures."""
    survey, total = collected.survey, collected.total
    notes = [
        f"{run} rated another corpus: the items that both have are compared, and its splits may be others."
        for run in inputs.foreign_runs
    ]
    if survey.unusable:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(survey.unusable.items()))
        notes.append(f"rows that could not be used: {reasons}; agreement.json has examples.")
    if total.num_duplicates:
        notes.append(
            f"{total.num_duplicates:,} repeated labels of the same annotator and unit: the first of them counts."
        )
    raters = dict(zip(collected.rules.raters, collected.rules.rater_names, strict=True))
    for (dimension, source, rater, outcome), count in sorted(survey.without_rating.items()):
        where = f" ({dimension})" if dimension else ""
        notes.append(f"{raters.get((source, rater), rater)}{where}: {count:,} row(s) without a rating: {outcome}.")
    return ReportFacts(
        scales=inputs.scales,
        rule=describe_rule(inputs.target),
        level=config.intervals.level,
        replicates=config.intervals.replicates,
        resampled=("groups" if inputs.by_group else "items") + (BLOCKS if total.clusters.is_folded else ""),
        annotations=survey.rows,
        units=total.num_units,
        raters=collected.rules.rater_names,
        eps=config.alternative_test.eps,
        notes=notes,
        confusions=results.confusions,
    )


def describe_rule(target: TargetConfig) -> str:
    """Describe the target rule in a line."""
    details = {
        "median": f"items with a sample SD above {target.max_sd:g} are dropped" if target.max_sd is not None else ""
    }
    details["majority"] = f"ties: {target.tie}"
    details["single"] = "items with several labels are dropped"
    detail = details.get(target.rule, "")
    return f"{target.rule} ({detail})" if detail else target.rule


def describe(
    config: MeasureAgreementConfig, inputs: Inputs, collected: Collected, results: Results, notes: Sequence[str]
) -> dict[str, Any]:
    """Describe the run and all its figures."""
    survey, total = collected.survey, collected.total
    return {
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "scale": inputs.scales.model_dump(mode="json"),
        "target": inputs.target.model_dump(mode="json"),
        "input": [{"source": inputs.sources[index].name, **asdict(file)} for index, file in inputs.files],
        "counts": {
            "annotations": survey.rows,
            "units": total.num_units,
            "duplicates": total.num_duplicates,
            "unusable": dict(sorted(survey.unusable.items())),
            "examples_of_unusable": survey.examples,
        },
        "notes": list(notes),
        "statistics": results.rows,
        "confusion_matrices": results.confusions,
        "versions": list_versions(),
    }


def print_dry_run(config: MeasureAgreementConfig, inputs: Inputs) -> None:
    """Print the resolved config and what would be read."""
    print(json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False))
    for index, source in enumerate(inputs.sources):
        rows = sum(part.num_rows or 0 for number, part in inputs.parts if number == index)
        files = sum(number == index for number, _ in inputs.files)
        print(f"{source.name}: {files} file(s), {rows:,} rows, columns {source.name_columns()}")
    print(f"target rule: {inputs.target.rule}; intervals over {'groups' if inputs.by_group else 'items'}")


if __name__ == "__main__":
    run_job(main)
