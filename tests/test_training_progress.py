"""What a checkpoint remembers, and the curves made of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from judgetrace.storage import Folder
from judgetrace.training.curves import EVENTS, encode_events, write_curves
from judgetrace.training.progress import METRICS, Progress


def make_row(step: int, **more: Any) -> dict[str, Any]:
    row = {"step": step, "epoch": step / 8, "loss": 2.0 / step, "squared_error": None, "learning_rate": 5e-5}
    row |= {"grad_norm": 1.5, "num_tokens": 100 * step, "padding_share": 0.125, "seconds": 0.5, "at": 1000.0 + step}
    return {**row, "validation": None, **more}


def make_progress(num_steps: int) -> Progress:
    rows = [
        make_row(step, validation={"score": 0.25, "qwk": None} if step % 2 == 0 else None)
        for step in range(1, num_steps + 1)
    ]
    return Progress(step=num_steps, best_score=0.25, best_step=2, history=rows)


def train(scores: dict[int, float], end: int, patience: int, warmup: int = 0) -> Progress:
    """Steps until early stopping, validated where there is a score."""
    progress = Progress()
    for step in range(1, end + 1):
        if progress.has_stalled(patience, warmup):
            break
        progress.step = step
        progress.history.append(make_row(step))
        if step in scores:
            progress.note_validation({"score": scores[step]})
    return progress


def test_training_stops_when_the_score_has_not_risen_for_so_many_steps() -> None:
    scores = {20: 0.1, 40: 0.3, 60: 0.2, 80: 0.25, 100: 0.29, 120: 0.3, 140: 0.1, 160: 0.9}

    progress = train(scores, 1000, patience=100)

    assert progress.step == 140, "100 steps after the best"
    assert (progress.best_score, progress.best_step) == (0.3, 40)


def test_a_rising_score_goes_on_to_the_end() -> None:
    assert train({step: step / 1000 for step in range(20, 500, 20)}, 400, patience=40).step == 400


def test_patience_counts_from_the_first_score_that_is_defined() -> None:
    # No answer ends within validation.max_new_tokens at first; -1 is the score of nothing.
    never = dict.fromkeys(range(0, 400, 20), -1.0)

    assert train(never, 400, patience=100).step == 400
    assert train(never | {200: -0.9}, 400, patience=100).step == 300, "what comes after is no better"


def test_patience_counts_from_the_end_of_warm_up_at_the_earliest() -> None:
    # No step of warm-up is better than the untuned base, nor is what comes after.
    assert train({step: 0.2 - step / 1e4 for step in range(1, 1000)}, 400, patience=100, warmup=100).step == 200
    assert train({1: 0.1, 150: 0.3}, 400, patience=100, warmup=100).step == 250, "what comes after it counts as ever"


def test_training_without_validation_never_stalls() -> None:
    assert train({}, 300, patience=1).step == 300


def test_an_undefined_score_is_a_start_that_any_other_is_better_than() -> None:
    progress = Progress()

    assert progress.note_validation({"score": -1.0}) is True
    progress.step = 20
    assert progress.note_validation({"score": -0.5}) is True
    progress.step = 40
    assert progress.note_validation({"score": -0.5}) is False
    assert (progress.best_score, progress.best_step) == (-0.5, 20)


def test_a_validation_stands_with_the_step_it_followed() -> None:
    progress = train({2: 0.5}, 3, patience=100)

    assert progress.find_validation(2) == {"score": 0.5}
    assert progress.find_validation(1) is None
    assert progress.find_validation(99) is None


def test_progress_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    progress = make_progress(5)

    progress.save(tmp_path)

    assert Progress.load(tmp_path) == progress


def test_a_checkpoint_of_before_scores_knew_of_coverage_is_read(tmp_path: Path) -> None:
    row = make_row(20, validation={"expected_tau": None, "score": -1.0})
    saved = {"step": 100, "best_score": -1.0, "best_step": 0, "history": [row]}
    (tmp_path / "progress.json").write_text(json.dumps(saved))

    progress = Progress.load(tmp_path)

    assert (progress.step, progress.has_score, progress.has_stalled(100, 0)) == (100, False, False)


def test_metrics_have_a_row_a_step() -> None:
    table = make_progress(3).tabulate()

    assert table.schema == METRICS
    assert table["step"].to_pylist() == [1, 2, 3]
    assert table["squared_error"].null_count == 3
    assert [value and json.loads(value) for value in table["validation"].to_pylist()] == [
        None,
        {"score": 0.25, "qwk": None},
        None,
    ]


def test_no_steps_have_the_same_columns() -> None:
    assert Progress().tabulate().equals(METRICS.empty_table())


def read_records(data: bytes) -> list[bytes]:
    """TFRecord: the length in 8 bytes, its checksum in 4, the data, its checksum in 4."""
    records = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    return records


def read_events(data: bytes) -> list[tuple[str, int, float, float]]:
    """(tag, step, value, time) of each scalar."""
    from tensorboardX.proto.event_pb2 import Event

    events = [Event.FromString(record) for record in read_records(data)]
    assert events[0].file_version == "brain.Event:2"
    return [(v.tag, e.step, v.simple_value, e.wall_time) for e in events[1:] for v in e.summary.value]


def test_curves_can_be_read_back_with_each_step_and_its_time() -> None:
    events = read_events(encode_events(make_progress(3)))

    by_tag = {
        tag: [(step, pytest.approx(value), at) for own, step, value, at in events if own == tag] for tag, *_ in events
    }
    assert by_tag["train/loss"] == [(1, 2.0, 1001.0), (2, 1.0, 1002.0), (3, 2 / 3, 1003.0)]
    assert by_tag["train/num_tokens"] == [(1, 100, 1001.0), (2, 200, 1002.0), (3, 300, 1003.0)]
    assert by_tag["validation/score"] == [(2, 0.25, 1002.0)]
    assert "validation/qwk" not in by_tag
    assert "train/squared_error" not in by_tag


def test_a_longer_history_begins_with_the_same_records() -> None:
    # A reader of TensorBoard goes on where it stopped in a file that grows; the first record has the time of writing.
    short, long = (encode_events(make_progress(num)) for num in (3, 6))

    assert read_records(long)[1 : len(read_records(short))] == read_records(short)[1:]
    header = 16 + len(read_records(short)[0])
    assert len(read_records(long)[0]) + 16 == header
    assert long[header:].startswith(short[header:])


def test_a_history_without_steps_has_an_event_file_all_the_same() -> None:
    assert read_events(encode_events(Progress())) == []


def test_both_files_are_written_anew_as_a_whole(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))

    write_curves(make_progress(6), run)
    write_curves(make_progress(2), run)

    assert run.list_files(recursive=True) == sorted(["metrics.parquet", EVENTS])
    assert run.read_table("metrics.parquet")["step"].to_pylist() == [1, 2]
    assert max(step for _, step, _, _ in read_events(run.read_bytes(EVENTS))) == 2
