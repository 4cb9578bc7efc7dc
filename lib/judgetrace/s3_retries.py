"""What the answers of an S3 store mean: which are waited out, beyond those that s3fs waits out itself.

Both layers wait longer from try to try: botocore asks 5 times, s3fs has it do so 5 times. A store that stays away ends
a request after some 40 s; one that closes each connection without an answer after some four minutes, since s3fs waits
for that in two layers.
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
    """Whether an error says that the same request may do well a little later.

    s3fs by itself gives up at a connection that can't be made: refused, reset before the answer began, or to a name
    that is not known at this moment. The answer to a HEAD has a status and no code. 409 to a conditional write:
    another one was under way at that moment.
    """
    from botocore.exceptions import EndpointConnectionError

    if isinstance(error, EndpointConnectionError):
        # The outer of s3fs's two layers gets the inner one's last error, which has been waited for.
        was_seen, error.was_seen = getattr(error, "was_seen", False), True
        return not was_seen
    answer = getattr(error, "response", None) or {}
    code = answer.get("Error", {}).get("Code")
    return _status_of(error) >= 500 or bool(code == "ConditionalRequestConflict")


def says_exists(error: OSError) -> bool:
    """Whether a conditional write failed because the file exists.

    s3fs says FileExistsError only where the answer names the condition, which stores other than AWS's may leave out.
    """
    return isinstance(error, FileExistsError) or _status_of(error.__cause__) == 412


def _status_of(error: Any) -> int:
    answer = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
