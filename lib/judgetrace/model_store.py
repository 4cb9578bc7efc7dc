"""Model folders by URL: which files they hold, and a copy of them on this machine, fetched once.

CACHE/x-rater-1f6a.../   a fetched folder, whole; its name tells URL and files, so that a changed folder is another one
CACHE/.x-rater-1f6a....part   one that is being fetched

CACHE is $JUDGETRACE_CACHE, else $XDG_CACHE_HOME/judgetrace/models, else ~/.cache/judgetrace/models. Local paths and
names of a hub pass through. Knows nothing of what a model's files say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.folder_lock import lock_folder
from judgetrace.storage import Folder, StoreError, naming

Part = Literal["path", "adapter"]
"""The field of ModelConfig that names the folder."""
MAIN_FILES: Mapping[Part, str] = {"path": "config.json", "adapter": "adapter_config.json"}
"""The file without which a folder is no model, or no adapter."""
TEXT_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt", ".md"})
"""Config, tokenizer, chat template, model card: all but the weights."""
PIECE_BYTES = 1 << 24
PIECES_AT_ONCE = 8
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "modified", "updated", "created")
"""What stores call that which changes with a file's content, the best first."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a folder, by its path below it."""

    name: str
    size: int
    """Bytes."""
    stamp: str
    """ETag, or time of the last change: differs when the content does."""


def is_url(path: str) -> bool:
    """Whether a model's path is a URL; file:// is a local path."""
    return "://" in path and not path.startswith("file://")


def is_folder(path: str) -> bool:
    """Whether a model's path is a folder, here or by URL, and not a name of a hub."""
    return is_url(path) or Path(strip_file(path)).is_dir()


def strip_file(path: str) -> str:
    """Turn file:///folder into /folder."""
    return path.removeprefix("file://")


def fetch_model(model: ModelConfig) -> ModelConfig:
    """Fetch a model and its adapter, where they are URLs; returns the model with local paths. Raises UserError."""
    adapter = model.adapter and str(fetch_folder(model.adapter, "adapter"))
    return model.model_copy(update={"path": str(fetch_folder(model.path)), "adapter": adapter})


def fetch_folder(path: str, part: Part = "path", *, weights: bool = True) -> Path:
    """Fetch a model's folder into the cache, unless it is there; a local path, or a name, is returned as it is.

    The folder appears whole or not at all. Several processes may call it: one fetches, the others wait for it.
    Without `weights`, files of TEXT_SUFFIXES are enough. Raises UserError for a URL that holds no model.
    """
    if not is_url(path):
        return Path(strip_file(path))
    files = list_files(path, part)
    target = find_cache() / _name_copy(path, files)
    if not weights and not target.is_dir():
        files = [file for file in files if PurePosixPath(file.name).suffix in TEXT_SUFFIXES]
        target = find_cache() / _name_copy(path, files)
    if target.is_dir():
        return target
    with lock_folder(target):
        if not target.is_dir():
            _check_room(path, target.parent, files)
            temporary = target.with_name(f".{target.name}.part")
            shutil.rmtree(temporary, ignore_errors=True)  # a killed process leaves one behind
            whole = _copy_files(Folder(path), files, temporary)
            if not whole or not set(files) <= set(list_files(path, part)):
                shutil.rmtree(temporary)
                raise UserError(f"model.{part} = {path}: changed while it was fetched\nrun again when it is written")
            temporary.rename(target)
    return target


def find_cache() -> Path:
    """Find the folder of fetched models."""
    own = os.environ.get("JUDGETRACE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "judgetrace" / "models"


def list_files(url: str, part: Part = "path") -> list[StoredFile]:
    """List the files of a model's folder by URL, sorted by name; hidden ones are left out. Raises UserError."""
    folder, main_file = Folder(url), MAIN_FILES[part]
    try:
        with naming(url, "read"):
            # Before the listing: a URL that names a whole bucket is told at once.
            folder.filesystem.info(folder.path(main_file))
            root = folder.path() + "/"
            found = folder.filesystem.find(root, detail=True)
            files = [_describe_file(folder, name.removeprefix(root), info) for name, info in sorted(found.items())]
    except FileNotFoundError:
        raise UserError(
            f"model.{part} = {url}: no {main_file} there\nexpected: "
            + ("a Hugging Face model folder" if part == "path" else "a folder of a LoRA adapter, as peft writes it")
        ) from None
    except StoreError:
        raise
    except Exception as error:
        raise UserError(f"model.{part} = {url}: can't be read: {type(error).__name__}: {error}") from error
    return [file for file in files if not any(name.startswith(".") for name in PurePosixPath(file.name).parts)]


def _describe_file(folder: Folder, name: str, info: Mapping[str, Any]) -> StoredFile:
    stamp = _find_stamp(info)
    if stamp is None or info.get("size") is None:
        # Some stores' listings tell less than a question for the one file.
        info = folder.filesystem.info(folder.path(name))
        stamp = _find_stamp(info)
    if stamp is None or info.get("size") is None:
        raise ValueError(f"{name}: the store tells no size, or neither an ETag nor a time of change")
    return StoredFile(name, int(info["size"]), stamp)


def _find_stamp(info: Mapping[str, Any]) -> str | None:
    return next((str(info[key]) for key in _STAMPS if info.get(key)), None)


def _name_copy(url: str, files: Sequence[StoredFile]) -> str:
    """Name the copy of a folder: the end of its URL, and a fingerprint of URL and files."""
    ending = re.sub(r"[^\w.-]+", "_", "-".join(PurePosixPath(url).parts[-2:]))
    digest = hashlib.blake2b(url.rstrip("/").encode(), digest_size=8)
    for file in files:
        digest.update(f"\n{file.name}\t{file.size}\t{file.stamp}".encode())
    return f"{ending.lstrip('.')}-{digest.hexdigest()}"


def _check_room(url: str, cache: Path, files: Sequence[StoredFile]) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(cache).free
    if needed > free:
        raise UserError(
            f"{url}: has {needed:,} bytes, and {cache} of this machine has room for {free:,}\n"
            "Make room, or set JUDGETRACE_CACHE to a folder on a larger disk (engine.env sets it for an engine)."
        )


def _copy_files(source: Folder, files: Sequence[StoredFile], target: Path) -> bool:
    """Copy files in pieces, several at once, whether they are of one file or of many; false once one became shorter."""
    for file in files:
        local = target / file.name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.touch()
    pieces = [(file, start) for file in files for start in range(0, file.size, PIECE_BYTES)]
    with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
        # Unlike futures of one's own, those of map() are cancelled when one of them fails.
        return all(pool.map(partial(_copy_piece, source, target), pieces))


def _copy_piece(source: Folder, target: Path, piece: tuple[StoredFile, int]) -> bool:
    file, start = piece
    end = min(start + PIECE_BYTES, file.size)
    with naming(f"{source.url}/{file.name}", "read"):
        data = source.filesystem.cat_file(source.path(file.name), start=start, end=end)
    with (target / file.name).open("r+b") as local:
        local.seek(start)
        local.write(data)
    return len(data) == end - start
