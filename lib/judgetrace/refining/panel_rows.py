"""The ratings that a run of refine_guideline keeps, and by what they are known."""

from __future__ import annotations

import pyarrow as pa

from judgetrace.schema import RATINGS, UNIT_KEY

KNOWN_BY = ("text", "rater", *UNIT_KEY)
KNOWN_RATINGS = pa.schema(
    [
        ("text", pa.string()),  # fingerprint of the guideline that the rater was shown
        ("rater", pa.string()),  # fingerprint of all else that the rating depends on: model, prompt, decoding
        *(field for field in RATINGS if field.name != "draws"),
        ("prompt_tokens", pa.int64()),  # of all its samples
        ("output_tokens", pa.int64()),
    ]
)
"""One row a rating; what RUN/ratings holds. The last row of a rating counts."""
