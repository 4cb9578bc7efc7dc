from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judgetrace.ledger import encode_shard, join_decisions
from judgetrace.products import TRACE_PRODUCT
from judgetrace.schema import TRACES
from judgetrace.storage import Folder
from judgetrace.trace_shards import list_trace_shards
from judgetrace.training.encoding import EncodingSpec, ExampleEncoder, load_tokenizer
from judgetrace.training.feed import STRETCH_ROWS, FeedSpec, WorkerFeed, plan_stretch, read_stretch, stream_stretches
from judgetrace.training.order import EpochOrder, ExampleIndex, Stretch
from judgetrace.training.reading import (
    INDEX,
    USABLE,
    IndexTask,
    ReadingSpec,
    name_index,
    read_usable,
    run_index_task,
    survey_examples,
    write_usable,
)
from tests.small_rater import make_spec, make_tokenizer
from tests.trace_tables import make_decision, make_draw, make_items, table_of

LEVELS = ("-4", "1", "10")
SHARDS, UNITS = 3, 24


def write_traces(folder: Folder) -> None:
    """Three shards of 24 units; of each four one was not accepted, and one of the first shard is overlong."""
    for shard in range(SHARDS):
        items = make_items(UNITS, "x", prefix=f"item-{shard}")
        labels = [LEVELS[n % 3] for n in range(UNITS)]
        items = items.set_column(items.schema.get_field_index("target_label"), "target_label", [labels])
        decisions = []
        for n in range(UNITS):
            trace = f"trace {shard} {n} " + "well " * ((7 * n + shard) % 23 if (shard, n) != (0, 1) else 900)
            is_accepted = n % 4 != 3
            draw = make_draw(0, "accepted" if is_accepted else "disagrees", labels[n], trace=trace)
            outcome = "accepted" if is_accepted else "exhausted"
            decisions.append(make_decision(items, n, outcome, [draw], **({"trace": trace} if is_accepted else {})))
        rows = join_decisions(items, table_of(*decisions), TRACES)
        folder.write_atomic(f"traces/shard-{shard:05d}.parquet", encode_shard(rows, TRACE_PRODUCT.tally(rows)))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> FeedSpec:
    """A store of traces, indexed."""
    root = tmp_path_factory.mktemp("feed")
    make_tokenizer().save_pretrained(root / "base")
    traces, run = Folder(str(root / "traced")), str(root / "run")
    write_traces(traces)
    encoding = make_spec(root / "base", max_tokens=1000)
    reading = ReadingSpec("traces", "train", 0)
    shards = list_trace_shards([traces.url])
    for number, shard in enumerate(shards):
        run_index_task(number, IndexTask(number, shard, run, reading, encoding))
    folder = Folder(run) / "examples"
    write_usable(folder, survey_examples(folder, len(shards), reading).usable)
    return FeedSpec(run, tuple(shards), reading, encoding, EpochOrder(8, 4, seed=1))


def encoder_of(encoding: EncodingSpec) -> ExampleEncoder:
    return ExampleEncoder(encoding, load_tokenizer(encoding.model.path, None))


def read_all(spec: FeedSpec, world: int, first: int, end: int) -> dict[int, list[tuple[int, ...]]]:
    """The tokens of each step's examples, over all workers, as their tasks read them."""
    found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for rank in range(world):
        for task in WorkerFeed(spec, rank, world)._plan(first, end):
            for row in read_stretch(spec, task).to_pylist():
                found[row["step"]].append(tuple(row["tokens"]))
    return {step: sorted(rows) for step, rows in found.items()}


def test_shards_are_listed_run_by_run_the_current_file_of_each(tmp_path: Path) -> None:
    names = ["shard-00001.parquet", "shard-00000.partial-00002.parquet", "shard-00000.partial-00010.parquet"]
    for run in ("b", "a"):
        for name in names:
            Folder(str(tmp_path / run)).write_atomic(f"traces/{name}", b"")

    found = list_trace_shards([str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "none")])

    assert [(Path(shard.run).name, shard.name) for shard in found] == [
        ("b", "shard-00000.partial-00010.parquet"),
        ("b", "shard-00001.parquet"),
        ("a", "shard-00000.partial-00010.parquet"),
        ("a", "shard-00001.parquet"),
    ]


def test_the_index_says_how_long_each_example_is_and_why_a_unit_teaches_nothing(spec: FeedSpec) -> None:
    table = (Folder(spec.run) / "examples").read_table(name_index(0))

    assert table.schema == INDEX
    assert len(table) == UNITS
    reasons = table["reason"].to_pylist()
    assert [n for n, reason in enumerate(reasons) if reason == "not_accepted"] == [3, 7, 11, 15, 19, 23]
    assert reasons[1].startswith("overlong: ")
    assert [n is None for n in table["num_tokens"].to_pylist()] == [reason is not None for reason in reasons]


def test_the_survey_counts_every_unit_once(spec: FeedSpec) -> None:
    survey = survey_examples(Folder(spec.run) / "examples", SHARDS, spec.reading)

    assert survey.usable.schema == USABLE
    assert survey.usable.num_rows == SHARDS * 18 - 1
    assert survey.reasons == {"not_accepted": SHARDS * 6, "overlong": 1}
    assert sorted(survey.labels) == [("", "-4"), ("", "1"), ("", "10")]
    # Of 24 units a shard each level has 8, of which 2 are not accepted; unit 1 of the first shard has level 1.
    assert survey.decided == {("", level): SHARDS * 8 for level in LEVELS}
    assert survey.accepted == {("", "-4"): SHARDS * 6, ("", "1"): SHARDS * 6 - 1, ("", "10"): SHARDS * 6}
    assert survey.num_tokens == sum(survey.usable["num_tokens"].to_pylist())
    assert 0 < survey.num_answer_tokens < survey.num_tokens


def test_a_shard_that_is_indexed_is_not_read_again(spec: FeedSpec) -> None:
    gone = IndexTask(0, type(spec.shards[0])("/nowhere", "shard-00000.parquet"), spec.run, spec.reading, spec.encoding)

    assert run_index_task(0, gone) == 17


def test_a_stretch_is_read_as_its_examples_are_encoded(spec: FeedSpec) -> None:
    index = read_usable(Folder(spec.run) / "examples")
    encoder = encoder_of(spec.encoding)
    task = WorkerFeed(spec, 0, 1)._plan(0, 2)[0]

    table = read_stretch(spec, task)

    assert table.schema == STRETCH_ROWS
    stretch = next(iter(spec.order.deal(index, 0)))
    chosen = stretch.examples[:2].ravel()
    assert table["step"].to_pylist() == [0, 0, 1, 1]
    assert table["label"].to_pylist() == index.label[chosen].tolist()
    for row, n in zip(table.to_pylist(), chosen, strict=True):
        shard, unit = int(index.shard[n]), int(index.row[n])
        text = encoder.decode(row["tokens"][row["num_prompt"] :])
        assert text.startswith(f"trace {shard} {unit} well") or text.startswith(f"trace {shard} {unit}\n")
        assert text.endswith(f"<rating>{LEVELS[unit % 3]}</rating>")
        assert encoder.decode(row["tokens"][row["rating_at"] :]) == f"{LEVELS[unit % 3]}</rating>"
        assert len(row["tokens"]) == index.num_tokens[n]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_step_is_the_same_whatever_the_number_of_workers(spec: FeedSpec, world: int) -> None:
    per_epoch = (SHARDS * 18 - 1) // 8

    found = read_all(spec, world, 0, 2 * per_epoch)

    assert sorted(found) == list(range(2 * per_epoch))
    assert all(len(rows) == 8 for rows in found.values())
    assert found == read_all(spec, 1, 0, 2 * per_epoch)
    first_epoch = [row for step in range(per_epoch) for row in found[step]]
    assert len(set(first_epoch)) == 8 * per_epoch, "no example twice in an epoch"


@pytest.mark.parametrize(("first", "end"), [(1, 6), (4, 5), (5, 9), (7, 20), (3, 3)])
def test_a_run_resumed_in_the_middle_of_a_stretch_sees_the_rest_of_an_undisturbed_one(
    spec: FeedSpec, first: int, end: int
) -> None:
    undisturbed = read_all(spec, 1, 0, 20)

    assert read_all(spec, 2, first, end) == {step: undisturbed[step] for step in range(first, end)}


def test_the_plan_of_a_stretch_is_cut_at_both_ends() -> None:
    index = ExampleIndex(np.array([0, 0, 4, 4, 9, 9]), np.array([3, 5, 0, 1, 2, 8]), np.ones(6), np.arange(6))
    stretch = Stretch(lane=0, first_step=10, examples=np.array([[5, 0], [1, 2], [3, 4]]))

    task = plan_stretch(index, stretch, start=100, first=111, end=112)

    assert (task.first_step, task.shards) == (111, (0, 4))
    assert task.rows.tolist() == [[[0, 5], [1, 0]]]
    assert task.labels.tolist() == [[1, 2]]
    whole = plan_stretch(index, stretch, 100, 0, 1000)
    assert (whole.first_step, whole.shards, whole.rows.shape) == (110, (0, 4, 9), (3, 2, 2))
    assert whole.rows[0].tolist() == [[2, 8], [0, 3]]
    assert [len(plan_stretch(index, stretch, 100, *ends).rows) for ends in ((0, 110), (113, 200))] == [0, 0]


def test_workers_share_a_step_by_lanes(spec: FeedSpec) -> None:
    feeds = [WorkerFeed(spec, rank, 3) for rank in range(3)]

    def count(feed: Any) -> set[int]:
        counts: dict[int, int] = defaultdict(int)
        for task in feed._plan(0, 6):
            for n, examples in enumerate(task.labels):
                counts[task.first_step + n] += len(examples)
        return set(counts.values())

    # Four lanes of two examples among three workers.
    assert [count(feed) for feed in feeds] == [{4}, {2}, {2}]
    assert [feed.steps_per_epoch for feed in feeds] == [6, 6, 6]


@pytest.mark.slow
def test_a_stream_whose_consumer_is_busy_leaves_the_processor_to_it(spec: FeedSpec, ray_session: str) -> None:
    """Ray Data's scheduler waits for tasks alone; without any it would turn without a pause, in this process."""
    feed = WorkerFeed(spec, 0, 1)
    stream = stream_stretches(spec, feed._plan(0, 20 * feed.steps_per_epoch), ahead=1)
    next(stream)
    time.sleep(10)

    before = time.process_time()
    time.sleep(5)

    assert time.process_time() - before < 1.5
