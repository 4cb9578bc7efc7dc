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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from judgetrace.config import UserError
from judgetrace.corruption import is_corruption
from judgetrace.s3_retries import says_exists, wait_out_passing_errors

PARQUET_COMPRESSION = "zstd"


def open_filesystem(url: str) -> tuple[Any, str]:
    """Open the fsspec filesystem of a URL or local path; returns it with the path inside it.

    Credentials and endpoints come from the environment (AWS_ENDPOINT_URL, AWS_PROFILE, an instance role, ...).
    """
    options: dict[str, Any] = {}
    if url.startswith(("s3://", "s3a://")):
        # Listings are never cached: other processes write into the same folders.
        options["use_listings_cache"] = False
        wait_out_passing_errors()
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, path


class StoreError(UserError):
    """A store, or a disk, refuses or can't be reached, and has been asked often enough."""

    exit_status = 3


class CorruptFileError(UserError):
    """A file is not what it must be: cut off, overwritten, of another schema, or gone."""


@contextmanager
def naming(url: str, what: str) -> Iterator[None]:
    """Name what could not be done to which file in the errors of a store, and make them StoreErrors.

    FileNotFoundError and FileExistsError are answers.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, UserError):
        raise
    except Exception as error:
        from_client = type(error).__module__.startswith(("botocore", "aiohttp"))
        if is_corruption(error) or not (from_client or isinstance(error, OSError)):
            raise
        raise StoreError(
            f"{url}: can't be {what}: {type(error).__name__}: {error}\n"
            "What was committed is kept. When the store answers again, the same command goes on from there."
        ) from error


@contextmanager
def parsing(url: str) -> Iterator[None]:
    """Name the file, in a CorruptFileError, where its Parquet can't be parsed or lacks what is expected of it."""
    try:
        yield
    except Exception as error:
        # KeyError: of a column that is not there.
        if not is_corruption(error) and not isinstance(error, pa.ArrowException | KeyError):
            raise
        raise CorruptFileError(
            f"{url}: is not the Parquet file it must be: {type(error).__name__}: {error}\n"
            "Restore the file from a copy, or make it again."
        ) from error


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
        """Whether a file exists now. Raises StoreError where the store doesn't tell."""
        with naming(f"{self.url}/{name}", "looked up"):
            return bool(self.filesystem.exists(self.path(name)))

    def list_files(self, suffix: str = "", recursive: bool = False, prefix: str = "") -> list[str]:
        """List file names below this folder, sorted; a folder that does not exist has none.

        With `prefix`, those of this folder itself that begin with it: an object store is asked for no others, however
        many there are. Unfinished temporary files (names that begin with a dot) are left out. Raises StoreError.
        """
        root = self.path() + "/"
        # By default fsspec takes a folder whose listing fails for an empty one.
        options: dict[str, Any] = {} if recursive else {"maxdepth": 1, "on_error": "raise"}
        if prefix and "s3" in self.filesystem.protocol:
            options = {"prefix": prefix}
        try:
            with naming(self.url, "listed"):
                found = self.filesystem.find(root, **options)
        except FileNotFoundError:
            return []
        names = (name.removeprefix(root) for name in found)
        if prefix:
            names = (name for name in names if name.startswith(prefix) and "/" not in name)
        return sorted(n for n in names if n.endswith(suffix) and not n.rsplit("/", 1)[-1].startswith("."))

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError, StoreError."""
        # One request. By default s3fs asks for the size first, and does not repeat what it reads piece by piece.
        options = {"max_concurrency": 1} if "s3" in self.filesystem.protocol else {}
        with naming(f"{self.url}/{name}", "read"):
            return cast(bytes, self.filesystem.cat_file(self.path(name), **options))

    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace a file; readers see all of it or the old one. Raises StoreError."""
        with naming(f"{self.url}/{name}", "written"):
            if not self.is_local:
                is_page = name.endswith(".html") and "s3" in self.filesystem.protocol
                # Without its type browsers download a page instead of showing it.
                about = {"ContentType": "text/html; charset=utf-8"} if is_page else {}
                self.filesystem.pipe_file(self.path(name), data, **about)
                return
            temporary = self._write_temporary(name, data)
            os.replace(temporary, self.path(name))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns False, and writes nothing, where another writer was first.

        On an object store, two writers of the very same content both count as the first. Raises StoreError.
        """
        with naming(f"{self.url}/{name}", "written"):
            return self._link_new(name, data) if self.is_local else self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(self.path(name), data, mode="create")
        except OSError as error:
            # FileNotFoundError: of an upload in parts that is not there any more, since it was completed.
            exists = says_exists(error)
            if not exists and not isinstance(error, FileNotFoundError):
                raise
            # A store may have written it and its answer got lost: the client's next try then finds its own file.
            try:
                return self.read_bytes(name) == data
            except FileNotFoundError:
                if exists:
                    return False
                raise
        return True

    def _link_new(self, name: str, data: bytes) -> bool:
        temporary = self._write_temporary(name, data)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            # A mount may say so of a link that it has made itself, when the answer to its first try got lost.
            return temporary.stat().st_nlink == 2
        finally:
            temporary.unlink()
        return True

    def _write_temporary(self, name: str, data: bytes) -> Path:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)  # a full disk must not fill with halves
            raise
        return temporary

    def open_for_write(self, name: str) -> IO[bytes]:
        """Open a file for streaming; on S3 it appears when closed, on local disk at once."""
        if self.is_local:
            Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        return cast(IO[bytes], self.filesystem.open(self.path(name), "wb"))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already do not matter. Raises StoreError."""
        for name in names:
            with suppress(FileNotFoundError), naming(f"{self.url}/{name}", "deleted"):
                self.filesystem.rm_file(self.path(name))

    def delete_all_below(self, name: str) -> None:
        """Delete a folder with all that is in it; it does not matter where there is none. Raises StoreError."""
        with suppress(FileNotFoundError), naming(f"{self.url}/{name}", "deleted"):
            self.filesystem.rm(self.path(name), recursive=True)

    def read_json(self, name: str) -> Any:
        """Read a JSON file. Raises FileNotFoundError, StoreError, CorruptFileError."""
        data = self.read_bytes(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise CorruptFileError(f"{self.url}/{name}: is no JSON file: {error}\nRestore it.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write or replace a JSON file atomically."""
        self.write_atomic(name, encode_json(value))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or some of its columns. Raises FileNotFoundError, StoreError, CorruptFileError."""
        data = self.read_bytes(name)
        with self.parsing(name):
            return decode_parquet(data, columns)

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """Open a Parquet file for its footer and single row groups, without reading the rest.

        Raises FileNotFoundError, StoreError, CorruptFileError.
        """
        with naming(f"{self.url}/{name}", "read"), self.parsing(name):
            file = self.filesystem.open(self.path(name), "rb", cache_type="none")
            return pq.ParquetFile(file, page_checksum_verification=True)

    def parsing(self, name: str) -> AbstractContextManager[None]:
        """Name a file of the folder where its Parquet can't be parsed; see `parsing`."""
        return parsing(f"{self.url}/{name}")


def read_text(key: str, path: str) -> str:
    """Read a text that a config names under a key: a local file, or one by URL. Raises UserError."""
    filesystem, inside = open_filesystem(path)
    try:
        return str(filesystem.cat_file(inside).decode())
    except FileNotFoundError as error:
        raise UserError(f"{key} = {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key} = {path}: can't be read: {error}") from error


def encode_json(value: Any) -> bytes:
    """Encode a JSON document for people to read."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def encode_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """Encode a table as a Parquet file, with `metadata` in its footer."""
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    sink = pa.BufferOutputStream()
    # Without checksums most single wrong bits of a page are read as other values.
    pq.write_table(table, sink, compression=PARQUET_COMPRESSION, write_page_checksum=True)
    return cast(bytes, sink.getvalue().to_pybytes())


def decode_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode a Parquet file, or some of its columns, in their order. Raises KeyError for columns that it has not.

    What is no Parquet raises an ArrowException or OSError.
    """
    # Not pq.read_table: its scanner lives on in threads, and aborts the process where they let go of Python's bytes
    # while the interpreter ends (https://github.com/apache/arrow/issues/45214).
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise KeyError(f"no columns {missing}; it has {file.schema_arrow.names}")
        table = file.read(columns=columns)
    return table if columns is None else table.select(columns)
