"""Count the units of several runs' indexes, each once: how many were decided, how many teach nothing, and why. Pure.

A unit that some run's trace teaches is not left out, whatever other runs say of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from judgetrace.ledger import table_keys
from judgetrace.schema import UnitKey

OVER_QUOTA = "over_quota"
"""The reason of a unit that was not drawn: nothing was decided about it."""
_NEARNESS = {OVER_QUOTA: 0, "not_accepted": 1}
"""How near a unit came to teaching, by its reason; nearer with any other one."""
_OTHER, _TEACHES = 2, 3
_NO_REASON = 0
"""The code of what teaches, among those of reasons."""

Name = TypeVar("Name", bound=Hashable)


class UnitTally:
    """What the runs say of their units, as numbers: every unit's are held at once."""

    def __init__(self) -> None:
        self._keys = [np.zeros(0, np.uint64)]
        self._target_codes: list[int] = []
        self._reason_codes: list[int] = []
        self._targets: dict[tuple[str, str], int] = {}
        self._reasons: dict[str | None, int] = {None: _NO_REASON}

    def add(self, index: pa.Table) -> None:
        """Add the units of a shard of a run (schema reading.INDEX)."""
        self._keys.append(hash_keys(table_keys(index)))
        pairs = zip(index["dimension"].to_pylist(), index["target_label"].to_pylist(), strict=True)
        self._target_codes += [self._targets.setdefault(pair, len(self._targets)) for pair in pairs]
        names = (None if why is None else why.partition(":")[0] for why in index["reason"].to_pylist())
        self._reason_codes += [self._reasons.setdefault(name, len(self._reasons)) for name in names]

    def leave_out(self, positions: Sequence[int], reason: str) -> None:
        """Leave out what taught so far, by its position among all that does, in the order it was added."""
        teaching = [n for n, code in enumerate(self._reason_codes) if code == _NO_REASON]
        code = self._reasons.setdefault(reason, len(self._reasons))
        for position in positions:
            self._reason_codes[teaching[position]] = code

    def count_left_out(self) -> Counter[str]:
        """Count the units that teach in no run, by reason.

        Of several that of the run in which the unit came nearest to teaching, of equally near ones the last run's.
        """
        keys, codes = np.concatenate(self._keys), np.array(self._reason_codes, np.int64)
        nearness = np.array([_measure_nearness(name) for name in self._reasons])[codes]
        # The order is stable: of a unit's equally near rows the last run's comes last.
        order = np.lexsort((nearness, keys))
        is_last = np.append(keys[order][1:] != keys[order][:-1], True)[: len(keys)]
        return _count(codes[order[is_last]], {name: code for name, code in self._reasons.items() if name is not None})

    def count_decided(self) -> Counter[tuple[str, str]]:
        """Count the units that some run drew for, by (dimension, target label)."""
        is_drawn = np.array(self._reason_codes, np.int64) != self._reasons.get(OVER_QUOTA, -1)
        _, first = np.unique(np.concatenate(self._keys)[is_drawn], return_index=True)
        return _count(np.array(self._target_codes, np.int64)[is_drawn][first], self._targets)


def _measure_nearness(reason: str | None) -> int:
    return _TEACHES if reason is None else _NEARNESS.get(reason, _OTHER)


def _count(codes: npt.NDArray[np.int64], names: Mapping[Name, int]) -> Counter[Name]:
    counts = np.bincount(codes, minlength=1 + max(names.values(), default=0))
    return Counter({name: int(counts[code]) for name, code in names.items() if counts[code]})


def hash_keys(keys: Sequence[UnitKey]) -> npt.NDArray[np.uint64]:
    """Shorten keys to eight bytes each."""
    texts = ("\x1f".join(key).encode("utf-8", "surrogatepass") for key in keys)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), dtype=np.uint64)
