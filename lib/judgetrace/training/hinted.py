"""Cap the share of hinted traces among what is learned. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from judgetrace.schema import UnitKey


def choose_dropped(hinted: Sequence[UnitKey], num_others: int, max_share: float, seed: int) -> list[int]:
    """Choose which hinted examples (their positions) are dropped, so that at most `max_share` of all are hinted.

    Those with the smallest hashes of seed and unit stay, whatever their order.
    """
    if max_share >= 1:
        return []
    # h / (h + others) <= share; the small term keeps .25 of 4 from being 0.999... of an example.
    allowed = int(max_share * num_others / (1 - max_share) + 1e-9)
    ranked = sorted(range(len(hinted)), key=lambda n: (_hash_unit(hinted[n], seed), hinted[n]))
    return sorted(ranked[allowed:])


def _hash_unit(key: UnitKey, seed: int) -> bytes:
    text = "\x1f".join(("hinted", str(seed), *key))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
