"""A store on local disk, by URLs disk:///folder: every piece that is asked of it takes a while and is noted.

fsspec finds it once this module is imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

LATENCY_S = 0.1
ASKED = "JUDGETRACE_TEST_ASKED"
"""In the environment: the file that gets a line for every piece, the name of its file."""
STALLS = "JUDGETRACE_TEST_STALLS"
"""In the environment: the name of a file whose pieces after the first never come."""


class DiskStore(LocalFileSystem):
    """Lists and serves what lies on disk."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("disk://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        time.sleep(LATENCY_S)
        if start and path.endswith(os.environ.get(STALLS, "\0")):
            time.sleep(3600)
        with Path(os.environ[ASKED]).open("a") as log:
            log.write(f"{Path(path).name}\n")
        return bytes(super().cat_file(path, start=start, end=end, **options))


fsspec.register_implementation("disk", DiskStore, clobber=True)
