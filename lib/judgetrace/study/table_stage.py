"""The stage that reads the agreement outputs of a study and writes its table. Needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from judgetrace.corpus import read_finished
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder, encode_parquet
from judgetrace.study.headline import ORIGINAL, REFINED, make_table, write_headline
from judgetrace.study.records import Record
from judgetrace.study.stages import Stage

PANELS = {ORIGINAL: "agreement.before", REFINED: "agreement.after"}


def write_table_stage(
    study: Folder, stages: Sequence[Stage], records: Mapping[str, Record], output: Folder
) -> tuple[pa.Table, list[str]]:
    """Write table.parquet and table.md; returns the table (headline.TABLE) and what it lacks."""
    complete = [stage for stage in stages if records.get(stage.name, Record()).state == "complete"]
    folders = {stage.name: study / records[stage.name].folder for stage in complete}
    measured = set(records["agreement.all"].inputs)
    raters = [
        dict(stage.about) for stage in complete if stage.kind in ("rate", "recalibrate") and stage.name in measured
    ]
    panels = {name: _read_rows(folders[stage]) for name, stage in PANELS.items() if stage in folders}
    if ORIGINAL not in panels and all(rater["guideline"] == ORIGINAL and rater["role"] == "rater" for rater in raters):
        panels[ORIGINAL] = _read_rows(folders["agreement.all"])
    scales = ScaleConfig.model_validate(read_finished(folders["prepare"])[0]["config"]["scale"])
    table = make_table(raters, _read_rows(folders["agreement.all"]), panels, scales)
    notes = _list_notes(stages, records)
    output.write_atomic("table.parquet", encode_parquet(table))
    output.write_atomic("table.md", write_headline(table, notes).encode())
    return table, notes


def _read_rows(folder: Folder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = folder.read_table("agreement.parquet").to_pylist()
    return rows


def _list_notes(stages: Sequence[Stage], records: Mapping[str, Record]) -> list[str]:
    """List what the table lacks, and why."""
    notes = []
    for stage in stages:
        record = records.get(stage.name, Record())
        if stage.kind in ("rate", "recalibrate") and record.state != "complete":
            rater = f"{stage.about['rater'].removesuffix('-refined')} ({stage.about['guideline']} guideline)"
            notes.append(f"Without {rater}: {record.state}{f', {record.why}' if record.why else ''}.")
    return notes
