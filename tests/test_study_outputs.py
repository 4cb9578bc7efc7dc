"""Fingerprints of what a stage has made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from judgetrace.storage import Folder, encode_parquet
from judgetrace.study.outputs import identify_output


def write_run(folder: Folder, rows: int, contract: str = "same") -> Folder:
    folder.write_json("contract.json", {"model": contract})
    (folder / "traces").write_atomic("shard-00000.parquet", encode_parquet(pa.table({"n": list(range(rows))})))
    return folder


def test_more_rows_are_the_same_output_grown(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    before = identify_output("infer", "infer", write_run(folder, 10))
    again = identify_output("infer", "infer", write_run(folder, 10))
    after = identify_output("infer", "infer", write_run(folder, 500))

    assert again == before
    assert (after.identity, after.content == before.content) == (before.identity, False)


def test_another_contract_or_another_folder_is_another_output(tmp_path: Path) -> None:
    first = identify_output("infer", "infer", write_run(Folder(str(tmp_path / "a")), 10))
    other = identify_output("infer", "infer", write_run(Folder(str(tmp_path / "b")), 10, "other"))
    moved = identify_output("infer", "infer.2", write_run(Folder(str(tmp_path / "c")), 10))

    assert len({first.identity, other.identity, moved.identity}) == 3


def test_a_manifest_that_was_written_again_at_another_time_is_the_same_output(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_json("manifest.json", {"contract": {"a": 1}, "at": 1.0, "seconds": 3, "versions": {"ray": "1"}})
    before = identify_output("train", "train/tuned", folder)
    folder.write_json("manifest.json", {"contract": {"a": 1}, "at": 2.0, "seconds": 4, "versions": {"ray": "2"}})
    assert identify_output("train", "train/tuned", folder) == before
    folder.write_json("manifest.json", {"contract": {"a": 2}, "at": 2.0})
    assert identify_output("train", "train/tuned", folder) != before
