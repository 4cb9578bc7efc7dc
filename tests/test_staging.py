"""What a map task makes of its rows."""

from pathlib import Path

from judgetrace.columns import ColumnsConfig
from judgetrace.guideline import parse_guideline
from judgetrace.intake import IntakeRules
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, list_source_files, plan_parts
from judgetrace.staging import StagePlan, StageResult, stage_parts
from judgetrace.storage import Folder


def stage(tmp_path: Path, num_bad: int, num_good: int) -> StageResult:
    """Stage a file of bad rows and then good ones."""
    rows = [*(f"b{n},text,9\n" for n in range(num_bad)), *(f"g{n},text,1\n" for n in range(num_good))]
    (tmp_path / "a.csv").write_text("item,text,label\n" + "".join(rows))
    parts = plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path / "a.csv")])))
    columns = ColumnsConfig(item_id="item", text="text", label="label")
    rules = IntakeRules(columns, ScaleConfig(values=("1", "2")), parse_guideline("Rate."))
    plan = StagePlan(rules, 1, 0)
    return stage_parts(Folder(str(tmp_path / "corpus")), parts, plan, task=3)


def test_a_task_may_admit_no_row_at_all(tmp_path: Path) -> None:
    result = stage(tmp_path, 3, 0)

    assert (result.tally.rows_in, result.tally.num_quarantined, result.pieces) == (3, 3, {})
