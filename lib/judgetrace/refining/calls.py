"""A call of a generator, known by all that its answer depends on; what became of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

CALLS = pa.schema(
    [
        ("call_id", pa.string()),
        ("kind", pa.string()),  # critiques, instructions, rubric, merge
        (
            "outcome",
            pa.string(),
        ),  # answered, truncated, quarantined (can't be asked), failed (the next run tries again)
        ("text", pa.string()),  # the answer without thinking, begun as the call begins it; null where there is none
        ("thinking", pa.string()),  # null where there is none
        ("error", pa.string()),  # why it failed or can't be asked
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
    ]
)
"""One row a call; what RUN/calls holds. The last row of a call counts."""


@dataclass(frozen=True)
class Call:
    """One completion to ask for. `kind` says what for, and is no part of what it depends on."""

    kind: str
    messages: tuple[tuple[str, str], ...]
    """(role, content)."""
    seed: int
    max_tokens: int
    begun: str = ""
    """What the answer begins with."""
    stop: tuple[str, ...] = ()

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages as an engine takes them."""
        return [{"role": role, "content": content} for role, content in self.messages]

    def identify(self, contract: Mapping[str, Any]) -> str:
        """Fingerprint the call, asked under a contract: model and sampling."""
        asked = {name: value for name, value in asdict(self).items() if name != "kind"}
        text = json.dumps([dict(contract), asked], sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a call gave."""

    outcome: str
    text: str | None
    error: str | None = None


def derive_seed(*parts: str | int) -> int:
    """Derive the seed of a call, in [0, 2**63), from what it is for."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
