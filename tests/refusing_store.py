"""A store on local disk, by URLs refusing:///folder, that refuses to open the files that `REFUSED` tells.

fsspec finds it once this module is imported.
"""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

REFUSED: tuple[str, str] | None = None
"""How and what: "rb" or "wb", and a part of the paths."""


class RefusingStore(LocalFileSystem):
    """Opens what lies on disk, or refuses to."""

    protocol = "refusing"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("refusing://")))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if REFUSED is not None and mode == REFUSED[0] and REFUSED[1] in path:
            raise PermissionError("AccessDenied")
        return super()._open(path, mode, block_size, **options)


fsspec.register_implementation("refusing", RefusingStore, clobber=True)
