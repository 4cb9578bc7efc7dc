import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from judgetrace.storage import CorruptFileError, Folder, encode_parquet


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Return an empty folder on local disk, then one on S3."""
    root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    return Folder(root) / f"{tmp_path.name}"


pytestmark = pytest.mark.served


def test_a_file_is_there_once_written(folder: Folder) -> None:
    assert not folder.exists("a/b.json")
    folder.write_json("a/b.json", {"é": [1]})

    assert folder.exists("a/b.json")
    assert folder.read_json("a/b.json") == {"é": [1]}
    folder.write_atomic("a/b.json", b"{}")
    assert folder.read_bytes("a/b.json") == b"{}"


def test_the_first_writer_wins_and_the_second_is_told(folder: Folder) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: folder.put_if_absent("part", b"%d" % n), range(8)))

    assert won.count(True) == 1
    assert folder.read_bytes("part") == b"%d" % won.index(True)
    assert folder.list_files() == ["part"]


def test_columns_come_in_the_order_asked_for_and_a_missing_one_is_named(folder: Folder) -> None:
    table = pa.table({"a": [1], "b": [[2]], "c": ["x"]})
    folder.write_atomic("t.parquet", encode_parquet(table))
    assert folder.read_table("t.parquet", ["c", "b"]).column_names == ["c", "b"]
    with pytest.raises(CorruptFileError, match=r"no columns \['d'\]; it has \['a', 'b', 'c'\]"):
        folder.read_table("t.parquet", ["d", "a"])


def test_listing_shows_new_files_and_no_temporary_ones(folder: Folder) -> None:
    assert folder.list_files() == []
    for name in ("b.json", "a.parquet", ".a.parquet.tmp", "sub/c.json"):
        folder.write_atomic(name, b"x")

    assert folder.list_files() == ["a.parquet", "b.json"]
    assert folder.list_files(".json", recursive=True) == ["b.json", "sub/c.json"]
    folder.delete(["b.json", "never there"])
    assert folder.list_files() == ["a.parquet"]


def test_files_that_begin_alike_are_listed_without_those_below(folder: Folder) -> None:
    assert folder.list_files(prefix="shard-00001.") == []
    names = ["shard-00001.parquet", "shard-00001.partial-00002.parquet", "shard-00001.txt"]
    for name in (*names, "shard-00010.parquet", "shard-000010.parquet", "a", "shard-00001.d/b.parquet"):
        folder.write_atomic(name, b"x")
    assert folder.list_files(prefix="shard-00001.") == names
    assert folder.list_files(".parquet", prefix="shard-00001.") == names[:2]


def test_a_store_is_asked_for_none_but_the_files_that_begin_alike(s3: str) -> None:
    folder, asked = Folder(f"{s3}/many"), []
    folder.write_atomic("shard-00001.parquet", b"x")
    events = folder.filesystem.s3.meta.events
    events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: asked.append(params["Prefix"]))
    assert folder.list_files(prefix="shard-00001.") == ["shard-00001.parquet"]
    assert asked == ["many/shard-00001."]


def test_a_table_is_read_back_whole_or_by_columns_and_row_groups(folder: Folder) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    folder.write_atomic("t.parquet", encode_parquet(table, {"made by": "a test"}))

    assert folder.read_table("t.parquet").to_pydict() == table.to_pydict()
    assert folder.read_table("t.parquet", ["b"]).to_pydict() == {"b": ["x", "y", None]}
    with folder.open_parquet("t.parquet") as file:
        assert file.read_row_group(0).num_rows == 3
        assert file.schema_arrow.metadata[b"made by"] == b"a test"


def test_a_stream_is_complete_when_closed(folder: Folder) -> None:
    with folder.open_for_write("deep/er/stream") as stream:
        for _ in range(3):
            stream.write(b"abc")

    assert folder.read_bytes("deep/er/stream") == b"abcabcabc"


def test_a_folder_survives_pickling_and_joins_names(folder: Folder) -> None:
    (folder / "sub").write_atomic("x", b"1")

    again = pickle.loads(pickle.dumps(folder))
    assert again == folder
    assert (again / "sub").read_bytes("x") == b"1"


def test_a_missing_file_is_an_error(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("nothing")


@pytest.mark.parametrize("megabytes", [0, 101])
def test_s3_serves_a_page_as_what_a_browser_shows_though_it_was_sent_in_parts(s3: str, megabytes: int) -> None:
    import boto3

    Folder(f"{s3}/pages").write_atomic("report.html", b"<p>h" + b" " * megabytes * 2**20)
    Folder(f"{s3}/pages").write_atomic("report.json", b"{}")

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    head = client.head_object(Bucket="corpora", Key="pages/report.html")
    assert head["ContentType"] == "text/html; charset=utf-8"
    assert head["ContentLength"] == 4 + megabytes * 2**20
    assert "html" not in client.head_object(Bucket="corpora", Key="pages/report.json")["ContentType"]


def test_a_page_on_a_store_that_knows_no_types_is_written_all_the_same() -> None:
    Folder("memory://pages").write_atomic("report.html", b"<p>h")

    assert Folder("memory://pages").read_bytes("report.html") == b"<p>h"
