"""What a finished stage has made, as fingerprints of its files: whether it is another one, or the same one grown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from judgetrace.corpus import read_manifests
from judgetrace.fingerprints import hash_text
from judgetrace.run_inputs import identify_corpus
from judgetrace.storage import Folder
from judgetrace.study.kinds import KINDS

VOLATILE = frozenset({"at", "seconds", "engine_seconds", "versions", "config", "cost"})
"""What a manifest says of a call and not of what was made."""


@dataclass(frozen=True)
class Output:
    """Fingerprints of what a stage has made. The same identity with other content: it grew."""

    identity: str
    content: str

    def to_json(self) -> dict[str, str]:
        """Return it for study.json."""
        return asdict(self)


def identify_output(kind: str, name: str, folder: Folder) -> Output:
    """Identify what a complete stage left in its folder, which is called `name` in the study.

    Another folder holds another output: it may be sampled anew with the same config.
    """
    if kind == "prepare":
        manifests = read_manifests(folder)
        identity, content = identify_corpus(manifests[0]), _hash([manifest["shards"] for manifest in manifests])
    elif KINDS[kind].product is not None:
        identity = _hash(folder.read_json("contract.json"))
        content = _hash(_list_sizes(folder / str(KINDS[kind].product)))
    elif kind == "refine":
        # Who rates with the guideline need not rate again where it came out the same by other rules.
        identity = hash_text(folder.read_bytes("guideline.md").decode())
        content = _hash_manifest(folder, kind)
    elif kind == "agreement":
        identity = content = hashlib.blake2b(folder.read_bytes("agreement.parquet"), digest_size=12).hexdigest()
    elif KINDS[kind].in_place:
        identity = content = ""
    else:
        identity = content = _hash_manifest(folder, kind)
    return Output(hash_text(f"{name} {identity}"), hash_text(f"{identity} {content}"))


def _hash_manifest(folder: Folder, kind: str) -> str:
    manifest = folder.read_json(KINDS[kind].done)
    return _hash({key: value for key, value in manifest.items() if key not in VOLATILE})


def _list_sizes(folder: Folder) -> list[tuple[str, int]]:
    found: Mapping[str, Mapping[str, Any]] = folder.filesystem.find(folder.path(), detail=True)
    sizes = ((name.rpartition("/")[2], int(file["size"])) for name, file in found.items())
    return sorted((name, size) for name, size in sizes if name.startswith("shard-"))


def _hash(value: Any) -> str:
    return hash_text(json.dumps(value, sort_keys=True))
