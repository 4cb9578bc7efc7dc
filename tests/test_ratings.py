"""A rater's annotation of its draws."""

import pyarrow as pa
import pytest

from judgetrace.asking import AskedUnit
from judgetrace.engine import Prompt
from judgetrace.ratings import DecodingConfig, RatingDecider, combine_draws
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.scale import Scale, expect_rating
from judgetrace.schema import ITEMS, RATINGS
from tests.trace_tables import make_items

FIVE = Scale(values=(1, 2, 3, 4, 5))
KINDS = Scale(values=("cat", "dog", "cow"), type="nominal")
UNEVEN = Scale(values=(0, 1, 10), type="interval")


def rated(*ratings: str | None) -> list[Draw]:
    return [Draw(i, 0, "rated" if rating else "unparsed", rating) for i, rating in enumerate(ratings)]


def combine(draws, scale=FIVE, **decoding):
    found = combine_draws(draws, scale, DecodingConfig(**decoding))
    return found and (found.label, found.rating, found.spread)


def test_one_sample_is_its_own_label_without_spread():
    assert combine(rated("4")) == ("4", 4.0, None)
    assert combine(rated("dog"), KINDS) == ("dog", None, None)


def test_several_samples_are_their_mean_with_its_sample_sd():
    # 1, 2, 3, 4: mean 2.5, squares of deviations 5, over 3; a half point goes down.
    assert combine(rated("4", "1", None, "3", "2"), samples=5) == ("2", 2.5, pytest.approx((5 / 3) ** 0.5))
    assert combine(rated("10", "0"), UNEVEN, samples=2)[:2] == ("1", 5.0)


def test_the_majority_is_the_most_frequent_level_and_the_lowest_of_equals():
    assert combine(rated("5", "3", "5"), samples=3, combine="majority") == ("5", 5.0, pytest.approx(1 / 3))
    assert combine(rated("5", "3", "3", "5"), samples=4, combine="majority") == ("3", 3.0, 0.5)
    assert combine(rated("cow", "dog", "cow"), KINDS, samples=3, combine="majority")[0] == "cow"


def test_an_expected_rating_has_the_level_distributions_sd():
    probabilities = (0.0, 0.1, 0.1, 0.2, 0.0)
    draw = Draw(0, 0, "rated", "4", expected=expect_rating(probabilities, FIVE), level_probabilities=probabilities)
    # Made to sum to 1: .25, .25, .5 on 2, 3, 4: mean 3.25, variance .25 * 1.5625 + .25 * .0625 + .5 * .5625 = .6875.
    assert combine([draw], rating="expected") == ("3", pytest.approx(3.25), pytest.approx(0.6875**0.5))


def test_one_rating_left_of_several_samples_has_no_spread():
    # Its own distribution's SD would be another quantity than the samples' SD that stands in the other rows.
    probabilities = (0.0, 0.1, 0.1, 0.2, 0.0)
    scored = Draw(1, 0, "rated", "4", expected=3.25, level_probabilities=probabilities)
    lost = Draw(0, 0, "truncated")
    assert combine([lost, scored], rating="expected", samples=2) == ("3", 3.25, None)
    assert combine(rated(None, "4", None), samples=3) == ("4", 4.0, None)
    assert combine(rated(None, "5"), samples=2, combine="majority") == ("5", 5.0, None)
    assert combine(rated("dog", None), KINDS, samples=2, combine="majority") == ("dog", None, None)


def test_no_rating_at_all_is_none():
    assert combine(rated(None, None), samples=2) is None


UNIT = AskedUnit(("item", "", "aggregate"), ("4",), ("4", "5"), FIVE, Prompt(10))


def decide(draws, samples=1, unit=UNIT):
    decider = RatingDecider("rater", DecodingConfig(samples=samples))
    sampling = UnitSampling(decider.sampling, draws, forget_failed=False)
    row = decider.decide(unit, sampling)
    assert list(pa.Table.from_pylist([row], schema=RATINGS).to_pylist()[0]) == RATINGS.names
    return row


@pytest.mark.parametrize(
    ("draws", "samples", "outcome", "error", "label"),
    [
        (rated("4"), 1, "rated", None, "4"),
        (rated(None), 1, "unrated", "unparsed", None),
        (rated("4"), 2, "undecided", None, None),
        (rated("4", None), 2, "rated", None, "4"),
        ([*rated("4"), Draw(1, 0, "failed", error="away")], 2, "failed", "away", None),
    ],
)
def test_the_outcome_follows_from_the_draws(draws, samples, outcome, error, label):
    row = decide(draws, samples)
    assert (row["outcome"], row["error"], row["label"]) == (outcome, error, label)
    assert row["num_ratings"] == sum(draw.rating is not None for draw in draws)


def test_a_unit_that_cannot_be_asked_is_quarantined():
    refused = AskedUnit(UNIT.key, ("4",), ("4",), FIVE, Prompt(0), refused="too long")
    row = decide([], unit=refused)
    assert (row["outcome"], row["error"], row["label"]) == ("quarantined", "too long", None)


def select(items, before=None, splits=()):
    decider = RatingDecider("rater", DecodingConfig(), splits)
    return decider.select_units(items, ITEMS.empty_table() if before is None else before)


def test_only_the_dimensions_asked_for_are_rated():
    items = pa.concat_tables([make_items(2, dimension=name) for name in ("tone", "plot", "voice")])
    decider = RatingDecider("rater", DecodingConfig(), dimensions=("voice", "tone"))

    chosen = decider.select_units(items, ITEMS.empty_table())

    assert chosen["dimension"].to_pylist() == ["tone", "tone", "voice", "voice"]
    assert decider.select_units(ITEMS.empty_table(), ITEMS.empty_table()).schema == ITEMS


def per_annotator(num: int) -> pa.Table:
    """Two units an item, of the annotators a and b."""
    rows = [row | {"target_source": who} for row in make_items(num).to_pylist() for who in "ab"]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def test_an_item_is_rated_once_whatever_its_annotators():
    chosen = select(per_annotator(3))
    assert chosen["item_id"].to_pylist() == ["item-0000", "item-0001", "item-0002"]
    assert chosen["target_source"].to_pylist() == ["a", "a", "a"]
    assert chosen["target_label"].null_count == 3
    assert select(make_items(3))["target_label"].to_pylist() == ["1", "2", "3"]


def test_an_item_whose_units_lie_in_two_shards_is_rated_in_the_first():
    units = per_annotator(3)
    first, second = units.slice(0, 3), units.slice(3)
    assert select(first)["item_id"].to_pylist() == ["item-0000", "item-0001"]
    assert select(second, before=first)["item_id"].to_pylist() == ["item-0002"]


def test_only_the_splits_asked_for_are_rated():
    rows = [
        row | {"split": split} for row, split in zip(make_items(3).to_pylist(), ("train", "test", "test"), strict=True)
    ]
    items = pa.Table.from_pylist(rows, schema=ITEMS)
    assert select(items, splits=("test",))["item_id"].to_pylist() == ["item-0001", "item-0002"]
    assert select(ITEMS.empty_table(), splits=("test",)).schema.names == ITEMS.names
