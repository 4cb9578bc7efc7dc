import numpy as np
import pyarrow as pa

from judgetrace.agreement.name_hash import hash_strings

NAMES = ["", "a", "b", "abcdefgh", "abcdefghi", "abcdefgh\0", "é", "item 1", "item 2", "x" * 100]


def test_hashes_depend_on_the_string_alone() -> None:
    one = hash_strings(pa.array(NAMES))
    others = hash_strings(pa.array(["zzz", *NAMES[::-1], "y" * 50]).slice(1, len(NAMES)))

    assert one.tolist() == others.tolist()[::-1]
    assert len(set(one.tolist())) == len(NAMES)
    assert [hash_strings(pa.array([name]))[0] for name in NAMES] == one.tolist()
    assert len(hash_strings(pa.array([], pa.string()))) == 0


def test_hashes_stay_as_they_are_between_releases() -> None:
    # Intervals depend on them: what was reproducible must stay so.
    assert hash_strings(pa.array(["item 1"])).tolist() == [8283187890996316762]


def test_hashes_of_similar_names_spread_evenly() -> None:
    hashes = hash_strings(pa.array([f"item-{n:07d}" for n in range(100_000)]))

    assert len(np.unique(hashes)) == 100_000
    counts = np.bincount((hashes % np.uint64(64)).astype(int), minlength=64)
    assert counts.min() > 1300
    assert counts.max() < 1850
