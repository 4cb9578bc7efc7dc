"""A folder on local disk, S3 or any other fsspec filesystem, with the writes that a ledger needs.

Three ways to write: `write_atomic` (readers see the old or the new file, never half), `put_if_absent` (the first
writer wins, the second is told) and `open_for_write` (streams a large file). Knows nothing of what the files hold.

Source: S3 conditional writes (If-None-Match) through fsspec's `pipe_file(mode="create")`; on local disk link(2),
which fails where the name exists.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

PARQUET_COMPRESSION = "zstd"


def open_filesystem(url: str) -> tuple[Any, str]:
    """Open the fsspec filesystem of a URL or local path; returns it with the path inside it.

    Credentials and endpoints come from the environment (AWS_ENDPOINT_URL, AWS_PROFILE, an instance role, ...).
    """
    # Listings are never cached: other processes write into the same folders.
    options: dict[str, Any] = {"use_listings_cache": False} if url.startswith(("s3://", "s3a://")) else {}
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, path


@dataclass(frozen=True)
class Folder:
    """A folder by URL. Can be pickled; every process opens the filesystem for itself."""

    url: str
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return (Folder, (self.url,))

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/{name}")

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem."""
        if "filesystem" not in self._cache:
            self._cache["filesystem"], self._cache["root"] = open_filesystem(self.url)
        return self._cache["filesystem"]

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on a local (or mounted) disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Return the path inside the filesystem of a file of this folder."""
        root = str((self.filesystem, self._cache["root"])[1]).rstrip("/")
        return f"{root}/{name}" if name else root

    def exists(self, name: str) -> bool:
        """Whether a file exists now."""
        return bool(self.filesystem.exists(self.path(name)))

    def list_files(self, suffix: str = "", recursive: bool = False) -> list[str]:
        """List file names below this folder, sorted; a folder that does not exist has none.

        Unfinished temporary files (names that begin with a dot) are left out.
        """
        root = self.path() + "/"
        found = self.filesystem.find(root, maxdepth=None if recursive else 1)
        names = (name.removeprefix(root) for name in found)
        return sorted(n for n in names if n.endswith(suffix) and not n.rsplit("/", 1)[-1].startswith("."))

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError."""
        return cast(bytes, self.filesystem.cat_file(self.path(name)))

    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace a file; readers see all of it or the old one."""
        if not self.is_local:
            self.filesystem.pipe_file(self.path(name), data)
            return
        temporary = self._write_temporary(name, data)
        os.replace(temporary, self.path(name))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns False, and writes nothing, where another writer was first."""
        if not self.is_local:
            try:
                self.filesystem.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._write_temporary(name, data)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _write_temporary(self, name: str, data: bytes) -> Path:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def open_for_write(self, name: str) -> IO[bytes]:
        """Open a file for streaming; on S3 it appears when closed, on local disk at once."""
        if self.is_local:
            Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        return cast(IO[bytes], self.filesystem.open(self.path(name), "wb"))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already do not matter."""
        for name in names:
            try:
                self.filesystem.rm_file(self.path(name))
            except FileNotFoundError:
                continue

    def read_json(self, name: str) -> Any:
        """Read a JSON file. Raises FileNotFoundError."""
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write or replace a JSON file atomically."""
        self.write_atomic(name, encode_json(value))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or some of its columns."""
        return pq.read_table(pa.BufferReader(self.read_bytes(name)), columns=columns)

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """Open a Parquet file for its footer and single row groups, without reading the rest."""
        return pq.ParquetFile(self.filesystem.open(self.path(name), "rb", cache_type="none"))


def encode_json(value: Any) -> bytes:
    """Encode a JSON document for people to read."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def encode_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """Encode a table as a Parquet file, with `metadata` in its footer."""
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=PARQUET_COMPRESSION)
    return cast(bytes, sink.getvalue().to_pybytes())
