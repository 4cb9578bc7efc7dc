"""Tell a file whose content is broken from one that could not be reached."""

from __future__ import annotations

import gzip

import pyarrow as pa

_OTHERS = ("zlib.error", "_lzma.LZMAError", "lzma.LZMAError", "ZstdError")


def is_corruption(error: BaseException) -> bool:
    """Tell whether an error means that a file's content is broken, not that it could not be reached."""
    if isinstance(error, OSError):
        # Arrow and bz2 say a plain OSError, without a number, of broken content. A store's refusal has none
        # either.
        return type(error) in (OSError, gzip.BadGzipFile) and error.errno is None
    name = f"{type(error).__module__}.{type(error).__name__}"
    return isinstance(error, pa.ArrowInvalid | EOFError) or name in _OTHERS
