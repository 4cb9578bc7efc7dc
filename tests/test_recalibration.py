"""The monotone map of a rater's ratings, and the rater that it makes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.isotonic import IsotonicRegression

from judgetrace.config import UserError
from judgetrace.recalibration import COUNTED, FitCounts, MonotoneMap, count_pairs, fit_map, fit_maps, recalibrate
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import RATER_ANNOTATIONS
from tests.trace_tables import make_draw

FIVE = ScaleConfig(values=(1, 2, 3, 4, 5))
TWO_DIMENSIONS = ScaleConfig(
    dimensions={"tone": Scale(values=("low", "mid", "high")), "length": Scale(values=(-4, 0, 4), type="interval")}
)


def annotate(rating: float | None, target: str | None, split: str = "validation", **more: Any) -> dict[str, Any]:
    """A row of a rater's annotations; without a rating it is unrated."""
    row: dict[str, Any] = {
        "item_id": f"item {rating} {target} {split}",
        "dimension": "",
        "target_source": "aggregate",
        "rater_id": "base",
        "label": None if rating is None else "3",
        "rating": rating,
        "spread": 0.25,
        "num_ratings": 0 if rating is None else 4,
        "outcome": "unrated" if rating is None else "rated",
        "error": "unparsed" if rating is None else None,
        "shortened": False,
        "draws": [make_draw(0, "unparsed" if rating is None else "rated")],
        "target_label": target,
        "group": "g",
        "split": split,
    }
    return row | more


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RATER_ANNOTATIONS)


def test_adjacent_violators_are_pooled_to_their_mean():
    # 3 > 2 and 4 > 3 are pooled; nothing else is out of order.
    pairs = {(1.0, 1.0): 1, (2.0, 3.0): 1, (3.0, 2.0): 1, (4.0, 4.0): 1, (5.0, 3.0): 1, (6.0, 5.0): 1}
    fitted = fit_map(pairs)
    assert fitted.apply(np.arange(1.0, 7.0)).tolist() == [1.0, 2.5, 2.5, 3.5, 3.5, 5.0]
    assert fitted.num_items == 6


def test_a_pool_that_falls_below_the_one_before_is_pooled_with_it():
    # 5, 3 -> 4, 4; then 1 -> (5 + 3 + 1) / 3 = 3; the leading 2 stays below.
    fitted = fit_map({(1.0, 2.0): 1, (2.0, 5.0): 1, (3.0, 3.0): 1, (4.0, 1.0): 1})
    assert fitted.apply(np.arange(1.0, 5.0)).tolist() == [2.0, 3.0, 3.0, 3.0]
    assert fitted.ratings == (1.0, 2.0, 4.0)  # inside a pool no knot is needed


def test_equal_ratings_are_pooled_first_as_in_the_growth_study_of_girls():
    # Pothoff & Roy (1964): size of the pituitary fissure by age, a standard example of isotonic regression. Means by
    # age are 22.5, 23.33, 20.83 and 24.25; the first three come to (67.5 + 70 + 62.5) / 9.
    sizes = {8.0: (21, 23.5, 23), 10.0: (24, 21, 25), 12.0: (21.5, 22, 19), 14.0: (23.5, 25)}
    fitted = fit_map(Counter((age, float(size)) for age, own in sizes.items() for size in own))
    assert fitted.apply(np.array([8.0, 10.0, 12.0, 14.0])) == pytest.approx([200 / 9, 200 / 9, 200 / 9, 24.25])
    assert fitted.num_items == 11


def test_a_pair_that_occurs_often_weighs_as_much():
    # Rating 1: mean 3 of one item; rating 2: mean 2 of three; pooled (3 + 3 * 2) / 4.
    assert fit_map({(1.0, 3.0): 1, (2.0, 2.0): 3}).apply(np.array([1.0, 2.0])).tolist() == [2.25, 2.25]


def test_between_knots_the_map_is_linear_and_outside_constant():
    fitted = MonotoneMap((1.0, 3.0), (2.0, 5.0), 2)
    assert fitted.apply(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 9.0])).tolist() == [2.0, 2.0, 2.75, 3.5, 5.0, 5.0]


def test_rounding_carries_no_rating_past_the_knot_above_it():
    # Plain interpolation gives 13.000000000000002 just below the knot of 13.
    fitted = MonotoneMap((1.07, 3.29), (11 / 3, 13.0), 2)
    below, at = fitted.apply(np.array([np.nextafter(3.29, 0), 3.29]))
    assert below <= at == 13.0


def test_a_rater_that_always_says_the_same_becomes_the_mean():
    assert fit_map({(4.0, 1.0): 1, (4.0, 2.0): 1}).apply(np.array([3.0, 4.0, 5.0])).tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize("seed", range(20))
def test_maps_agree_with_scikit_learn(seed):
    random = np.random.default_rng(seed)
    num = int(random.integers(1, 200))
    ratings = np.round(random.uniform(1, 5, num) * 4) / 4
    targets = np.clip(np.rint(ratings + random.normal(0, 1.5, num)), 1, 5)
    fitted = fit_map(Counter(zip(ratings.tolist(), targets.tolist(), strict=True)))
    points = np.linspace(0, 6, 121)
    reference = IsotonicRegression(out_of_bounds="clip").fit(ratings, targets).predict(points)
    assert fitted.apply(points) == pytest.approx(reference, abs=1e-9)


PAIRS = st.lists(st.tuples(st.floats(1, 5), st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0])), min_size=2, max_size=40)


@settings(deadline=None, max_examples=200)
@given(pairs=PAIRS, unseen=st.lists(st.floats(0, 6), max_size=20))
def test_no_two_ratings_are_ever_reversed_and_none_leaves_the_targets_range(pairs, unseen):
    fitted = fit_map(Counter(pairs))
    ratings = np.unique([rating for rating, _ in pairs] + unseen)
    # The next number above and below each knot is where rounding could do it.
    knots = np.array(fitted.ratings)
    ratings = np.unique(np.concatenate([ratings, knots, np.nextafter(knots, -9), np.nextafter(knots, 9)]))
    mapped = fitted.apply(ratings)
    assert (np.diff(mapped) >= 0).all()
    targets = [target for _, target in pairs]
    assert min(targets) <= mapped.min()
    assert mapped.max() <= max(targets)


@settings(deadline=None, max_examples=100)
@given(pairs=PAIRS)
def test_the_order_of_pairs_that_are_not_tied_stays_and_the_error_never_grows_where_it_was_fitted(pairs):
    ratings, targets = np.array(pairs).T
    mapped = fit_map(Counter(pairs)).apply(ratings)
    # Least squares among all non-decreasing maps, the identity among them.
    assert ((mapped - targets) ** 2).sum() <= ((ratings - targets) ** 2).sum() + 1e-9
    before = after = 0
    for i, j in combinations(range(len(pairs)), 2):
        side = np.sign(targets[i] - targets[j])
        before += 0 if mapped[i] == mapped[j] else np.sign(ratings[i] - ratings[j]) * side
        after += np.sign(mapped[i] - mapped[j]) * side
    # Concordant minus discordant pairs: what differs from the ratings' own is what ties took.
    assert after == before
    if len(set(mapped)) > 1 and len(set(targets)) > 1:
        untied = [sum(a != b for a, b in combinations(values.tolist(), 2)) for values in (mapped, targets)]
        assert kendalltau(mapped, targets).statistic == pytest.approx(before / np.sqrt(untied[0] * untied[1]))


def test_only_rated_items_of_the_fit_split_with_a_target_are_fitted_on():
    table = table_of(
        annotate(2.5, "3"),
        annotate(2.5, "3"),
        annotate(2.5, None),
        annotate(None, "3"),
        annotate(4.0, "1", "test"),
        annotate(3.0, "2", outcome="failed"),
    )
    counts = count_pairs(table.select(COUNTED), "validation", FIVE)
    assert counts.pairs == {("", 2.5, 3.0): 2}
    assert counts.rated == {("", "validation"): 3, ("", "test"): 1}
    assert counts.rows == {"validation": 5, "test": 1}


def test_target_labels_count_by_their_numbers_on_the_scale_of_their_dimension():
    table = table_of(annotate(0.5, "high", dimension="tone"), annotate(-1.0, "-4", dimension="length"))
    assert count_pairs(table, "validation", TWO_DIMENSIONS).pairs == {("tone", 0.5, 2.0): 1, ("length", -1.0, -4.0): 1}


def make_mixed_table(num: int = 60) -> pa.Table:
    random = np.random.default_rng(7)
    rows = [
        annotate(
            None if random.random() < 0.2 else float(random.uniform(1, 5)),
            None if random.random() < 0.1 else str(random.integers(1, 6)),
            str(random.choice(["train", "validation", "test"])),
            dimension="",
        )
        for _ in range(num)
    ]
    return table_of(*rows)


def test_counts_add_in_any_order_and_by_any_split():
    table = make_mixed_table()
    whole = count_pairs(table, "validation", FIVE)
    for cuts in ([0, 60], [0, 7, 7, 31, 60], list(range(61))):
        parts = [count_pairs(table.slice(a, b - a), "validation", FIVE) for a, b in pairwise(cuts)]
        for order in (parts, parts[::-1]):
            total = FitCounts()
            for part in order:
                total.add(part)
            assert total == whole
            assert fit_maps(total, "validation", ["test"], 1) == fit_maps(whole, "validation", ["test"], 1)


def test_annotations_are_recalibrated_row_by_row_whatever_the_batch():
    table, maps = make_mixed_table(), {"": MonotoneMap((1.0, 5.0), (2.0, 4.0), 9)}
    before = table.to_pylist()
    whole = recalibrate(table, maps, FIVE, "new", ["test", "train"])
    parts = [recalibrate(table.slice(i, 7), maps, FIVE, "new", ["test", "train"]) for i in range(0, 60, 7)]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()
    assert table.to_pylist() == before
    empty = recalibrate(table.slice(0, 0), maps, FIVE, "new", ["test"])
    assert (empty.schema, empty.num_rows) == (RATER_ANNOTATIONS, 0)
    assert whole.schema == RATER_ANNOTATIONS
    assert count_pairs(table.slice(0, 0), "validation", FIVE) == FitCounts()


def test_a_rated_row_has_its_new_rating_the_nearest_label_no_spread_and_no_draws():
    # 2.5 -> 3.5, half-way between two levels: the lower one.
    (row,) = recalibrate(
        table_of(annotate(2.5, "3", "test")), {"": MonotoneMap((2.5,), (3.5,), 9)}, FIVE, "new", ["test"]
    ).to_pylist()
    kept = annotate(2.5, "3", "test")
    assert row == kept | {"rater_id": "new", "rating": 3.5, "label": "3", "spread": None, "draws": []}
    assert row["num_ratings"] == 4


def test_items_without_a_target_are_recalibrated_too():
    maps = {"": MonotoneMap((1.0, 5.0), (1.0, 2.0), 9)}
    (row,) = recalibrate(table_of(annotate(5.0, None, "test")), maps, FIVE, "new", ["test"]).to_pylist()
    assert (row["rating"], row["label"], row["target_label"]) == (2.0, "2", None)


def test_a_row_without_a_rating_keeps_all_but_the_raters_name():
    (row,) = recalibrate(table_of(annotate(None, "3", "test")), {}, FIVE, "new", ["test"]).to_pylist()
    assert row == annotate(None, "3", "test") | {"rater_id": "new"}


def test_each_dimension_has_its_own_map_and_scale():
    maps = {"tone": MonotoneMap((1.0,), (1.6,), 9), "length": MonotoneMap((1.0,), (-3.0,), 9)}
    rows = [annotate(1.0, "mid", "test", dimension="tone"), annotate(1.0, "4", "test", dimension="length")]
    found = recalibrate(table_of(*rows), maps, TWO_DIMENSIONS, "new", ["test"]).to_pylist()
    assert [(row["rating"], row["label"]) for row in found] == [(1.6, "high"), (-3.0, "-4")]


def test_a_dimension_with_too_few_items_is_named():
    table = table_of(
        *(annotate(0.5 * i, "mid", dimension="tone") for i in range(4)),
        annotate(2.0, "mid", "test", dimension="tone"),
        annotate(2.0, "0", "test", dimension="length"),
    )
    counts = count_pairs(table, "validation", TWO_DIMENSIONS)
    with pytest.raises(UserError, match=r"2 dimension\(s\) have too few items to fit on: 'length' 0, 'tone' 4"):
        fit_maps(counts, "validation", ["test"], 5)
    with pytest.raises(UserError, match=r"1 dimension\(s\) have too few items to fit on: 'length' 0"):
        fit_maps(counts, "validation", ["test"], 4)
    assert list(fit_maps(counts, "validation", ["validation"], 4)) == ["tone"]


def test_splits_without_a_row_are_refused():
    counts = count_pairs(table_of(annotate(1.0, "3")), "validation", FIVE)
    with pytest.raises(UserError, match=r"no annotations there; it has {'validation': 1}"):
        fit_maps(counts, "validation", ["test"], 1)
