from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judgetrace import sources
from judgetrace.config import UserError
from judgetrace.corruption import is_corruption
from judgetrace.sources import SourceConfig, estimate_rows, list_source_files, plan_parts


def list_names(root: Path, *paths: str) -> list[str]:
    files = list_source_files(SourceConfig(paths=[str(root / path) for path in paths]))
    return [file.url.rpartition("/")[2] for file in files]


def test_files_folders_and_globs_are_listed_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl.gz", "notes.txt", ".hidden.csv", "_SUCCESS", "sub/c.parquet", "_tmp/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    assert list_names(tmp_path, ".") == ["a.jsonl.gz", "b.csv", "c.parquet"]
    assert list_names(tmp_path, "*.csv", "b.csv") == ["b.csv"]


def test_a_path_that_matches_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such\.csv: no such file"):
        list_names(tmp_path, "no/such.csv")
    with pytest.raises(UserError, match="no data file"):
        list_names(tmp_path, "*.csv")


def test_a_name_that_tells_no_format_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("{}")

    with pytest.raises(UserError, match=r"--source\.format"):
        list_names(tmp_path, "data")
    assert list_source_files(SourceConfig(paths=[str(tmp_path / "data")], format="jsonl"))[0].format == "jsonl"


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    config = SourceConfig(paths=[str(tmp_path / "a.csv")])
    (tmp_path / "a.csv").write_text("a\n")
    first = list_source_files(config)
    assert list_source_files(config) == first

    (tmp_path / "a.csv").write_text("a\nb\n")
    assert list_source_files(config)[0].fingerprint != first[0].fingerprint


def test_a_parquet_file_is_cut_between_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "a.parquet", row_group_size=100)
    files = list_source_files(SourceConfig(paths=[str(tmp_path)]))
    monkeypatch.setattr(sources, "MAX_PART_ROWS", 350)

    parts = plan_parts(files)

    assert [(part.first_group, part.last_group, part.first_row, part.num_rows) for part in parts] == [
        (0, 3, 0, 300),
        (3, 6, 300, 300),
        (6, 9, 600, 300),
        (9, 10, 900, 100),
    ]
    assert estimate_rows(parts) == 1000


def test_a_file_that_cannot_be_reached_is_not_taken_for_a_corrupt_one() -> None:
    assert is_corruption(OSError("Couldn't deserialize thrift"))
    assert is_corruption(EOFError())
    assert not is_corruption(PermissionError(13, "denied"))
    assert not is_corruption(ConnectionError("reset"))
    # As s3fs makes them: without a number.
    assert not is_corruption(PermissionError("Access Denied"))
    assert not is_corruption(FileNotFoundError("The specified key does not exist."))
