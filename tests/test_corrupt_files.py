"""Parquet files that are broken in any way: as a source, as a shard of a corpus, and as what a run has written.

A broken file is named, what is around it stands, and no wrong value passes for a right one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judgetrace.ledger import ShardLedger, read_tally
from judgetrace.products import TRACE_PRODUCT
from judgetrace.readers import read_part
from judgetrace.run_report import tally_run
from judgetrace.sources import SourceConfig, list_source_files, plan_parts
from judgetrace.storage import CorruptFileError, Folder, encode_parquet
from tests import lone_worker
from tests.oracle import accepted_set, check_run
from tests.trace_tables import make_items

FOOTER_BYTES = 8  # its length, and the magic number


def _footer_start(data: bytes) -> int:
    return len(data) - FOOTER_BYTES - int.from_bytes(data[-8:-4], "little")


def _overwrite(data: bytes, start: int, num: int) -> bytes:
    return data[:start] + b"\xa5" * num + data[start + num :]


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "footer": lambda data: _overwrite(data, _footer_start(data) + 5, 60),
    "magic": lambda data: _overwrite(data, len(data) - 4, 4),
    "page": lambda data: _overwrite(data, _footer_start(data) // 2, 10),
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda _: b"",
    "text": lambda _: b"<html>404</html>",
    "other schema": lambda _: encode_parquet(pa.table({"x": [1, 2]})),
}


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    lone_worker.write_corpus(str(tmp_path / "corpus"), 3, 10)
    return str(tmp_path / "corpus")


def break_file(folder: Folder, name: str, how: str) -> bytes:
    """Break a file; returns what it held."""
    whole = folder.read_bytes(name)
    folder.write_atomic(name, BREAKS[how](whole))
    return whole


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_source_is_a_fault_and_its_neighbours_are_read(tmp_path: Path, how: str) -> None:
    for name in "abc":
        pq.write_table(make_items(50, prefix=name), tmp_path / f"{name}.parquet", write_page_checksum=True)
    break_file(Folder(str(tmp_path)), "b.parquet", how)
    found = {"a": 0, "b": 0, "c": 0}
    faults = []
    for part in plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path)]))):
        for batch in read_part(part, ["item_id"]):
            found[Path(part.file.url).stem] += len(batch.rows) if "item_id" in batch.table.column_names else 0
            faults += batch.faults
    assert (found["a"], found["c"]) == (50, 50)
    assert found["b"] == 0
    assert [fault.reason for fault in faults] == ([] if how == "other schema" else ["unreadable"])


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_shard_of_a_corpus_is_named_and_the_others_are_worked_on(
    tmp_path: Path, corpus: str, how: str
) -> None:
    run = str(tmp_path / "run")
    items = Folder(corpus) / "items"
    lone_worker.work(corpus, f"{run}-undisturbed", {})
    undisturbed = accepted_set(check_run(f"{run}-undisturbed", corpus, is_complete=False))
    tasks = [(number, 10) for number in range(3)]
    whole = break_file(items, "shard-00001.parquet", how)
    with pytest.raises(CorruptFileError, match=r"items/shard-00001\.parquet: is not the Parquet file it must be"):
        lone_worker.work(corpus, run, {}, shards=tasks)
    assert Folder(f"{run}/traces").list_files() == ["shard-00000.parquet", "shard-00002.parquet"]
    items.write_atomic("shard-00001.parquet", whole)
    lone_worker.work(corpus, run, {}, shards=tasks)
    assert accepted_set(check_run(run, corpus, is_complete=False)) == undisturbed


def test_a_shard_that_is_gone_is_named_like_a_broken_one(tmp_path: Path, corpus: str) -> None:
    run, items, tasks = str(tmp_path / "run"), Folder(corpus) / "items", [(number, 10) for number in range(3)]
    whole = items.read_bytes("shard-00001.parquet")
    items.delete(["shard-00001.parquet"])
    with pytest.raises(CorruptFileError, match=r"items/shard-00001\.parquet: is not there"):
        lone_worker.work(corpus, run, {}, shards=tasks)
    assert Folder(f"{run}/traces").list_files() == ["shard-00000.parquet", "shard-00002.parquet"]
    items.write_atomic("shard-00001.parquet", whole)
    lone_worker.work(corpus, run, {}, shards=tasks)
    check_run(run, corpus, is_complete=False)


def test_a_shard_that_breaks_after_its_first_commits_is_left_out_of_the_tally(tmp_path: Path, corpus: str) -> None:
    """The driver counts what is decided before it gives shards out: the others must not wait for that one's repair."""
    run = Folder(str(tmp_path / "run"))
    for shard in range(2):
        lone_worker.work(corpus, run.url, {}, shards=[(shard, 5)])
    assert (run / "ledger").list_files(recursive=True)
    assert tally_run(run, Folder(corpus), TRACE_PRODUCT).num_units == 10
    (Folder(corpus) / "items").write_atomic("shard-00001.parquet", b"cut off")
    assert tally_run(run, Folder(corpus), TRACE_PRODUCT).num_units == 5
    break_file(run / "ledger/shard-00000", "part-00000.parquet", "truncated")
    assert tally_run(run, Folder(corpus), TRACE_PRODUCT).num_units == 0


def read_in_all_ways(folder: Folder, name: str) -> None:
    read_tally(folder, name)
    folder.read_table(name, ["item_id"])
    folder.read_table(name)


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_published_shard_is_named_and_not_counted(tmp_path: Path, corpus: str, how: str) -> None:
    run = Folder(str(tmp_path / "run"))
    lone_worker.work(corpus, run.url, {})
    before = tally_run(run, Folder(corpus), TRACE_PRODUCT)
    whole = break_file(run / "traces", "shard-00001.parquet", how)
    with pytest.raises(CorruptFileError, match=r"traces/shard-00001\.parquet: is not the Parquet file it must be"):
        read_in_all_ways(run / "traces", "shard-00001.parquet")
    (run / "traces").write_atomic("shard-00001.parquet", whole)
    assert tally_run(run, Folder(corpus), TRACE_PRODUCT) == before


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_part_of_the_ledger_is_named_and_nothing_is_decided_beside_it(
    tmp_path: Path, corpus: str, how: str
) -> None:
    run = Folder(str(tmp_path / "run"))
    lone_worker.work(corpus, run.url, {}, shards=[(0, 5)])
    assert (run / "ledger/shard-00000").list_files() == ["part-00000.parquet"]
    break_file(run / "ledger/shard-00000", "part-00000.parquet", how)
    with pytest.raises(CorruptFileError, match=r"shard-00000/part-00000\.parquet: is not the Parquet file it must be"):
        ShardLedger(run, 0, TRACE_PRODUCT).refresh()


def test_a_wrong_bit_is_never_read_as_another_value(tmp_path: Path) -> None:
    """Without checksums of pages, four in five single wrong bits in them were read as other values."""
    folder = Folder(str(tmp_path))
    table = make_items(500)
    whole = encode_parquet(table)
    chance = random.Random(0)
    seen = {"named": 0, "harmless": 0}
    for _ in range(200):
        position = chance.randrange(4, _footer_start(whole))
        broken = bytearray(whole)
        broken[position] ^= 1 << chance.randrange(8)
        folder.write_atomic("a.parquet", bytes(broken))
        try:
            assert folder.read_table("a.parquet").equals(table)
            seen["harmless"] += 1
        except CorruptFileError:
            seen["named"] += 1
    assert seen["named"] > 150


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_a_broken_json_file_is_named(tmp_path: Path, data: bytes) -> None:
    folder = Folder(str(tmp_path))
    folder.write_atomic("manifest.json", data)
    with pytest.raises(CorruptFileError, match=r"manifest\.json: is no JSON file"):
        folder.read_json("manifest.json")
