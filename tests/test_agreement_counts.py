import numpy as np
import pytest

from judgetrace.agreement.counts import (
    MAX_CLUSTERS,
    Clusters,
    Counts,
    Features,
    add_counts,
    combine_codes,
    sum_features,
)
from judgetrace.agreement.in_memory import compare_ratings, count_ratings, measure_ratings
from judgetrace.scale import Scale
from tests.panels import KRIPPENDORFF_C, count_levels, draw_panel


def draw_counts(seed: int) -> Counts:
    random = np.random.default_rng(seed)
    table = random.integers(0, 4, (5, 6))
    rows, columns = np.nonzero(table)
    return Counts(rows.astype(np.uint64) * 3, columns.astype(np.int64) * 7, table[rows, columns])


def to_dict(counts: Counts) -> dict[tuple[int, int], int]:
    keys = zip(counts.clusters.tolist(), counts.cells.tolist(), strict=True)
    return dict(zip(keys, counts.amounts.tolist(), strict=True))


def test_counts_add_up_in_any_order_and_any_grouping() -> None:
    parts = [draw_counts(seed) for seed in range(4)]
    whole = to_dict(add_counts(parts))

    assert to_dict(add_counts(parts[::-1])) == whole
    assert to_dict(add_counts([add_counts(parts[:1]), add_counts(parts[1:])])) == whole
    assert whole == {key: sum(to_dict(part).get(key, 0) for part in parts) for part in parts for key in to_dict(part)}
    assert to_dict(add_counts([])) == {}


def test_clusters_are_folded_for_good_once_there_are_too_many_however_they_come() -> None:
    names = np.arange(3 * MAX_CLUSTERS // 2, dtype=np.uint64) * np.uint64(2**40 + 12345)
    whole = Clusters()
    whole.add(names)
    parts = Clusters()
    parts.add(names[:100])
    assert not parts.is_folded
    parts.add(names[100:])
    parts.add(names[:5])

    assert whole.is_folded
    assert parts.is_folded
    assert whole.names.tolist() == parts.names.tolist()
    # A part that was folded elsewhere folds the whole, though few clusters are left of it.
    few = Clusters()
    few.add(names[:3])
    few.add(np.array([17], dtype=np.uint16), is_folded=True)
    assert few.is_folded
    assert few.names.max() < MAX_CLUSTERS


def test_features_are_summed_over_groups_of_units() -> None:
    features = Features(np.array([0, 0, 1]), np.array([5, 9, 5]), np.array([2, 1, 4]))
    # Units 0, 1 and 3 look like row 0, unit 2 like row 1; unit 3 is in no group.
    groups, cells, amounts = sum_features(features, 2, np.array([0, 1, 1, -1]), np.array([0, 0, 1, 0]), 2)

    assert set(zip(groups.tolist(), cells.tolist(), amounts.tolist(), strict=True)) == {
        (0, 5, 2),
        (0, 9, 1),
        (1, 5, 6),
        (1, 9, 1),
    }


def test_codes_number_distinct_rows_even_where_they_do_not_fit_into_a_word() -> None:
    random = np.random.default_rng(0)
    columns = [random.integers(-2, 2**31, 300).repeat(2) for _ in range(5)]

    first, numbers = combine_codes(columns)

    assert len(first) == 300
    assert all((column[first][numbers] == column).all() for column in columns)


@pytest.mark.parametrize(("raters", "levels"), [(5, 5), (3, 2), (9, 6)])
@pytest.mark.parametrize("clusters", [1, 7])
def test_a_matrix_is_counted_as_its_units_one_by_one(raters: int, levels: int, clusters: int) -> None:
    ratings = draw_panel(1, raters, units=500, levels=levels)
    counts = count_levels(ratings, levels)

    found = count_ratings(ratings, levels, clusters)

    for cluster in range(clusters):
        own = counts[cluster::clusters]
        assert found.amounts[cluster].sum() == len(own)
        assert (found.amounts[cluster] @ found.patterns).tolist() == own.sum(axis=0).tolist()
    distinct = {tuple(row) for row in counts.tolist()}
    assert {tuple(row) for row in found.patterns.tolist()} == distinct
    by_pattern = dict(zip(map(tuple, found.patterns.tolist()), found.amounts.sum(axis=0).tolist(), strict=True))
    assert by_pattern == {row: counts.tolist().count(list(row)) for row in distinct}


def test_in_memory_figures_are_the_published_ones() -> None:
    found = measure_ratings(KRIPPENDORFF_C - 1, Scale(values=(1, 2, 3, 4, 5)), replicates=200)

    assert round(found["alpha_ordinal"].value, 3) == 0.815
    assert found["alpha_ordinal"].low < 0.815 < found["alpha_ordinal"].high
    pair = compare_ratings(KRIPPENDORFF_C[0], KRIPPENDORFF_C[1], Scale(values=(1, 2, 3, 4, 5)))
    # Observers A and B share nine units and differ in the sixth alone, by one.
    assert pair["exact_agreement"] == pytest.approx(8 / 9)
    assert pair["mse"] == pytest.approx(1 / 9)
