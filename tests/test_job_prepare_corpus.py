import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest

from jobs.prepare_corpus import main
from judgetrace.config import UserError
from judgetrace.corpus import list_shards
from judgetrace.storage import Folder

ROOT = Path(__file__).parents[1]
CONFIG = """
corpus = "{corpus}"
[source]
paths = ["{source}"]
[columns]
item_id = "item"
text = "text"
annotator_id = "who"
label = "label"
[scale]
values = [1, 2, 3, 4, 5]
[guideline]
path = "{guideline}"
[shards]
units_per_shard = 10
"""


def write_config(folder: Path, source: object, corpus: object, more: str = "") -> list[str]:
    """Write a config and its guideline; returns the job's arguments."""
    (folder / "guideline.md").write_text("Rate it from 1 to 5.\n")
    text = CONFIG.format(source=source, corpus=corpus, guideline=folder / "guideline.md")
    (folder / "config.toml").write_text(text + more)
    return [str(folder / "config.toml")]


def make_rows(num_items: int, first: int = 0) -> list[dict[str, str]]:
    """Make three labels an item; the SD of every fifth item is above 1."""
    rows = []
    for n in range(first, first + num_items):
        for k, who in enumerate("abc"):
            label = 1 + (n + 2 * k * (n % 5 == 0)) % 5
            rows.append(
                {"item": f"i{n:04d}", "text": f'Text {n}, "so" é', "who": who, "label": f"{label}", "page": f"p{n}"}
            )
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=50)
    elif path.suffix == ".csv":
        pc_csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_all(corpus: object, kind: str) -> list[dict[str, Any]]:
    folder = Folder(str(corpus)) / kind
    return [row for name in folder.list_files() for row in folder.read_table(name).to_pylist()]


def read_manifest(corpus: object, generation: int = 0) -> dict[str, Any]:
    manifest: dict[str, Any] = Folder(str(corpus)).read_json(f"manifest-{generation:05d}.json")
    return manifest


@pytest.mark.slow
def test_parquet_csv_and_jsonl_of_the_same_data_give_the_same_tables(tmp_path: Path, ray_session: None) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        source = write_rows(tmp_path / f"a.{suffix}", make_rows(40))
        assert main([*write_config(tmp_path, source, tmp_path / suffix), "--shards.buckets=3"]) == 0

    for kind in ("items", "annotations", "dropped"):
        assert read_all(tmp_path / "csv", kind) == read_all(tmp_path / "parquet", kind)
        assert read_all(tmp_path / "jsonl", kind) == read_all(tmp_path / "parquet", kind)
    items = {item["item_id"]: item for item in read_all(tmp_path / "parquet", "items")}
    # Items 0, 5, ... have labels 1, 3, 5: a sample SD of 2.
    assert set(items) == {f"i{n:04d}" for n in range(40) if n % 5}
    assert items["i0007"]["annotator_labels"] == ["3", "3", "3"]
    assert json.loads(items["i0007"]["fields"]) == {"text": 'Text 7, "so" é'}
    assert json.loads(items["i0007"]["extra"]) == {"page": "p7"}


BAD_CSV = (
    b"item,text,who,label\n"
    b"i,good,a,1\n"  # 0
    b"i,good,b,\n"  # 1 missing_label
    b"i,good,c,7\n"  # 2 unknown_label
    b"i,good,a,2\n"  # 3 duplicate of row 0
    b",good,a,1\n"  # 4 missing_item_id
    b"j,,a,1\n"  # 5 empty_text
    b"k,caf\xe9,a,1\n"  # 6 undecodable
    b"l,good,a\n"  # 7 invalid_row
    b'm,"' + b"x" * 10_000_000 + b'",a,1\n'  # 8 text_too_long
    b"n,nul \x00 byte,a,1\n"  # 9
    b'o,"two\nlines",a,5.0\n'  # 10
)


@pytest.mark.slow
def test_every_kind_of_bad_row_is_quarantined_with_its_file_row_and_reason(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_bytes(BAD_CSV)

    assert (
        main([*write_config(tmp_path, tmp_path / "*.csv", tmp_path / "out"), "--limits.max_quarantined_rate=0.8"]) == 0
    )

    entries = read_all(tmp_path / "out", "quarantine")
    assert {(Path(entry["file"]).name, entry["row"], entry["reason"]) for entry in entries} == {
        ("bad.csv", 1, "missing_label"),
        ("bad.csv", 2, "unknown_label"),
        ("bad.csv", 3, "duplicate"),
        ("bad.csv", 4, "missing_item_id"),
        ("bad.csv", 5, "empty_text"),
        ("bad.csv", 6, "undecodable"),
        ("bad.csv", 7, "invalid_row"),
        ("bad.csv", 8, "text_too_long"),
    }
    items = {item["item_id"]: item for item in read_all(tmp_path / "out", "items")}
    assert {name: item["target_label"] for name, item in items.items()} == {"i": "1", "n": "1", "o": "5"}
    assert json.loads(items["n"]["fields"])["text"] == "nul \x00 byte"
    counts = read_manifest(tmp_path / "out")["counts"]
    assert (counts["rows_in"], counts["annotations"], counts["rows_quarantined"]) == (11, 3, 8)
    assert "quarantined  8" in capsys.readouterr().out


@pytest.mark.slow
def test_past_the_limit_the_job_stops_with_reasons_and_examples_and_writes_no_manifest(
    tmp_path: Path, ray_session: None
) -> None:
    (tmp_path / "bad.csv").write_bytes(BAD_CSV)

    with pytest.raises(UserError, match=r"7 of 11 rows .*(?s:.*)missing_label.*(?s:.*)bad\.csv row 7: invalid_row"):
        main(write_config(tmp_path, tmp_path / "bad.csv", tmp_path / "out"))

    corpus = Folder(str(tmp_path / "out"))
    assert corpus.list_files(".json") == []
    assert len(read_all(tmp_path / "out", "quarantine")) == 7


@pytest.mark.slow
def test_new_files_are_appended_and_what_is_prepared_stays_as_it_is(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source, corpus = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    write_rows(source / "a.parquet", make_rows(40))
    arguments = [*write_config(tmp_path, source, corpus), "--limits.max_quarantined_rate=0.5", "--shards.buckets=2"]
    assert main(arguments) == 0
    before = {name: (corpus / name).read_bytes() for name in Folder(str(corpus)).list_files(recursive=True)}

    write_rows(source / "b.csv", [*make_rows(40, first=40), *make_rows(2)])
    assert main(arguments) == 0

    assert {name: (corpus / name).read_bytes() for name in before} == before
    assert read_manifest(corpus, 1)["counts"]["quarantined"] == {"already_prepared": 6}
    items = [item["item_id"] for item in read_all(corpus, "items")]
    assert sorted(items) == [f"i{n:04d}" for n in range(80) if n % 5]
    assert len(list_shards(Folder(str(corpus)))) == len(Folder(str(corpus / "items")).list_files())
    capsys.readouterr()
    assert main(arguments) == 0
    assert "nothing new" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"changed: target\.max_sd"):
        main([*arguments, "--target.max_sd=2"])
    write_rows(source / "a.parquet", make_rows(41))
    with pytest.raises(UserError, match=r"changed since.*a\.parquet"):
        main(arguments)


@pytest.mark.slow
def test_the_job_reads_from_s3_and_writes_to_s3_what_it_writes_to_disk(
    tmp_path: Path, s3: str, ray_session: None
) -> None:
    source = write_rows(tmp_path / "a.csv", make_rows(30))
    Folder(f"{s3}/in").write_atomic("a.csv", source.read_bytes())
    assert main(write_config(tmp_path, source, tmp_path / "disk")) == 0

    assert main(write_config(tmp_path, f"{s3}/in/*.csv", f"{s3}/out")) == 0

    for kind in ("items", "annotations", "dropped"):
        assert read_all(f"{s3}/out", kind) == read_all(tmp_path / "disk", kind)
    assert read_manifest(f"{s3}/out")["input"][0]["url"] == f"{s3}/in/a.csv"
    assert Folder(f"{s3}/out/_staging").list_files(recursive=True) == []


@pytest.mark.slow
def test_a_corrupt_file_is_named_or_used_as_far_as_it_can_be_read(tmp_path: Path, ray_session: None) -> None:
    write_rows(tmp_path / "good.parquet", make_rows(40))
    broken = write_rows(tmp_path / "broken.parquet", make_rows(40, first=40))
    column = pq.read_metadata(broken).row_group(1).column(1)
    data = bytearray(broken.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xa5" * column.total_compressed_size
    broken.write_bytes(bytes(data))
    arguments = write_config(tmp_path, tmp_path / "*.parquet", tmp_path / "out")

    with pytest.raises(UserError, match=r"1 source file\(s\) are corrupt(?s:.*)broken\.parquet"):
        main(arguments)

    assert main([*arguments, "--source.on_corrupt_file=quarantine", "--limits.max_quarantined_rate=0.3"]) == 0
    counts = read_manifest(tmp_path / "out")["counts"]
    # 240 rows in row groups of 50; the second group of the broken file can't be read.
    assert (counts["rows_in"], counts["quarantined"]) == (240, {"unreadable": 50})


def test_what_is_wrong_with_the_config_or_the_input_is_said_without_a_cluster(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.csv", make_rows(3))
    arguments = write_config(tmp_path, source, tmp_path / "out")
    cases = {
        "--columns.text=body": r"a\.csv: no column 'body'; found: \['item', .* 'page'\]\nset columns\.text to",
        "--guideline.path=nowhere.md": r"guideline\.path = nowhere\.md: no such file",
        "--scale.type=nominal": "needs an order",
        "--split.train=0.9": "must be 1",
        "--source.layout=wide": "columns.labels",
        "--guideline.by_section": "columns.dimension",
        "--source.format=parquet": "corrupt or truncated",
    }
    for argument, complaint in cases.items():
        with pytest.raises(UserError, match=complaint):
            main([*arguments, argument])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
def test_a_dry_run_shows_the_config_and_a_unit_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    source = write_rows(tmp_path / "a.csv", make_rows(6))

    assert main([*write_config(tmp_path, source, tmp_path / "out"), flag]) == 0

    told = capsys.readouterr().out
    assert '"units_per_shard": 10' in told
    assert '"item_id": "i0001"' in told
    assert "Rate it from 1 to 5." in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_pilot_takes_the_first_rows_and_refuses_to_grow(tmp_path: Path, ray_session: None) -> None:
    write_rows(tmp_path / "a.parquet", make_rows(40))
    write_rows(tmp_path / "b.csv", make_rows(40, first=40))
    arguments = write_config(tmp_path, tmp_path, tmp_path / "out")

    assert main([*arguments, "--limit=126"]) == 0

    assert [row["item_id"] for row in read_all(tmp_path / "out", "annotations")] == [
        f"i{n:04d}" for n in range(42) for _ in "abc"
    ]
    with pytest.raises(UserError, match="pilot"):
        main(arguments)


@pytest.mark.slow
def test_a_job_whose_cpus_others_hold_gives_up_and_runs_once_they_are_free(
    tmp_path: Path, held_cpus: Callable[[], None]
) -> None:
    source = write_rows(tmp_path / "a.parquet", make_rows(6))
    arguments = [*write_config(tmp_path, source, tmp_path / "corpus"), "--cluster.wait_s=4"]
    waits = (
        r"gave up: map has not moved for \d+ s: a worker needs 1 CPU; free now: nothing; .*\n.*raise cluster\.wait_s"
    )
    began = time.monotonic()
    with pytest.raises(UserError, match=waits):
        main(arguments)
    assert time.monotonic() - began < 60
    assert not Folder(str(tmp_path / "corpus")).list_files(".json")
    held_cpus()
    assert main([*arguments, "--cluster.wait_s=60"]) == 0


@pytest.mark.slow
def test_a_run_after_one_killed_between_its_stages_gives_the_same_files(tmp_path: Path, ray_session: None) -> None:
    source = write_rows(tmp_path / "a.parquet", make_rows(60))
    arguments = [*write_config(tmp_path, source, tmp_path / "whole"), "--shards.buckets=4"]
    assert main(arguments) == 0
    run_until_staged_then_kill([*arguments, f"--corpus={tmp_path / 'killed'}"], tmp_path / "killed")
    assert Folder(str(tmp_path / "killed")).list_files(".json") == []

    assert main([*arguments, f"--corpus={tmp_path / 'killed'}"]) == 0

    whole, killed = Folder(str(tmp_path / "whole")), Folder(str(tmp_path / "killed"))
    names = whole.list_files(".parquet", recursive=True)
    assert killed.list_files(".parquet", recursive=True) == names
    assert not (tmp_path / "killed" / "_staging").exists()
    assert [killed.read_bytes(name) for name in names] == [whole.read_bytes(name) for name in names]


PROGRAM = """
import os, signal, sys
sys.path[:0] = [{lib!r}, {root!r}]
import jobs.prepare_corpus as job
from judgetrace.staging import stage_parts

def run_tasks(stage, run, tasks, wait_s):
    if stage == "reduce":
        os.kill(os.getpid(), signal.SIGKILL)
    return [run(number, task) for number, task in enumerate(tasks)]

job.run_tasks = run_tasks
job.connect_ray = __import__("contextlib").nullcontext
job.main({arguments!r})
"""


def run_until_staged_then_kill(arguments: list[str], corpus: Path) -> None:
    """Run the job in a process that kills itself between the stages; its tasks run in that process."""
    program = PROGRAM.format(lib=str(ROOT / "lib"), root=str(ROOT), arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert Folder(str(corpus / "_staging")).list_files(recursive=True)
