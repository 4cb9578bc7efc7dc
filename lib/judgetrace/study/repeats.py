"""How many refined guidelines the test split of a study was asked about: only the first one's figures are a first look.

A guideline that comes out otherwise is rated by in a fresh folder, and the earlier ones stay: their contracts tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from judgetrace.splits import SPLITS
from judgetrace.storage import Folder
from judgetrace.study.records import Record, name_folder, read_attempt


def list_repeats(study: Folder, records: Mapping[str, Record]) -> Iterator[str]:
    """Say where the study's test split has been rated by more than one refined guideline."""
    num = count_guidelines(study, records)
    if num > 1:
        yield (
            f"The test split has been rated by {num:,} refined guidelines in this study: its figures are no longer of "
            "a first look, and who chose between them by its figures has no test split left."
        )


def count_guidelines(study: Folder, records: Mapping[str, Record]) -> int:
    """Count the refined guidelines that one test split was asked about: of one corpus and dimension, the most."""
    found: dict[tuple[str, ...], set[str]] = {}
    for contract in _list_contracts(study, records):
        if "test" in (contract.get("splits") or SPLITS):
            asked = (str(contract.get("corpus")), *(contract.get("dimensions") or ()))
            found.setdefault(asked, set()).add(str(contract.get("guideline")))
    return max(map(len, found.values()), default=0)


def _list_contracts(study: Folder, records: Mapping[str, Record]) -> Iterator[dict[str, Any]]:
    """List the contracts of all ratings by refined guidelines, of every folder that a stage has had."""
    for name, record in records.items():
        if name.startswith("rate.") and name.endswith(".refined"):
            for attempt in range(1, read_attempt(name, record.folder) + 1):
                folder = study / name_folder(name, attempt)
                if folder.exists("contract.json"):
                    yield folder.read_json("contract.json")
