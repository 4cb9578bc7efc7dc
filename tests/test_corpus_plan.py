"""What a plan of prepare_corpus says before a cluster is asked for."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from judgetrace import readers, text_files
from judgetrace.columns import ColumnsConfig
from judgetrace.config import UserError
from judgetrace.corpus import FORMAT_VERSION, name_manifest
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corpus_plan import CorpusPlan, choose_buckets, describe_run, make_plan
from judgetrace.sources import SourceFile, SourcePart
from judgetrace.storage import Folder


def plan_corpus(tmp_path: Path, source: str, columns: dict[str, Any], **more: Any) -> CorpusPlan:
    (tmp_path / "guideline.md").write_text("Rate it from 1 to 5.\n")
    given = {
        "corpus": str(tmp_path / "corpus"),
        "source": {"paths": [str(tmp_path / source)], "layout": "wide" if "labels" in columns else "long"},
        "columns": {"item_id": "item", "text": "text", **columns},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(tmp_path / "guideline.md")},
    }
    return make_plan(PrepareCorpusConfig.model_validate(given | more))


def write_lines(path: Path, *objects: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in objects))


def test_annotators_of_few_items_need_not_be_in_every_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"item": "i", "text": "t", "ann": 1}, {"item": "j", "text": "t", "bob": 2})
    write_lines(tmp_path / "b.jsonl", {"item": "k", "text": "t", "cat": 1})

    assert plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob", "cat"]}).warnings == ()
    with pytest.raises(UserError, match=r"columns\.labels: \['dan'\] \(1\) occur in no source file; found: "):
        plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob", "cat", "dan"]})
    with pytest.raises(UserError, match=r"b\.jsonl: no column 'ann'"):
        plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob"]})


def test_an_annotator_who_may_come_later_in_a_file_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (readers, text_files):
        monkeypatch.setattr(room, "HEADER_BYTES", 60)
    lines = [{"item": f"i{n}", "text": "t", "ann": 1} for n in range(5)]
    write_lines(tmp_path / "a.jsonl", *lines, {"item": "j", "text": "t", "bob": 2})

    (warning,) = plan_corpus(tmp_path, "a.jsonl", {"labels": ["ann", "bob"]}).warnings

    assert warning.startswith("columns.labels: ['bob'] (1) occur in no source file, as far as their first bytes tell")


def make_parts(tmp_path: Path, row_bytes: int, size_bytes: int, name: str = "big.csv") -> list[SourcePart]:
    """Make the part of a file that is said to be large, of which some rows are there."""
    content = ("x" * (row_bytes - 1) + "\n").encode() * 100
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    file = SourceFile(f"file://{tmp_path}/{name}", "csv", size_bytes, "1")
    return [SourcePart(file, 0, size_bytes=size_bytes)]


@pytest.mark.parametrize(
    ("row_bytes", "gigabytes", "name", "labels", "expected"),
    [
        (1000, 100, "a.csv", 0, 2001),  # 1e8 rows, 50,000 a bucket; of 32 MiB it would be 2980
        (10_000, 100, "a.csv", 0, 373),  # 256 MiB a bucket
        (10_000, 20, "a.csv.gz", 0, 373),  # as many, five-fold compressed
        (100, 1, "a.csv", 0, 30),  # 1e7 rows are 200 buckets of 50,000, but 29 of 32 MiB
        (20, 1, "a.csv", 0, 101),  # 5e7 rows, 500,000 a bucket
        (1000, 1, "a.csv", 20, 41),  # 2e7 label cells, 500,000 a bucket
        (1000, 0.001, "a.csv", 0, 1),
    ],
)
def test_buckets_of_text_files_are_chosen_by_the_length_of_their_rows(
    tmp_path: Path, row_bytes: int, gigabytes: float, name: str, labels: int, expected: int
) -> None:
    parts = make_parts(tmp_path, row_bytes, int(gigabytes * 1e9), name)
    columns = {"labels": [f"a{n}" for n in range(labels)]} if labels else {"label": "label"}

    assert choose_buckets(ColumnsConfig(item_id="item", text="text", **columns), parts) == expected


def test_buckets_of_parquet_are_chosen_by_its_rows_and_bytes() -> None:
    columns = ColumnsConfig(item_id="item", text="text", label="label")
    file = SourceFile("file:///a.parquet", "parquet", 1, "1")

    assert choose_buckets(columns, [SourcePart(file, 0, num_rows=100_000, size_bytes=1)] * 2) == 5
    assert choose_buckets(columns, [SourcePart(file, 0, num_rows=1, size_bytes=2**30)]) == 5


def test_files_that_are_far_too_many_for_the_buckets_of_a_corpus_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judgetrace.corpus_plan.BYTES_PER_BUCKET", 1000)
    (tmp_path / "a.csv").write_text("item,text,label\n" + "i,t,1\n" * 10)
    first = plan_corpus(tmp_path, "a.csv", {"label": "label"})
    assert (first.rules.num_buckets, first.warnings) == (1, ())
    manifest = {"generation": 0, "format_version": FORMAT_VERSION, "buckets": 1, "files": [], "input": []}
    Folder(first.config.corpus).write_json(
        name_manifest(0), {**manifest, **describe_run(first.config, first.guideline)}
    )

    (tmp_path / "a.csv").write_bytes(b"item,text,label\n" + b"i,t,1\n" * 664)  # 4000 bytes: 5 buckets
    plan = plan_corpus(tmp_path, "a.csv", {"label": "label"})

    assert plan.rules.num_buckets == 1
    (warning,) = plan.warnings
    assert "has 1 bucket(s), as its first run chose; the new files alone would have 5" in warning
    assert "in some 5 runs" in warning
    assert "--shards.buckets=5" in warning
    (tmp_path / "a.csv").write_bytes(b"item,text,label\n" + b"i,t,1\n" * 663)
    assert plan_corpus(tmp_path, "a.csv", {"label": "label"}).warnings == ()
