"""Split a corpus into train, validation and test so that no group lies in two of them.

A group's split is a hash of the seed and the group alone: it does not depend on the order of rows, on shards or on
what is appended later. Shares are therefore met in expectation, not exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

SPLITS = ("train", "validation", "test")


class SplitConfig(BaseModel):
    """The expected share of groups in each split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: float = Field(default=0.8, ge=0, le=1, description="Expected share of groups for training.")
    validation: float = Field(default=0.1, ge=0, le=1, description="Expected share of groups for validation.")
    test: float = Field(default=0.1, ge=0, le=1, description="Expected share of groups for testing.")
    seed: int = Field(default=0, description="Another seed makes another split.")

    @model_validator(mode="after")
    def _check_sum(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self


def assign_split(group: str, config: SplitConfig) -> str:
    """Assign a group to a split."""
    digest = hashlib.blake2b(f"{config.seed}\x1f{group}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < config.train:
        return "train"
    if position < config.train + config.validation or config.test == 0:
        return "validation" if config.validation > 0 else "train"
    return "test"


def assign_splits(groups: pa.Array | pa.ChunkedArray, config: SplitConfig) -> pa.Array:
    """Assign a column of groups to splits; each distinct group is hashed once."""
    encoded = pa.chunked_array([groups] if isinstance(groups, pa.Array) else groups, pa.string()).combine_chunks()
    encoded = encoded.dictionary_encode()
    splits = pa.array([assign_split(group, config) for group in encoded.dictionary.to_pylist()], pa.string())
    return splits.take(encoded.indices)


def assign_buckets(keys: Iterable[str], num_buckets: int, salt: str = "bucket") -> list[int]:
    """Assign each key to a bucket, 0 <= bucket < num_buckets, the same in every process and release."""
    digests = (hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest() for key in keys)
    return [int.from_bytes(digest, "big") % num_buckets for digest in digests]
