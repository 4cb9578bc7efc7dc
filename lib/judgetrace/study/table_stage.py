"""The stage that reads the agreement outputs of a study and writes its table. Needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from judgetrace.corpus import read_finished
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder, encode_parquet
from judgetrace.study.headline import ORIGINAL, make_table, write_headline
from judgetrace.study.records import Record
from judgetrace.study.repeats import list_repeats
from judgetrace.study.stages import Stage

EVERYONE, COMPARED = "agreement.all", "agreement.before"
"""The stages that measure all raters, and those that are held against each other by the original guideline."""


def write_table_stage(
    study: Folder, stages: Sequence[Stage], records: Mapping[str, Record], output: Folder
) -> tuple[pa.Table, list[str]]:
    """Write table.parquet and table.md; returns the table (headline.TABLE), and what it lacks or must be minded."""
    complete = [stage for stage in stages if records.get(stage.name, Record()).state == "complete"]
    folders = {stage.name: study / records[stage.name].folder for stage in complete}
    measured = set(records[EVERYONE].inputs)
    raters = [
        dict(stage.about) for stage in complete if stage.kind in ("rate", "recalibrate") and stage.name in measured
    ]
    rows = _read_rows(folders[EVERYONE])
    is_alike = all(rater["guideline"] == ORIGINAL and rater["role"] == "rater" for rater in raters)
    original = _read_rows(folders[COMPARED]) if COMPARED in folders else rows if is_alike else []
    scales = ScaleConfig.model_validate(read_finished(folders["prepare"])[0]["config"]["scale"])
    table = make_table(raters, rows, original, scales)
    notes = [*_list_lacking(stages, records), *list_repeats(study, records)]
    output.write_atomic("table.parquet", encode_parquet(table))
    output.write_atomic("table.md", write_headline(table, notes).encode())
    return table, notes


def _read_rows(folder: Folder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = folder.read_table("agreement.parquet").to_pylist()
    return rows


def _list_lacking(stages: Sequence[Stage], records: Mapping[str, Record]) -> list[str]:
    """List what the table lacks, and why."""
    notes = []
    for stage in stages:
        record = records.get(stage.name, Record())
        if stage.kind in ("rate", "recalibrate") and record.state != "complete":
            rater = f"{stage.about['rater'].removesuffix('-refined')} ({stage.about['guideline']} guideline)"
            notes.append(f"Without {rater}: {record.state}{f', {record.why}' if record.why else ''}.")
    return notes
