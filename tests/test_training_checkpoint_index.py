"""Ray Train's index of checkpoints: damaged by an end at the wrong moment, and what it does not name."""

from __future__ import annotations

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
    assert remove_unfinished(run) == ["checkpoint_half"]
    assert list_names(tmp_path) == {INDEX, "checkpoint_a", "checkpoint_b"}
    assert remove_unfinished(run) == []


def test_without_an_index_no_checkpoint_is_complete(tmp_path):
    run = make_run(tmp_path, folders=("checkpoint_half",))
    assert has_checkpoint(run)
    run.delete([f"checkpoints/{INDEX}"])
    assert not has_checkpoint(run)
    assert not mend_index(run)
    assert remove_unfinished(run) == ["checkpoint_half"]
    assert remove_unfinished(Folder(str(tmp_path / "none"))) == []


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
    assert remove_unfinished(run) == ["checkpoint_b"]


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
