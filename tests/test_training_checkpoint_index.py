"""Ray Train's index of checkpoints: damaged by an end at the wrong moment, and what it does not name."""

from __future__ import annotations

import os
import time

import pytest

from judgetrace.config import UserError
from judgetrace.storage import Folder
from judgetrace.training.checkpoint_index import (
    INDEX,
    INDEX_BEFORE,
    has_checkpoint,
    keep_index,
    mend_index,
    remove_unfinished,
)


def make_run(tmp_path, *named: str, folders: tuple[str, ...] = ()) -> Folder:
    """A run whose index names some checkpoints, as Ray 2.60 writes it."""
    run = Folder(str(tmp_path / "run"))
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {"step": 1}} for name in named]
    run.write_json(f"checkpoints/{INDEX}", {"ray_version": "2.60.0", "checkpoint_results": results})
    for name in (*named, *folders):
        run.write_json(f"checkpoints/{name}/layout.json", {"workers": 2})
        run.write_json(f"checkpoints/{name}/state/part.pt", {})
    return run


def cut_off(run: Folder) -> None:
    path = f"checkpoints/{INDEX}"
    run.write_atomic(path, run.read_bytes(path)[:40])


def list_names(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "run/checkpoints").iterdir()}


def test_checkpoints_that_the_index_does_not_name_are_deleted_and_nothing_else(tmp_path):
    run = make_run(tmp_path, "checkpoint_a", "checkpoint_b", folders=("checkpoint_half",))
    assert remove_unfinished(run, time.time()) == ["checkpoint_half"]
    assert list_names(tmp_path) == {INDEX, "checkpoint_a", "checkpoint_b"}
    assert remove_unfinished(run, time.time()) == []


def test_checkpoints_on_a_store_and_empty_ones_are_found_too(tmp_path, s3):
    run = Folder(f"{s3}/{tmp_path.name}/run")
    assert remove_unfinished(run, time.time()) == []
    run.write_json("checkpoints/checkpoint_half/state/part.pt", {})
    assert remove_unfinished(run, time.time() - 600) == []
    # A store's clock need not be ours.
    assert remove_unfinished(run, time.time() + 600) == ["checkpoint_half"]
    assert (run / "checkpoints").list_files(recursive=True) == []
    empty = tmp_path / "run/checkpoints/checkpoint_empty"
    empty.mkdir(parents=True)
    assert remove_unfinished(Folder(str(tmp_path / "run")), time.time()) == ["checkpoint_empty"]
    assert not empty.exists()


def test_a_checkpoint_that_an_older_driver_may_still_be_saving_is_left(tmp_path):
    run = make_run(tmp_path, "checkpoint_a", folders=("checkpoint_half", "checkpoint_now"))
    for file in (tmp_path / "run/checkpoints/checkpoint_half").rglob("*"):
        os.utime(file, (0, 1000.0))
    assert remove_unfinished(run, 2000.0) == ["checkpoint_half"]
    assert list_names(tmp_path) == {INDEX, "checkpoint_a", "checkpoint_now"}


def test_without_an_index_no_checkpoint_is_complete(tmp_path):
    run = make_run(tmp_path, folders=("checkpoint_half",))
    assert has_checkpoint(run)
    run.delete([f"checkpoints/{INDEX}"])
    assert not has_checkpoint(run)
    assert not mend_index(run)
    assert remove_unfinished(run, time.time()) == ["checkpoint_half"]
    assert remove_unfinished(Folder(str(tmp_path / "none")), time.time()) == []


def test_an_index_that_was_cut_off_is_the_one_before_it_again(tmp_path):
    run = make_run(tmp_path, "checkpoint_a")
    keep_index(run)
    before = run.read_json(f"checkpoints/{INDEX}")
    make_run(tmp_path, "checkpoint_a", "checkpoint_b")
    cut_off(run)
    # What is kept is never what is damaged.
    keep_index(run)
    assert mend_index(run)
    assert run.read_json(f"checkpoints/{INDEX}") == before
    assert not mend_index(run)
    assert remove_unfinished(run, time.time()) == ["checkpoint_b"]


@pytest.mark.parametrize("is_kept", [False, True])
def test_an_index_that_cannot_be_restored_is_named_with_what_to_do(tmp_path, is_kept):
    run = make_run(tmp_path, "checkpoint_a")
    if is_kept:
        # It names a checkpoint that is gone.
        gone = {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_gone"}]}
        run.write_json(f"checkpoints/{INDEX_BEFORE}", gone)
    cut_off(run)
    with pytest.raises(UserError, match=rf"{INDEX}: .* is damaged(.|\n)*Bring it back from a copy; or delete"):
        mend_index(run)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}x", b'{"checkpoint_results": [{}]}'])
def test_whatever_is_no_index_is_a_damaged_one(tmp_path, text):
    run = make_run(tmp_path, "checkpoint_a")
    keep_index(run)
    run.write_atomic(f"checkpoints/{INDEX}", text)
    assert mend_index(run)
