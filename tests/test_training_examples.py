from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from judgetrace.ledger import join_decisions
from judgetrace.schema import TRACES
from judgetrace.training.examples import EXAMPLES, AnswerText, make_examples, weigh_labels, write_answer
from tests.trace_tables import make_decision, make_draw, make_items, table_of


def make_traces(*outcomes: tuple[str, list[dict[str, Any]], dict[str, Any]], labels: str = "12345") -> pa.Table:
    """One unit for each (outcome, draws, more); labels go round."""
    items = make_items(len(outcomes), labels)
    decisions = [make_decision(items, n, outcome, draws, **more) for n, (outcome, draws, more) in enumerate(outcomes)]
    return join_decisions(items, table_of(*decisions), TRACES)


def accepted(
    rating: str, trace: str, index: int = 0, hinted: bool = False
) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    draws = [make_draw(n, "disagrees", "9", trace="a wrong turn") for n in range(index)]
    return "accepted", [*draws, make_draw(index, "accepted", rating, trace=trace)], {"trace": trace, "hinted": hinted}


def exhausted(*draws: dict[str, Any]) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    return "exhausted", list(draws), {}


def columns(examples: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(examples.column(name).to_pylist() for name in names), strict=True))


def make_crowd(num: int, labels: str = "12", **changed: list[Any]) -> pa.Table:
    """Accepted units, each with a trace of its own name; columns can be replaced."""
    traces = make_traces(*(accepted(labels[n % len(labels)], f"trace {n}") for n in range(num)), labels=labels)
    for name, values in changed.items():
        traces = traces.set_column(traces.schema.get_field_index(name), traces.schema.field(name), pa.array(values))
    return traces


def test_of_traces_the_accepted_trace_and_rating_are_learned_and_the_rest_has_a_reason() -> None:
    traces = make_traces(accepted("1", "so bad"), exhausted(make_draw(0, "disagrees", "5")), accepted("3", "fair", 2))

    examples = make_examples(traces, "traces", "train", 0)

    assert examples.schema == EXAMPLES
    assert columns(examples, "row", "thinking", "rating", "reason") == [
        (0, "so bad", "1", None),
        (1, None, None, "not_accepted"),
        (2, "fair", "3", None),
    ]


@pytest.mark.parametrize(("target", "thinking"), [("label", None), ("label_first", "so bad"), ("traces", "so bad")])
def test_controls_learn_from_the_same_units_as_traces(target: Any, thinking: str | None) -> None:
    traces = make_traces(accepted("1", "so bad"), exhausted(make_draw(0, "unparsed")))

    examples = make_examples(traces, target, "train", 0)

    assert columns(examples, "thinking", "rating", "reason") == [(thinking, "1", None), (None, None, "not_accepted")]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("label", [(None, "1"), (None, "2")]),
        ("label_first", [("nearly", "2"), ("half", "3")]),
        ("traces", [("nearly", "2"), ("half", "3")]),
    ],
)
def test_a_rating_beside_the_human_label_stays_with_its_trace_and_the_label_alone_is_the_humans(
    target: Any, expected: list[tuple[str | None, str]]
) -> None:
    # The labels are 1 and, of people at 2.5 who are met by 2 and by 3, 2.
    traces = make_traces(accepted("2", "nearly"), accepted("3", "half"), labels="12")
    named = {"accepted_by": pa.array(["tolerance", "half_point"]), "accepted_labels": pa.array([["1"], ["2", "3"]])}
    for name, values in named.items():
        traces = traces.set_column(traces.schema.get_field_index(name), traces.schema.field(name), values)

    assert columns(make_examples(traces, target, "train", 0), "thinking", "rating") == expected


def test_the_first_draw_counts_with_its_own_rating_whether_or_not_it_matches() -> None:
    traces = make_traces(
        accepted("1", "so bad"),
        accepted("2", "at last", 1),
        exhausted(make_draw(0, "disagrees", "5", trace=None)),
        exhausted(make_draw(0, "unparsed")),
        ("quarantined", [], {}),
        exhausted(make_draw(1, "disagrees", "5", trace="second"), make_draw(0, "disagrees", "4", trace="first")),
    )

    examples = make_examples(traces, "first_draw", "train", 0)

    assert columns(examples, "thinking", "rating", "reason") == [
        ("so bad", "1", None),
        ("a wrong turn", "9", None),
        (None, None, "text_not_kept"),
        (None, None, "first_draw_unrated"),
        (None, None, "first_draw_unrated"),
        ("first", "4", None),
    ]


def test_only_units_of_the_split_become_examples_and_keep_their_row_of_the_shard() -> None:
    traces = make_crowd(4, split=["test", "train", "validation", "train"])

    assert columns(make_examples(traces, "traces", "train", 0), "row", "item_id") == [
        (1, "item-0001"),
        (3, "item-0003"),
    ]
    assert make_examples(traces.slice(0, 1), "shuffled_traces", "train", 0).equals(EXAMPLES.empty_table())


def test_shuffled_traces_go_each_to_another_item_with_the_same_dimension_and_rating() -> None:
    dimensions = ["tone" if n < 20 else "length" for n in range(40)]
    traces = make_crowd(40, dimension=dimensions)
    own = columns(traces, "item_id", "dimension", "rating", "trace")

    examples = make_examples(traces, "shuffled_traces", "train", 3)

    given = columns(examples, "item_id", "dimension", "rating", "thinking")
    by_trace = {trace: (dimension, rating) for _, dimension, rating, trace in own}
    assert [row[:3] for row in given] == [row[:3] for row in own], "the units keep their ratings"
    assert all(new[3] != old[3] for new, old in zip(given, own, strict=True))
    assert all(by_trace[thinking] == (dimension, rating) for _, dimension, rating, thinking in given)
    assert Counter(row[3] for row in given) == Counter(row[3] for row in own)


def test_shuffling_is_a_function_of_the_seed() -> None:
    traces = make_crowd(30)

    def shuffle(seed: int) -> list[str]:
        thinking: list[str] = make_examples(traces, "shuffled_traces", "train", seed)["thinking"].to_pylist()
        return thinking

    assert shuffle(1) == shuffle(1)
    assert shuffle(1) != shuffle(2)


def test_a_unit_alone_with_its_rating_has_no_partner() -> None:
    traces = make_traces(accepted("1", "a"), accepted("2", "b"), accepted("1", "c"), labels="121")

    examples = make_examples(traces, "shuffled_traces", "train", 0)

    assert columns(examples, "thinking", "reason") == [("c", None), (None, "no_partner"), ("a", None)]


@pytest.mark.parametrize("seed", range(20))
def test_no_trace_goes_to_another_unit_of_its_own_item(seed: int) -> None:
    # Where targets are kept per annotator, an item has a unit for each of them.
    names = ["a", "a", "a", "b", "b", "c", "d"]
    traces = make_crowd(7, "1", item_id=names)

    examples = make_examples(traces, "shuffled_traces", "train", seed)

    writers = dict(zip(traces["trace"].to_pylist(), names, strict=True))
    assert examples["reason"].null_count == 7
    assert all(writers[trace] != item for item, trace in columns(examples, "item_id", "thinking"))
    assert len(set(examples["thinking"].to_pylist())) == 7


def test_units_of_an_item_that_outnumbers_the_others_are_left_without_partner() -> None:
    traces = make_crowd(4, "1", item_id=["a", "a", "a", "b"])

    examples = make_examples(traces, "shuffled_traces", "train", 0)

    found = columns(examples, "item_id", "thinking", "reason")
    assert sorted(item for item, _, reason in found if reason is None) == ["a", "b"]
    assert next(thinking for item, thinking, _ in found if item == "a" and thinking) == "trace 3"
    assert next(thinking for item, thinking, _ in found if item == "b") in {"trace 0", "trace 1", "trace 2"}


def test_the_traces_that_are_read_stay_as_they_were() -> None:
    traces = make_crowd(6)
    before = traces.to_pylist()

    make_examples(traces, "shuffled_traces", "train", 0)

    assert traces.to_pylist() == before


@pytest.mark.parametrize(
    ("form", "rating_first", "opens", "before", "after"),
    [
        ("plain", False, False, "Dull.\n<rating>", "2</rating>"),
        ("plain", False, True, "Dull.\n<rating>", "2</rating>"),
        ("tags", False, False, "<think>\nDull.\n</think>\n<rating>", "2</rating>"),
        ("tags", False, True, "Dull.\n</think>\n<rating>", "2</rating>"),
        ("none", False, False, "<rating>", "2</rating>"),
        ("plain", True, False, "<rating>", "2</rating>\nDull."),
        ("tags", True, False, "<rating>", "2</rating>\n<think>\nDull.\n</think>"),
        ("tags", True, True, "<rating>", "2</rating>\nDull.\n</think>"),
    ],
)
def test_an_answer_is_written_in_the_form_of_the_rater(
    form: str, rating_first: bool, opens: bool, before: str, after: str
) -> None:
    assert write_answer(" Dull.\n", "2", form, rating_first, opens) == AnswerText(before, after)


def test_thinking_stands_between_a_models_own_tags() -> None:
    found = write_answer("Dull.", "2", "tags", False, False, tags=("[THINK]", "[/THINK]"))
    assert found == AnswerText("[THINK]\nDull.\n[/THINK]\n<rating>", "2</rating>")


@pytest.mark.parametrize("form", ["plain", "tags", "none"])
def test_an_answer_without_thinking_is_the_rating_alone(form: str) -> None:
    assert write_answer(None, "2", form, False, False) == AnswerText("<rating>", "2</rating>")


def test_empty_thinking_in_plain_leaves_the_rating_alone_as_an_engine_asks_for_it() -> None:
    assert write_answer(" ", "2", "plain", False, False) == AnswerText("<rating>", "2</rating>")


def test_weights_are_the_inverse_of_the_share_accepted_with_mean_1_over_the_accepted() -> None:
    # Raw weights 10/8, 10/4 and 10/2; their mean over the accepted is (8*1.25 + 4*2.5 + 2*5) / 14 = 30/14.
    weights = weigh_labels({"1": 8, "2": 4, "3": 2}, {"1": 10, "2": 10, "3": 10}, cap=5.0)

    assert weights == pytest.approx({"1": 1.25 * 14 / 30, "2": 2.5 * 14 / 30, "3": 5 * 14 / 30})


def test_no_weight_is_more_than_the_cap_times_the_lowest() -> None:
    # Raw 1, 2 and 100 become 1, 2 and 3; the mean is (10 + 2*5 + 3*1) / 16 = 23/16.
    weights = weigh_labels({"1": 10, "2": 5, "3": 1}, {"1": 10, "2": 10, "3": 100}, cap=3.0)

    assert weights == pytest.approx({"1": 16 / 23, "2": 32 / 23, "3": 48 / 23})


def test_a_label_that_was_never_accepted_has_no_weight() -> None:
    assert weigh_labels({"1": 2, "2": 0}, {"1": 4, "2": 9}, 5.0) == {"1": 1.0}
    assert weigh_labels({}, {"1": 4}, 5.0) == {}


def test_what_may_not_teach_has_its_reason_and_other_traces_are_as_before() -> None:
    traces = make_traces(accepted("1", "so bad"), accepted("2", "told", hinted=True), ("over_quota", [], {}))

    examples = make_examples(traces, "traces", "train", 0, [None, "hinted_unverified", None])

    assert columns(examples, "thinking", "hinted", "reason") == [
        ("so bad", False, None),
        (None, True, "hinted_unverified"),
        (None, False, "over_quota"),
    ]


def test_a_hinted_draw_is_no_first_draw_of_a_rater_that_was_told_nothing() -> None:
    examples = make_examples(make_traces(accepted("1", "told", hinted=True)), "first_draw", "train", 0)

    assert columns(examples, "reason") == [("hinted",)]
