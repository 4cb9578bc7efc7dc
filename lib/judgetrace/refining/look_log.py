"""Remember which looks the confirming items of a run folder have had, so that each has its own share of the error.

A look is a challenger's text compared with the original's by one score of some raters on some items. Any other text,
score or set of items is another look, also of the same challenger: who asks again with more items until it is better
has stopped by the figures. The same look again has the number that it had.

    looks.json    {"looks": {fingerprint: number}}, written before what a look says is computed
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from judgetrace.fingerprints import hash_text
from judgetrace.schema import unit_key
from judgetrace.storage import Folder

LOOKS = "looks.json"


def fingerprint_look(
    texts: Sequence[str], score_kind: str, raters: Sequence[str], items: Iterable[Mapping[str, Any]]
) -> str:
    """Fingerprint a look: the texts of original and challenger, how and by whom they are scored, and on which items.

    `raters` are fingerprints; of `items` the unit and its target label count.
    """
    labelled = sorted((*unit_key(row), str(row["target_label"])) for row in items)
    return hash_text(json.dumps([list(texts), score_kind, list(raters), labelled]))


def number_look(run: Folder, look: str, num_others: int) -> int:
    """Return a look's number, from 1, and note it down.

    `num_others` guidelines besides original and challenger have ratings of the items: they have been looked at, too.
    """
    known: dict[str, int] = run.read_json(LOOKS)["looks"] if run.exists(LOOKS) else {}
    if look not in known:
        known[look] = 1 + max([num_others, *known.values()])
        run.write_json(LOOKS, {"looks": known})
    return known[look]
