"""What a person is shown of a study: texts that others wrote are shown as they are, brackets and all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs import status
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder
from judgetrace.study.headline import make_table
from judgetrace.study.planning import Verdict
from judgetrace.study.records import FILE, Record, describe_study
from judgetrace.study.showing import print_headline, print_plan, print_stages
from judgetrace.study.stages import Stage
from tests.test_study_headline import ALONE, RATERS, ROWS, SCALES, TOGETHER

WHY = "x [model] [/INST] [/data/x]"
"""Rich reads [model] as a style that it leaves out, and [/INST] as the end of one that was never begun."""
STAGES = [Stage("prepare", "prepare"), Stage("rate.a[b]", "rate", needs=("prepare",))]


def make_console() -> tuple[Console, io.StringIO]:
    printed = io.StringIO()
    return Console(file=printed, width=200, highlight=False), printed


def test_the_plan_shows_an_error_with_brackets_whole() -> None:
    console, printed = make_console()
    verdicts = {"prepare": Verdict("done", "prepare"), "rate.a[b]": Verdict("goes on", "rate/a[b]", WHY)}

    print_plan(console, STAGES, verdicts, frozenset(verdicts))

    assert WHY in printed.getvalue()
    assert "rate.a[b] " in printed.getvalue()
    assert "rate/a[b] " in printed.getvalue()


def test_the_stages_show_an_error_with_brackets_whole() -> None:
    console, printed = make_console()

    print_stages(console, [{"stage": "infer", "state": "failed", "seconds": 1.0, "folder": "infer[b]", "why": WHY}])

    assert WHY in printed.getvalue()
    assert "infer[b] " in printed.getvalue()


def test_the_headline_has_raters_with_each_other_in_a_table_that_fits_a_terminal() -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=80, highlight=False)

    print_headline(console, make_table(RATERS, [*ROWS, *TOGETHER], ALONE, SCALES), ["Mind this."])

    together = printed.getvalue().split("Raters with each other")[1]
    for text in ("0.580", "[0.480,", "0.620", "+0.040", "refined - original", " 31", "Mind this."):
        assert text in together
    assert "\u2026" not in printed.getvalue()


def test_the_status_of_a_study_shows_the_error_of_a_stage_whole(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    study = Folder(str(tmp_path / "study[b]"))
    run = RunFolder(study)
    run.write_state(run.claim(0.0, {"job": "run_study"}), {"state": f"stopped: {WHY}", "at": 0.0})
    study.write_json(FILE, describe_study({}, STAGES, {"prepare": Record("failed", "prepare", why=WHY)}))

    assert status.main([study.url]) == 0

    head, *rest = capsys.readouterr().out.splitlines()
    assert head == f"{study.url} (run_study): stopped: stopped: {WHY}"
    assert any("prepare" in line and WHY in line for line in rest)
