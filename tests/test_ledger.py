"""Commits, races and publication, on local disk and on S3."""

import threading

import pytest

from judgetrace.accounting import tally_traces
from judgetrace.ledger import ShardFinishedError, ShardLedger, current_shard_files, is_finished, read_tally
from judgetrace.products import TRACE_PRODUCT
from judgetrace.schema import TRACES
from judgetrace.storage import Folder
from judgetrace.unit_run import ShardTask, drop_finished
from tests.trace_tables import make_decision, make_draw, make_items, read_published, table_of

ITEMS = make_items(4)


def accepted(row: int, rating: str = "1"):
    return make_decision(ITEMS, row, "accepted", [make_draw(0, "accepted", rating)])


def exhausted(row: int):
    return make_decision(ITEMS, row, "exhausted", [make_draw(0, "disagrees", "1")])


def failed(row: int):
    return make_decision(ITEMS, row, "failed", [make_draw(0, "failed", error="boom")], error="boom")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.served)])
def run(request, tmp_path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "run"))
    return Folder(f"{request.getfixturevalue('s3')}/ledger/{tmp_path.name}")


def test_a_finished_shard_is_one_file_in_the_order_of_its_items_and_its_parts_are_gone(run):
    ledger = ShardLedger(run, 12, TRACE_PRODUCT)
    assert ledger.commit(table_of(accepted(2), exhausted(0))) == 2
    assert ledger.commit(table_of(accepted(3))) == 1
    assert (run / "ledger/shard-00012").list_files() == ["part-00000.parquet", "part-00001.parquet"]
    tally = ledger.publish(ITEMS, table_of(accepted(1)))
    assert current_shard_files(run / "traces") == {12: "shard-00012.parquet"}
    assert (run / "ledger/shard-00012").list_files() == []
    table = (run / "traces").read_table("shard-00012.parquet")
    assert table.schema.remove_metadata() == TRACES
    assert table.column("item_id").to_pylist() == ITEMS.column("item_id").to_pylist()
    assert table.column("outcome").to_pylist() == ["exhausted", "accepted", "accepted", "accepted"]
    assert read_tally(run / "traces", "shard-00012.parquet") == tally == tally_traces(table)


def test_a_unit_is_decided_once_whoever_writes(run):
    one, two = ShardLedger(run, 0, TRACE_PRODUCT), ShardLedger(run, 0, TRACE_PRODUCT)
    assert one.commit(table_of(accepted(0, "1"), accepted(1))) == 2
    assert two.commit(table_of(accepted(0, "5"), accepted(2))) == 1
    assert one.commit(table_of(accepted(2, "5"))) == 0
    two.publish(ITEMS, table_of(accepted(3)))
    one.publish(ITEMS, table_of(accepted(3, "5")))
    rows = read_published(run)
    assert [row["rating"] for row in rows] == ["1", "1", "1", "1"]


def test_writers_that_race_lose_nothing_and_repeat_nothing(run):
    items = make_items(60)
    decisions = [make_decision(items, i, "accepted", [make_draw(0, "accepted", "1")]) for i in range(60)]

    def write(offset: int) -> None:
        ledger = ShardLedger(run, 3, TRACE_PRODUCT)
        for start in range(0, 60, 5):
            first = (start + offset) % 60
            ledger.commit(table_of(*decisions[first : first + 5]))

    threads = [threading.Thread(target=write, args=(20 * k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = ShardLedger(run, 3, TRACE_PRODUCT)
    ledger.refresh()
    keys = [key for table in ledger.tables for key in table.column("item_id").to_pylist()]
    assert sorted(keys) == items.column("item_id").to_pylist()


def test_a_failed_unit_is_published_as_partial_and_retried(run):
    first = ShardLedger(run, 0, TRACE_PRODUCT)
    first.publish(ITEMS, table_of(accepted(0), accepted(1), failed(2), exhausted(3)))
    assert current_shard_files(run / "traces") == {0: "shard-00000.partial-00001.parquet"}
    assert not is_finished(current_shard_files(run / "traces")[0])
    assert [row["outcome"] for row in read_published(run)] == ["accepted", "accepted", "failed", "exhausted"]
    again = ShardLedger(run, 0, TRACE_PRODUCT)
    again.refresh()
    again.publish(ITEMS, table_of(accepted(2)))
    assert (run / "traces").list_files() == ["shard-00000.parquet"]
    assert [row["outcome"] for row in read_published(run)] == ["accepted", "accepted", "accepted", "exhausted"]


def test_undecided_units_keep_their_draws_in_the_ledger_and_stay_out_of_the_traces(run):
    undecided = make_decision(ITEMS, 1, "undecided", [make_draw(0, "disagrees", "3")])
    ShardLedger(run, 0, TRACE_PRODUCT).publish(ITEMS, table_of(accepted(0), undecided))
    assert [row["item_id"] for row in read_published(run)] == ["item-0000"]
    again = ShardLedger(run, 0, TRACE_PRODUCT)
    again.refresh()
    (row,) = [row for row in again.latest().to_pylist() if row["outcome"] == "undecided"]
    assert row["draws"][0]["rating"] == "3"


def test_publishing_twice_changes_nothing(run):
    rows = table_of(accepted(0), exhausted(1), exhausted(2), accepted(3))
    first = ShardLedger(run, 0, TRACE_PRODUCT).publish(ITEMS, rows)
    assert ShardLedger(run, 0, TRACE_PRODUCT).publish(ITEMS, rows) == first
    assert len(read_published(run)) == 4


def test_the_newest_partial_file_counts_when_an_old_one_was_left(run):
    ledger = ShardLedger(run, 0, TRACE_PRODUCT)
    ledger.publish(ITEMS, table_of(accepted(0)))
    left = (run / "traces").read_bytes("shard-00000.partial-00001.parquet")
    ledger.publish(ITEMS, table_of(accepted(1)))
    (run / "traces").put_if_absent("shard-00000.partial-00001.parquet", left)
    assert current_shard_files(run / "traces") == {0: "shard-00000.partial-00002.parquet"}


def test_a_partial_file_holds_what_a_rival_committed_too(run):
    ours, theirs = ShardLedger(run, 0, TRACE_PRODUCT), ShardLedger(run, 0, TRACE_PRODUCT)
    theirs.commit(table_of(accepted(0, "5")))
    ours.publish(ITEMS, table_of(accepted(1)))
    assert current_shard_files(run / "traces") == {0: "shard-00000.partial-00002.parquet"}
    assert [(row["item_id"], row["rating"]) for row in read_published(run)] == [("item-0000", "5"), ("item-0001", "1")]


def test_a_finished_shard_leaves_nothing_behind_that_a_crash_kept_from_being_deleted(run):
    ledger = ShardLedger(run, 0, TRACE_PRODUCT)
    ledger.publish(ITEMS, table_of(accepted(0)))
    partial = (run / "traces").read_bytes("shard-00000.partial-00001.parquet")
    part = (run / "ledger/shard-00000").read_bytes("part-00000.parquet")
    ledger.publish(ITEMS, table_of(accepted(1), accepted(2), accepted(3)))
    (run / "traces").put_if_absent("shard-00000.partial-00001.parquet", partial)
    (run / "ledger/shard-00000").put_if_absent("part-00000.parquet", part)
    assert drop_finished(run, TRACE_PRODUCT, [ShardTask(0, 4), ShardTask(1, 4)]) == [ShardTask(1, 4)]
    assert (run / "traces").list_files() == ["shard-00000.parquet"]
    assert (run / "ledger").list_files(recursive=True) == []


def test_a_late_writer_cannot_undo_a_finished_shard(run):
    late = ShardLedger(run, 0, TRACE_PRODUCT)
    late.commit(table_of(accepted(0)))
    other = ShardLedger(run, 0, TRACE_PRODUCT)
    other.refresh()
    finished = other.publish(ITEMS, table_of(accepted(1), accepted(2), accepted(3)))
    assert late.publish(ITEMS, table_of(accepted(1, "5"))) == finished
    assert [row["rating"] for row in read_published(run)] == ["1", "1", "1", "1"]
    with pytest.raises(ShardFinishedError):
        late.refresh()


def test_parts_with_a_gap_are_an_error_and_not_a_wait(run):
    ledger = ShardLedger(run, 0, TRACE_PRODUCT)
    ledger.commit(table_of(accepted(0)))
    ledger.commit(table_of(accepted(1)))
    (run / "ledger/shard-00000").delete(["part-00000.parquet"])
    again = ShardLedger(run, 0, TRACE_PRODUCT)
    again.refresh()
    with pytest.raises(RuntimeError, match="not all there"):
        again.commit(table_of(accepted(2)))


class RacedFolder(Folder):
    """A run whose older driver publishes a shard between two looks at what is published."""

    def __truediv__(self, name: str) -> Folder:
        return RacedFolder(f"{self.url}/{name}")

    def list_files(self, suffix: str = "", recursive: bool = False, prefix: str = "") -> list[str]:
        names = super().list_files(suffix, recursive, prefix)
        if self.url.endswith("/traces") and not names:
            rows = table_of(accepted(0), exhausted(1), exhausted(2), accepted(3))
            ShardLedger(Folder(self.url.removesuffix("/traces")), 0, TRACE_PRODUCT).publish(ITEMS, rows)
        return names


def test_a_shard_that_is_published_while_a_new_driver_clears_up_is_kept(run):
    drop_finished(RacedFolder(run.url), TRACE_PRODUCT, [ShardTask(0, 4)])
    assert (run / "traces").list_files() == ["shard-00000.parquet"]
    assert len(read_published(run)) == 4
