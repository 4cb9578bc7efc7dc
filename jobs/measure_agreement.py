"""annotations -> agreement: how far annotators and raters agree, among themselves and with each other.

python -m jobs.measure_agreement CONFIG.toml [--section.key=value ...]

sources --map--> rows by bucket --reduce--> counts that add --> statistics, intervals, report. Writes into the output
folder agreement.parquet (a row a statistic), report.md, and last agreement.json: its existence means complete.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from judgetrace.agreement_config import MeasureAgreementConfig
from judgetrace.agreement_intake import Survey
from judgetrace.agreement_report import write_report
from judgetrace.agreement_results import Measurer, Results
from judgetrace.agreement_run import MapTask, Total, choose_buckets, count_pieces, plan_tasks, stage_rows
from judgetrace.agreement_sources import Inputs, find_inputs, make_unit_rules
from judgetrace.agreement_units import UnitRules
from judgetrace.bootstrap import Resampler
from judgetrace.config import UserError, load_config, run_job
from judgetrace.rating_codes import RatingCodes
from judgetrace.session import connect_ray
from judgetrace.staging import Piece
from judgetrace.storage import Folder, encode_parquet
from judgetrace.tasks import run_tasks
from judgetrace.versions import list_versions

FORMAT_VERSION = 1


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
        try:
            survey, pieces = stage_sources(config, inputs, folder)
            rules = make_unit_rules(config, inputs, survey)
            total = count_buckets(inputs, rules, folder, pieces)
        finally:
            delete_staging(folder)
    results = measure(config, rules, total, survey)
    document = describe(config, inputs, survey, total, results)
    document["seconds"] = round(time.monotonic() - started, 1)
    folder.write_atomic("agreement.parquet", encode_parquet(results.to_table()))
    folder.write_atomic("report.md", write_report(results.rows).encode())
    folder.write_json("agreement.json", document)
    print(f"{survey.rows:,} annotations, {total.num_units:,} units, {len(results.rows):,} figures")
    print(f"Report: {config.output}/report.md")
    return 0


def stage_sources(
    config: MeasureAgreementConfig, inputs: Inputs, folder: Folder
) -> tuple[Survey, dict[int, list[Piece]]]:
    """Run the map stage; returns who said how much and the pieces of each bucket."""
    num_buckets = config.buckets or choose_buckets(inputs.parts)
    sources, rules = inputs.sources, inputs.rules
    survey = Survey()
    found: list[tuple[int, dict[int, Piece]]] = []

    def stage(number: int, task: MapTask) -> Any:
        return number, stage_rows(folder, sources, rules, num_buckets, number, task)

    for number, result in run_tasks("map", stage, plan_tasks(inputs.parts)):
        survey.add(result.survey)
        found.append((number, result.pieces))
    check_unusable(config, survey)
    pieces: dict[int, list[Piece]] = {bucket: [] for bucket in range(num_buckets)}
    for _, own in sorted(found, key=lambda pair: pair[0]):
        for bucket, piece in own.items():
            pieces[bucket].append(piece)
    return survey, pieces


def count_buckets(inputs: Inputs, rules: UnitRules, folder: Folder, pieces: dict[int, list[Piece]]) -> Total:
    """Run the reduce stage and add up its counts."""
    schema = inputs.rules.schema
    total = Total()
    tasks = [own for own in pieces.values() if own]
    for counts in run_tasks("count", lambda _, own: count_pieces(folder, schema, rules, own), tasks):
        total.add(counts)
    return total


def check_unusable(config: MeasureAgreementConfig, survey: Survey) -> None:
    """Raise UserError where there is nothing to measure, or more rows are unusable than the config bears."""
    unusable = sum(survey.unusable.values())
    if not survey.rows:
        raise UserError("the sources hold no annotations")
    if unusable > config.max_unusable_rate * survey.rows:
        raise UserError(
            f"{unusable} of {survey.rows} rows are unusable, over max_unusable_rate = {config.max_unusable_rate}\n"
            f"reasons: {dict(survey.unusable.most_common())}\nfor example:\n  "
            + "\n  ".join(survey.examples)
            + "\nmend the input or the scale, or raise the limit: such rows are left out, of raters they count as missing"
        )


def measure(config: MeasureAgreementConfig, rules: UnitRules, total: Total, survey: Survey) -> Results:
    """Measure everything."""
    dimensions = {dimension for dimension, _ in survey.annotators} | {key[0] for key in survey.without_rating}
    tables = total.finish()
    dimensions |= {key.dimension for key in tables}
    scales = {name: RatingCodes(scale) for name in dimensions if (scale := rules.scales.of(name)) is not None}
    intervals = config.intervals
    resampler = None
    if intervals.replicates:
        resampler = Resampler(total.clusters.names, intervals.seed, intervals.replicates)
    measurer = Measurer(tables, scales, resampler, intervals.level)
    measurer.run()
    measurer.add_tests(total.tests, config.alternative_test.eps, rules.rater_names)
    return measurer.results


def describe(
    config: MeasureAgreementConfig, inputs: Inputs, survey: Survey, total: Total, results: Results
) -> dict[str, Any]:
    """Describe the run and all its figures."""
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
        "statistics": results.rows,
        "confusion_matrices": results.confusions,
        "versions": list_versions(),
    }


def delete_staging(folder: Folder) -> None:
    """Delete what the map stage wrote."""
    with suppress(FileNotFoundError):
        folder.filesystem.rm(folder.path("_staging"), recursive=True)


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
