"""Which answers of an S3 store are waited out, beyond throttling and broken connections, which s3fs waits out itself.

Both layers wait longer from try to try: botocore asks 5 times, s3fs has it do so 5 times. A store that stays away ends
a request after some 40 s.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def wait_out_passing_errors() -> None:
    """Tell s3fs, once for this process, which errors pass."""
    import s3fs.core  # type: ignore[import-untyped]
    from botocore.exceptions import FlexibleChecksumError  # type: ignore[import-untyped]

    s3fs.core.set_custom_error_handler(is_passing)
    # A body that was cut short on its way.
    s3fs.core.add_retryable_error(FlexibleChecksumError)


def is_passing(error: Any) -> bool:
    """Whether a botocore ClientError says that the same request may do well a little later.

    The answer to a HEAD has a status and no code. 409 to a conditional write: another one was under way at that moment.
    """
    answer = getattr(error, "response", None) or {}
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status >= 500 or bool(answer.get("Error", {}).get("Code") == "ConditionalRequestConflict")
