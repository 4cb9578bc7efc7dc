"""What is refused before training starts, and what the message says to do."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.training.inputs import check_survey
from judgetrace.training.reading import USABLE, ExampleSurvey


def make_survey(labels: list[tuple[str, str]], num: int, **reasons: int) -> ExampleSurvey:
    """`num` examples whose labels go round."""
    codes = np.arange(num) % max(1, len(labels))
    usable = pa.table([codes * 0, np.arange(num), codes * 0 + 50, codes], names=USABLE.names).cast(USABLE)
    empty: Counter[tuple[str, str]] = Counter()
    return ExampleSurvey(usable, labels, Counter(reasons), 50 * num, 10 * num, empty, empty, Counter())


def refuse(survey: ExampleSurvey, target: str = "traces", batch: int = 4) -> str:
    with pytest.raises(UserError) as caught:
        check_survey(survey, target, batch)
    return str(caught.value)


def test_enough_examples_of_two_levels_are_used() -> None:
    check_survey(make_survey([("", "1"), ("", "2")], 4), "traces", 4)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("overlong_prompt", "raise it, or shorten the guideline"),
        ("overlong", r"Raise data\.max_tokens"),
        ("no_guideline_section", "no section for these dimensions"),
        ("not_accepted", "look at the report of infer_traces for why"),
        ("first_draw_unrated", "look at the report of infer_traces for why"),
        ("no_partner", "infer more traces"),
    ],
)
def test_traces_that_all_teach_nothing_are_counted_by_reason_with_what_to_do(reason: str, advice: str) -> None:
    said = refuse(make_survey([], 0, **{reason: 1234}))

    assert f"1,234 {reason}" in said
    assert re.search(advice, said, re.IGNORECASE), said


def test_a_split_without_units_is_said_to_have_none() -> None:
    said = refuse(make_survey([], 0))

    assert "no units at all" in said
    assert "data.split" in said


def test_all_reasons_are_listed_most_common_first() -> None:
    said = refuse(make_survey([], 0, overlong=3, not_accepted=70))

    assert "70 not_accepted, 3 overlong" in said


def test_first_draws_without_text_are_refused_since_those_with_one_are_the_accepted_ones() -> None:
    survey = make_survey([("", "1"), ("", "2")], 60, text_not_kept=1400, first_draw_unrated=9)
    said = refuse(survey, "first_draw")

    assert "1,400 of 1,460 first draws have no text" in said
    assert "ledger.keep_rejected_text = true" in said
    check_survey(survey, "traces", 4)
    check_survey(make_survey([("", "1"), ("", "2")], 60, first_draw_unrated=9), "first_draw", 4)


def test_a_single_level_is_refused_by_dimension() -> None:
    said = refuse(make_survey([("tone", "4"), ("length", "2")], 8))

    assert "all 8 examples have the same rating" in said
    assert "'tone': '4'" in said
    assert "acceptance by label" in said


def test_a_dimension_with_one_level_beside_others_with_more_is_used() -> None:
    check_survey(make_survey([("tone", "4"), ("length", "2"), ("length", "3")], 9), "traces", 4)


def test_fewer_examples_than_a_batch_are_refused() -> None:
    said = refuse(make_survey([("", "1"), ("", "2")], 3, not_accepted=5), batch=4)

    assert "training.batch 4 is more than the 3 usable examples (left out: 5 not_accepted)" in said
    assert "Lower training.batch, or infer more traces." in said
