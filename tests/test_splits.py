from collections import Counter

import pyarrow as pa
import pytest
from pydantic import ValidationError

from judgetrace.splits import SplitConfig, assign_buckets, assign_split, assign_splits

GROUPS = [f"document {n}" for n in range(10_000)]


def test_shares_are_met_within_what_chance_allows() -> None:
    counts = Counter(assign_split(group, SplitConfig(train=0.8, validation=0.1, test=0.1)) for group in GROUPS)

    # Five standard deviations of a binomial count of 10,000 at 0.1 are 150.
    assert abs(counts["test"] - 1000) < 150
    assert abs(counts["validation"] - 1000) < 150


def test_a_group_has_one_split_whatever_else_is_in_the_corpus() -> None:
    config = SplitConfig()
    alone = [assign_split(group, config) for group in GROUPS[:100]]

    assert assign_splits(pa.array(GROUPS[:100]), config).to_pylist() == alone
    assert assign_splits(pa.array(GROUPS[::-1]), config).to_pylist()[::-1][:100] == alone


def test_the_split_of_a_group_never_changes_between_releases() -> None:
    # blake2b("0\\x1fg0"), 8 bytes, over 2**64: .020, .971, .052, .163, .353, .508
    config = SplitConfig(train=0.3, validation=0.2, test=0.5)

    found = [assign_split(f"g{n}", config) for n in range(6)]
    assert found == ["train", "test", "train", "train", "validation", "test"]


def test_another_seed_gives_another_split() -> None:
    first, second = (assign_splits(pa.array(GROUPS), SplitConfig(seed=seed)).to_pylist() for seed in (0, 1))

    assert first != second


def test_a_share_of_zero_stays_empty() -> None:
    config = SplitConfig(train=1.0, validation=0.0, test=0.0)
    assert {assign_split(group, config) for group in GROUPS} == {"train"}
    config = SplitConfig(train=0.0, validation=0.0, test=1.0)
    assert {assign_split(group, config) for group in GROUPS} == {"test"}


def test_no_groups_give_no_splits() -> None:
    assert assign_splits(pa.array([], pa.string()), SplitConfig()) == pa.array([], pa.string())


def test_shares_that_do_not_add_to_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"must be 1, found 0\.8"):
        SplitConfig(train=0.6, validation=0.1, test=0.1)


def test_buckets_are_stable_and_even() -> None:
    counts = Counter(assign_buckets(GROUPS, 10))

    assert set(counts) == set(range(10))
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert assign_buckets(GROUPS[:5], 10) == assign_buckets(GROUPS, 10)[:5]
