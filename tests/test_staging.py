"""How much of bad input a map task bears, and what it keeps of it."""

from pathlib import Path

import pyarrow as pa
import pytest

from judgetrace import staging
from judgetrace.columns import ColumnsConfig
from judgetrace.guideline import parse_guideline
from judgetrace.intake import IntakeRules
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, list_source_files, plan_parts
from judgetrace.staging import RowCounts, StagePlan, StageResult, is_hopeless, stage_parts
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


def read_rows(folder: Folder) -> list[int]:
    return pa.concat_tables([folder.read_table(name) for name in folder.list_files()])["row"].to_pylist()


def test_a_task_may_admit_no_row_at_all(tmp_path: Path) -> None:
    result = stage(tmp_path, 3, 0)

    assert (result.tally.rows_in, result.tally.num_quarantined, result.pieces) == (3, 3, {})


def test_quarantined_rows_are_written_in_files_of_a_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_LOGGED_FAULTS", 4)

    result = stage(tmp_path, 10, 5)

    stem = "quarantine/part-00000-map-00003"
    assert result.quarantine == [f"{stem}.parquet", f"{stem}-00001.parquet", f"{stem}-00002.parquet"]
    folder = Folder(str(tmp_path / "corpus")) / "quarantine"
    assert sorted(len(folder.read_table(name)) for name in folder.list_files()) == [2, 4, 4]
    assert sorted(read_rows(folder)) == list(range(10))
    assert stage(tmp_path, 0, 5).quarantine == []


def test_a_file_that_begins_with_bad_rows_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task has read so far says nothing of the rest: the limit is for whole tasks."""
    monkeypatch.setattr(staging, "MIN_ROWS_TO_STOP", 100)
    monkeypatch.setattr("judgetrace.batches.BATCH_ROWS", 64)
    tally = stage(tmp_path, 128, 9872).tally

    assert (tally.rows_in, tally.num_quarantined) == (10_000, 128)


@pytest.mark.parametrize(
    ("num_bad", "share", "limit", "expected"),
    [
        (20_000, 1.0, 0.05, True),  # 0.2 > 0.1
        (10_000, 1.0, 0.05, False),  # 0.1
        (100_000, 0.11, 0.05, True),  # 0.11 > 0.1
        (100_000, 0.09, 0.05, False),
        (90_001, 1.0, 0.8, True),  # above half the way from 0.8 to 1
        (90_000, 1.0, 0.8, False),
        (100_000, 1.0, 1.0, False),
    ],
)
def test_what_is_far_above_the_limit(num_bad: int, share: float, limit: float, expected: bool) -> None:
    tally = RowCounts(rows_in=100_000)
    tally.quarantined["unknown_label"] = num_bad

    assert is_hopeless(tally, limit, share) == expected
