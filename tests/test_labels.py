import math
import random
import statistics
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest

from judgetrace.labels import LEFT_OUT, UNITS, TargetConfig, aggregate_labels, check_rule
from judgetrace.scale import ScaleConfig
from judgetrace.schema import ANNOTATIONS

FIVE = ScaleConfig(values=("1", "2", "3", "4", "5"))
RULES = ("median", "majority", "rounded_mean", "single", "per_annotator")


def make_annotations(labels: dict[str, str], dimension: str = "") -> pa.Table:
    """Make annotations of items from words of labels: "1 2 2"; annotators are a, b, c, ..."""
    rows = [
        (item, dimension, annotator, label)
        for item, written in labels.items()
        for annotator, label in zip("abcdefghij", written.split(), strict=False)
    ]
    return pa.Table.from_pylist([dict(zip(ANNOTATIONS.names, row, strict=True)) for row in rows], schema=ANNOTATIONS)


def decide(labels: str, **target: Any) -> tuple[list[str] | None, str | None]:
    """Aggregate one item; returns accepted labels and the reason of a drop."""
    units, dropped = aggregate_labels(make_annotations({"i": labels}), TargetConfig(**target), FIVE)
    accepted = units["accepted_labels"].to_pylist()
    return (accepted[0] if accepted else None), (dropped["reason"].to_pylist() or [None])[0]


def test_the_median_of_an_odd_count_is_the_middle_label() -> None:
    assert decide("1 3 2") == (["2"], None)
    assert decide("4") == (["4"], None)


@pytest.mark.parametrize(("half_point", "accepted"), [("floor", ["2"]), ("ceil", ["3"]), ("either", ["2", "3"])])
def test_the_median_of_an_even_count_goes_by_the_half_point_rule(half_point: str, accepted: list[str]) -> None:
    assert decide("2 3", half_point=half_point) == (accepted, None)
    assert decide("2 2", half_point=half_point) == (["2"], None)


def test_an_item_is_dropped_only_where_its_sample_sd_is_above_the_limit() -> None:
    # 1, 2, 3: squared deviations 1 + 0 + 1 over n - 1 = 2 give an SD of exactly 1.
    assert decide("1 2 3") == (["2"], None)
    # 1, 3: 1 + 1 over 1 gives the square root of 2.
    assert decide("1 3") == (None, "sd_above_limit")
    assert decide("1 3", max_sd=None) == (["2"], None)
    assert decide("1 5", max_sd=2.9) == (["3"], None)


def test_the_sd_of_one_label_is_null_and_passes() -> None:
    units, _ = aggregate_labels(make_annotations({"i": "5"}), TargetConfig(max_sd=0.0), FIVE)

    assert units["label_sd"].to_pylist() == [None]


def test_median_and_sd_agree_with_the_statistics_module_on_random_items() -> None:
    random.seed(1)
    words = {f"item {n:03d}": " ".join(random.choices("12345", k=random.randint(1, 9))) for n in range(400)}
    units, dropped = aggregate_labels(make_annotations(words), TargetConfig(half_point="either"), FIVE)
    expected_units, expected_dropped = {}, {}
    for item, written in words.items():
        numbers = [int(label) for label in written.split()]
        sd = statistics.stdev(numbers) if len(numbers) > 1 else None
        if sd is not None and sd > 1.0:
            expected_dropped[item] = sd
        else:
            # The levels are 1, 2, ..., 5: both neighbours of a half point, else the median itself.
            median = statistics.median(numbers)
            expected_units[item] = (sorted({str(math.floor(median)), str(math.ceil(median))}), sd)

    assert units["item_id"].to_pylist() == list(expected_units)
    assert units["accepted_labels"].to_pylist() == [accepted for accepted, _ in expected_units.values()]
    assert units["label_sd"].to_pylist() == pytest.approx([sd for _, sd in expected_units.values()])
    assert dropped["item_id"].to_pylist() == list(expected_dropped)
    assert dropped["label_sd"].to_pylist() == pytest.approx(list(expected_dropped.values()))


def test_the_majority_is_the_most_frequent_label() -> None:
    assert decide("5 1 1", rule="majority") == (["1"], None)


@pytest.mark.parametrize(
    ("tie", "expected"),
    [
        ("drop", (None, "tied")),
        ("floor", (["1"], None)),
        ("ceil", (["5"], None)),
        ("either", (["1", "4", "5"], None)),
    ],
)
def test_a_tie_goes_by_its_rule(tie: str, expected: object) -> None:
    assert decide("5 4 1 5 1 4 2", rule="majority", tie=tie) == expected


def test_the_rounded_mean_snaps_to_the_nearest_level() -> None:
    assert decide("1 1 5", rule="rounded_mean") == (["2"], None)  # 7 / 3
    assert decide("1 2", rule="rounded_mean", half_point="either") == (["1", "2"], None)


def test_single_keeps_lone_labels_and_drops_items_with_several() -> None:
    assert decide("3", rule="single") == (["3"], None)
    assert decide("3 3", rule="single") == (None, "several_annotators")


def test_per_annotator_makes_a_unit_of_each_label_that_knows_the_others() -> None:
    units, dropped = aggregate_labels(make_annotations({"i": "1 5"}), TargetConfig(rule="per_annotator"), FIVE)

    assert units.select(["target_source", "target_label", "annotator_labels"]).to_pylist() == [
        {"target_source": "a", "target_label": "1", "annotator_labels": ["1", "5"]},
        {"target_source": "b", "target_label": "5", "annotator_labels": ["1", "5"]},
    ]
    assert len(dropped) == 0


def test_dimensions_are_aggregated_apart_and_on_their_own_scales() -> None:
    scales = ScaleConfig(
        values=("1", "2", "3"),
        dimensions={"kind": {"values": ["cat", "dog"], "type": "nominal"}},  # type: ignore[dict-item]
    )
    both = pa.concat_tables([make_annotations({"i": "dog dog cat"}, "kind"), make_annotations({"i": "3 3 1"}, "size")])

    units, _ = aggregate_labels(both, TargetConfig(rule="majority"), scales)

    assert units["target_label"].to_pylist() == ["dog", "3"]
    assert units["label_sd"].to_pylist() == [None, pytest.approx(statistics.stdev([3, 3, 1]))]


@pytest.mark.parametrize("rule", RULES)
def test_no_annotations_give_no_units_with_all_columns(rule: str) -> None:
    units, dropped = aggregate_labels(ANNOTATIONS.empty_table(), TargetConfig(rule=rule), FIVE)  # type: ignore[arg-type]

    assert (units, dropped) == (UNITS.empty_table(), LEFT_OUT.empty_table())


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_annotations_is_free_and_the_input_stays_as_it_is(rule: str) -> None:
    annotations = make_annotations({"x": "1 2 2", "y": "5 1", "z": "3", "w": "4 4 5 5"})
    rows = annotations.to_pylist()
    random.seed(2)
    shuffled = pa.Table.from_pylist(random.sample(rows, len(rows)), schema=ANNOTATIONS)
    target = TargetConfig(rule=rule)  # type: ignore[arg-type]

    assert aggregate_labels(shuffled, target, FIVE) == aggregate_labels(annotations, target, FIVE)
    assert annotations.to_pylist() == rows


@pytest.mark.parametrize("rule", RULES)
def test_any_split_of_items_over_batches_gives_the_same_units(rule: str) -> None:
    words = {"x": "1 2 2", "y": "5 1", "z": "3", "w": "4 4 5 5"}
    target = TargetConfig(rule=rule)  # type: ignore[arg-type]
    whole = aggregate_labels(make_annotations(words), target, FIVE)
    parts = [aggregate_labels(make_annotations({item: labels}), target, FIVE) for item, labels in sorted(words.items())]

    for number in (0, 1):
        assert pa.concat_tables([part[number] for part in parts]).to_pylist() == whole[number].to_pylist()


def test_every_item_ends_as_a_unit_or_as_a_dropped_row() -> None:
    words = {f"i{n}": labels for n, labels in enumerate(["1 5", "1 1", "2", "1 2 4 5", "3 3 3"])}
    for rule in RULES[:4]:
        found: dict[str, int] = defaultdict(int)
        for table in aggregate_labels(make_annotations(words), TargetConfig(rule=rule), FIVE):  # type: ignore[arg-type]
            for item in table["item_id"].to_pylist():
                found[item] += 1
        assert found == dict.fromkeys(words, 1)


def test_a_rule_that_needs_an_order_is_refused_for_a_nominal_scale() -> None:
    nominal = ScaleConfig(values=("a", "b"), type="nominal")

    for refused in (
        TargetConfig(rule="median"),
        TargetConfig(rule="rounded_mean"),
        TargetConfig(rule="majority", tie="floor"),
    ):
        with pytest.raises(ValueError, match="nominal"):
            check_rule(refused, nominal)
    for allowed in (TargetConfig(rule="majority", tie="either"), TargetConfig(rule="single")):
        check_rule(allowed, nominal)
    check_rule(TargetConfig(rule="median"), FIVE)
