"""What the jobs that ask units publish: which tables, where, and how they are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from judgetrace.accounting import Tally, tally_ratings, tally_traces, tally_verifications
from judgetrace.schema import DECISIONS, RATER_ANNOTATIONS, RATINGS, TRACES, VERDICTS, VERIFICATIONS


@dataclass(frozen=True)
class Product:
    """The tables of one kind of run. Both schemas hold the unit's key, `outcome` and `draws`."""

    folder: str
    """Where published shards lie in the run folder."""
    decisions: pa.Schema
    """What ledger parts hold."""
    published: pa.Schema
    """Decisions joined with columns of the units (schema.ITEMS)."""
    tally: Callable[[pa.Table], Tally]
    """Counts a published table."""


TRACE_PRODUCT = Product("traces", DECISIONS, TRACES, tally_traces)
RATING_PRODUCT = Product("annotations", RATINGS, RATER_ANNOTATIONS, tally_ratings)
VERIFICATION_PRODUCT = Product("verifications", VERDICTS, VERIFICATIONS, tally_verifications)
PRODUCTS = {product.folder: product for product in (TRACE_PRODUCT, RATING_PRODUCT, VERIFICATION_PRODUCT)}
