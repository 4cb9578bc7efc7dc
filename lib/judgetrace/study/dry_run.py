"""The dry runs of a study's stages that are to be done and whose inputs are there: they need no cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from judgetrace.config import UserError
from judgetrace.study.kinds import KINDS
from judgetrace.study.planning import Verdict
from judgetrace.study.resolving import resolve_stage
from judgetrace.study.run import CallJob, StudyRun
from judgetrace.study.sections import write_toml
from judgetrace.study.stages import Stage


def print_dry_runs(
    console: Console, run: StudyRun, stages: Sequence[Stage], verdicts: Mapping[str, Verdict], call: CallJob
) -> None:
    """Print the dry run of each stage that could start now, and say what the others wait for."""
    for stage in stages:
        verdict = verdicts[stage.name]
        if verdict.is_done or stage.kind in ("table", "report"):
            continue
        lacking = [name for name in stage.needs if not verdicts[name].is_done]
        if stage.kind == "agreement":
            lacking += [name for name in stage.takes if not verdicts[name].is_done]
        if lacking:
            needs = f": its own dry run needs {', '.join(lacking)} first"
            console.print(Text.assemble((stage.name, "bold"), needs), soft_wrap=True)
            continue
        console.rule(Text(f"{stage.name}: dry run"), align="left")
        folders = run.find_folders() | {stage.name: f"{run.url}/{verdict.folder}"}
        with tempfile.TemporaryDirectory(prefix="judgetrace-study-") as scratch:
            file = Path(scratch) / f"{stage.name}.toml"
            file.write_text(write_toml(resolve_stage(stage, folders).values), encoding="utf-8")
            try:
                call(KINDS[stage.kind], [str(file), "--dry-run"])
            except UserError as error:
                console.print(Text.assemble((stage.name, "bold"), f": {error}"), soft_wrap=True)
