"""Stream the tokens of an epoch after another into one worker, by Ray Data: its lanes, in the order of steps.

A task reads a stretch of one lane (examples of one or two shards), tokenizes it and hands over its rows; the worker
holds the stretches of the steps at hand and what Ray Data has fetched ahead.
"""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from judgetrace.storage import Folder
from judgetrace.tasks import MAX_RETRIES, quieten_ray_data
from judgetrace.trace_shards import TraceShard, check_shards
from judgetrace.training.encoding import EncodingSpec
from judgetrace.training.order import EpochOrder, ExampleIndex, Stretch
from judgetrace.training.reading import ReadingSpec, encode_examples, read_examples, read_usable

READ_CPUS = 0.5
"""CPUs of a task that reads and tokenizes, as Ray counts them."""
READS_AT_ONCE = 2
STEP_S = 0.05
"""Between two looks of Ray Data's scheduler at what its tasks have done."""
EXAMPLES_AT_ONCE = 100_000
"""Epochs of small corpora are joined up to so many examples, so that their short pipelines need not start each time."""

STRETCH_ROWS = pa.schema(
    [
        ("step", pa.int64()),  # counted from the start of training
        ("tokens", pa.list_(pa.int32())),
        ("num_prompt", pa.int32()),
        ("rating_at", pa.int32()),
        ("label", pa.int32()),
    ]
)


@dataclass(frozen=True)
class FeedSpec:
    """All that a worker's stream depends on; can be pickled."""

    run: str
    shards: tuple[TraceShard, ...]
    reading: ReadingSpec
    encoding: EncodingSpec
    order: EpochOrder
    read_cpus: float = READ_CPUS
    """CPUs of a task that reads. 0 where workers may be added: they could take the last, and wait for its examples."""


@dataclass(frozen=True)
class Example:
    """One example of a step."""

    tokens: np.ndarray  # int32
    num_prompt: int
    rating_at: int
    label: int


@dataclass(frozen=True)
class StretchTask:
    """A stretch of a lane, as a task reads it; rows by shard, and where each belongs."""

    first_step: int
    shards: tuple[int, ...]
    rows: np.ndarray  # [steps, examples a step, 2] int32: position in `shards`, row
    labels: np.ndarray  # [steps, examples a step] int32


class WorkerFeed:
    """The stream of one worker of `world`."""

    def __init__(self, spec: FeedSpec, rank: int, world: int):
        self._spec, self._rank, self._world = spec, rank, world
        self._index = read_usable(Folder(spec.run) / "examples")
        self.steps_per_epoch = spec.order.count_steps(self._index)
        lanes = range(rank, spec.order.lanes, world)
        self._num_lanes = len(lanes)
        self._examples_a_step = len(lanes) * (spec.order.batch // spec.order.lanes)

    def steps(self, first: int, end: int) -> Iterator[list[Example]]:
        """Yield this worker's share of each step from `first` to before `end`, counted from the start of training."""
        epochs_at_once = max(1, EXAMPLES_AT_ONCE // max(1, len(self._index)))
        step = first
        while step < end:
            epoch = step // self.steps_per_epoch
            stop = min(end, (epoch + epochs_at_once) * self.steps_per_epoch)
            yield from self._stream(step, stop)
            step = stop

    def _stream(self, first: int, end: int) -> Iterator[list[Example]]:
        waiting: dict[int, list[Example]] = {}
        step = first
        # The stretches of all own lanes are needed at once, and the next ones when these end.
        for rows in stream_stretches(self._spec, self._plan(first, end), ahead=self._num_lanes):
            _sort_in(rows, waiting)
            while len(waiting.get(step, ())) == self._examples_a_step:
                yield waiting.pop(step)
                step += 1
        assert step == end, f"the stream ended at step {step}, expected {end}"

    def _plan(self, first: int, end: int) -> list[StretchTask]:
        """Plan the stretches of this worker's lanes that hold steps from `first` to before `end`."""
        tasks = []
        for epoch in range(first // self.steps_per_epoch, -(-end // self.steps_per_epoch)):
            start = epoch * self.steps_per_epoch
            for stretch in self._spec.order.deal(self._index, epoch):
                if stretch.lane % self._world != self._rank:
                    continue
                task = plan_stretch(self._index, stretch, start, first, end)
                tasks += [task] if len(task.rows) else []
        return tasks


def plan_stretch(index: ExampleIndex, stretch: Stretch, start: int, first: int, end: int) -> StretchTask:
    """Plan the steps of a stretch that lie from `first` to before `end`; its epoch begins at step `start`."""
    begin = start + stretch.first_step
    skipped = max(0, first - begin)
    examples = stretch.examples[skipped : max(0, end - begin)]
    shards, position = np.unique(index.shard[examples], return_inverse=True)
    rows = np.stack([position.reshape(examples.shape), index.row[examples]], axis=-1).astype(np.int32)
    return StretchTask(begin + skipped, tuple(shards.tolist()), rows, index.label[examples].astype(np.int32))


def stream_stretches(spec: FeedSpec, tasks: list[StretchTask], ahead: int) -> Iterator[pa.Table]:
    """Stream the rows (STRETCH_ROWS) of stretches, in their order; so many more are fetched ahead."""
    import ray
    from ray.data import DataContext

    quieten_ray_data()
    context = DataContext.get_current()
    context.custom_execution_callback_classes = [RestfulSteps]
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    spec_bytes = pickle.dumps(spec)

    def read(batch: Mapping[str, Any]) -> pa.Table:
        return read_stretch(pickle.loads(spec_bytes), pickle.loads(batch["task"][0]))

    rows = [{"task": pickle.dumps(task)} for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_rows = dataset.map_batches(
            read,
            batch_size=1,
            num_cpus=spec.read_cpus,
            # What takes no CPU is held back by nothing else.
            concurrency=None if spec.read_cpus else READS_AT_ONCE,
            max_retries=MAX_RETRIES,
        )
    try:
        yield from read_rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
    except Exception:
        # What a task met comes wrapped by Ray Data.
        check_shards(spec.shards)
        raise


class RestfulSteps:
    """Lets Ray Data's scheduler rest between its steps (an ExecutionCallback).

    It runs in the training worker's own process and waits for its tasks alone: once these are done and the consumer is
    what is waited for, it would turn without a pause, and hold Python's lock most of the time (Ray 2.60).
    """

    def on_execution_step(self, executor: Any) -> None:
        """Sleep, in the thread of the scheduler."""
        time.sleep(STEP_S)

    def before_execution_starts(self, executor: Any) -> None:
        """Do nothing."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Do nothing."""


def read_stretch(spec: FeedSpec, task: StretchTask) -> pa.Table:
    """Read and encode the examples of a stretch (STRETCH_ROWS)."""
    examples_by_shard = [read_examples(spec.shards[shard], spec.reading) for shard in task.shards]
    places = [{row: n for n, row in enumerate(table["row"].to_pylist())} for table in examples_by_shard]
    flat = task.rows.reshape(-1, 2)
    steps = np.repeat(np.arange(len(task.rows)) + task.first_step, task.rows.shape[1])
    chosen = [(int(shard), places[shard][int(row)]) for shard, row in flat]
    by_shard = [[n for n, (shard, _) in enumerate(chosen) if shard == own] for own in range(len(task.shards))]
    encoded: dict[int, Any] = {}
    for own, members in enumerate(by_shard):
        table = examples_by_shard[own].take(pa.array([chosen[n][1] for n in members], pa.int64()))
        assert table["reason"].null_count == len(table), "an example became unusable since it was indexed"
        encoded |= dict(zip(members, encode_examples(table, spec.encoding), strict=True))
    ordered = [encoded[n] for n in range(len(chosen))]
    assert all(e.reason is None for e in ordered), "an example became unusable since it was indexed"
    return pa.table(
        [
            pa.array(steps),
            pa.array([e.tokens for e in ordered], pa.list_(pa.int32())),
            pa.array([e.num_prompt for e in ordered], pa.int32()),
            pa.array([e.rating_at for e in ordered], pa.int32()),
            pa.array(task.labels.reshape(-1)),
        ],
        schema=STRETCH_ROWS,
    )


def _sort_in(rows: pa.Table, waiting: dict[int, list[Example]]) -> None:
    steps, prompts = rows["step"].to_pylist(), rows["num_prompt"].to_pylist()
    ratings, labels = rows["rating_at"].to_pylist(), rows["label"].to_pylist()
    tokens = rows["tokens"].combine_chunks()
    values, offsets = tokens.values.to_numpy(), tokens.offsets.to_numpy()
    for n, step in enumerate(steps):
        example = Example(values[offsets[n] : offsets[n + 1]], prompts[n], ratings[n], labels[n])
        waiting.setdefault(step, []).append(example)
