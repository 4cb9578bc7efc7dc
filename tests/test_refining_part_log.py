import pyarrow as pa
import pytest

from judgetrace.refining.part_log import PartLog, PendingRows
from judgetrace.storage import Folder, StoreError

SCHEMA = pa.schema([("a", pa.string()), ("b", pa.string()), ("outcome", pa.string()), ("value", pa.int64())])


def make_row(a: str, b: str, value: int, outcome: str = "rated") -> dict[str, object]:
    return {"a": a, "b": b, "outcome": outcome, "value": value}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(str(tmp_path / "log"))


def open_log(folder: Folder, check=None) -> PartLog:
    log = PartLog(folder, SCHEMA, ("a", "b"), check)
    log.refresh()
    return log


def test_rows_are_known_by_their_key_after_a_restart(folder) -> None:
    log = open_log(folder)
    assert log.commit([make_row("x", "1", 1), make_row("x", "2", 2)]) == 2
    assert log.commit([make_row("y", "1", 3)]) == 1

    again = open_log(folder)

    assert len(again) == 3
    assert again.find("x", "2") == make_row("x", "2", 2)
    assert again.find("y", "2") is None
    assert folder.list_files() == ["part-00000.parquet", "part-00001.parquet"]


def test_who_loses_the_race_for_a_part_drops_what_the_other_wrote(folder) -> None:
    first, second = open_log(folder), open_log(folder)
    first.commit([make_row("x", "1", 1)])

    assert second.commit([make_row("x", "1", 100), make_row("x", "2", 2)]) == 1
    assert second.find("x", "1") == make_row("x", "1", 1)
    assert [row["value"] for row in open_log(folder).rows] == [1, 2]


def test_a_failed_row_is_replaced_by_a_later_one_and_counted(folder) -> None:
    log = open_log(folder)
    for value in (1, 2):
        log.commit([make_row("x", "1", value, "failed")])
    assert (log.is_final("x", "1"), log.count_failures("x", "1")) == (False, 2)
    log.commit([make_row("x", "1", 3)])

    again = open_log(folder)

    assert (again.is_final("x", "1"), again.count_failures("x", "1")) == (True, 2)
    assert again.find("x", "1")["value"] == 3
    assert again.commit([make_row("x", "1", 4)]) == 0


def test_a_writer_that_may_not_write_writes_nothing(folder) -> None:
    def refuse() -> None:
        raise PermissionError("fenced")

    with pytest.raises(PermissionError):
        open_log(folder, refuse).commit([make_row("x", "1", 1)])
    assert folder.list_files() == []


def test_rows_whose_commit_failed_are_committed_by_the_next(folder) -> None:
    faults = [StoreError("the store is away")]

    def check() -> None:
        if faults:
            raise faults.pop()

    pending = PendingRows(open_log(folder, check), 3600.0)
    pending.add([make_row("x", "1", 1)])
    with pytest.raises(StoreError):
        pending.commit()
    pending.add([make_row("x", "2", 2)])
    pending.commit()
    pending.commit()

    assert [row["value"] for row in open_log(folder).rows] == [1, 2]
    assert folder.list_files() == ["part-00000.parquet"]
