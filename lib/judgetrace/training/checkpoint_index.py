"""Ray Train's index of a run's checkpoints: which folders are complete. Imports neither Ray nor torch.

RUN/checkpoints/checkpoint_manager_snapshot.json   Ray's; written in place, so that a kill or a full disk may cut it off
RUN/checkpoints/index-before.json                  as it was before the newest checkpoint; Ray deletes no checkpoint of
                                                   it before the newer index is written
RUN/checkpoints/checkpoint_2026-.../               a checkpoint; one that the index does not name is not complete
"""

from __future__ import annotations

from typing import Any

from judgetrace.config import UserError
from judgetrace.storage import CorruptFileError, Folder, naming

CHECKPOINTS = "checkpoints"
INDEX = "checkpoint_manager_snapshot.json"
INDEX_BEFORE = "index-before.json"


def has_checkpoint(run: Folder) -> bool:
    """Whether a run has a complete checkpoint."""
    return (run / CHECKPOINTS).exists(INDEX)


def keep_index(run: Folder) -> None:
    """Keep the index as it is, before a checkpoint is added to it."""
    folder = run / CHECKPOINTS
    index = _read_index(folder, INDEX)
    if index is not None:
        folder.write_json(INDEX_BEFORE, index)


def mend_index(run: Folder) -> bool:
    """Restore the index where it is damaged; returns whether it was. Raises UserError where it can't be restored."""
    folder = run / CHECKPOINTS
    if not folder.exists(INDEX) or _read_index(folder, INDEX) is not None:
        return False
    before = _read_index(folder, INDEX_BEFORE)
    if before is None or _list_named(before) - _list_folders(folder):
        raise UserError(
            f"{folder.url}/{INDEX}: Ray Train's index of the checkpoints is damaged, and can't be restored from "
            f"{INDEX_BEFORE}\nexpected: the JSON file that names the complete checkpoints\nBring it back from a copy; "
            f"or delete {folder.url}, and training begins again."
        )
    folder.write_json(INDEX, before)
    return True


def remove_unfinished(run: Folder, before: float) -> list[str]:
    """Delete the checkpoints that were not completed, as those of a full disk; returns their names.

    The index must be whole. What was changed after `before` (seconds since 1970) is left: an older driver, which is
    fenced before its next save, may still be in this one, and would name it in the index.
    """
    folder = run / CHECKPOINTS
    unfinished = _list_folders(folder) - _list_named(_read_index(folder, INDEX) or {})
    old = [name for name in sorted(unfinished) if _find_last_change(folder / name) <= before]
    for name in old:
        folder.delete_all_below(name)
    return old


def _read_index(folder: Folder, name: str) -> dict[str, Any] | None:
    """Read an index; None where there is none, or none that can be read."""
    try:
        index: dict[str, Any] = folder.read_json(name)
        _list_named(index)
    except (FileNotFoundError, CorruptFileError, KeyError, TypeError, AttributeError):
        return None
    return index


def _list_named(index: dict[str, Any]) -> set[str]:
    return {str(result["checkpoint_dir_name"]) for result in index.get("checkpoint_results", [])}


def _find_last_change(folder: Folder) -> float:
    changes = (folder.filesystem.modified(folder.path(name)) for name in folder.list_files(recursive=True))
    return max((changed.timestamp() for changed in changes), default=0.0)


def _list_folders(folder: Folder) -> set[str]:
    """List the folders of checkpoints; on a local disk one may be empty."""
    try:
        with naming(folder.url, "listed"):
            found = folder.filesystem.ls(folder.path(), detail=True)
    except FileNotFoundError:
        return set()
    names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory"}
    return {name for name in names if name.startswith("checkpoint_")}
