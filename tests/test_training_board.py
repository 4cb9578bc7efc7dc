"""What training shows on a terminal."""

from __future__ import annotations

import pytest

from judgetrace.training.board import Board, describe_row, describe_validation, warn_of_cuts
from judgetrace.training.config import TrainRaterConfig

ROW = {"step": 10, "loss": 2.1987, "seconds": 4.0, "num_tokens": 1200, "validation": None}


def test_a_step_is_a_line_with_its_speed_and_the_time_left():
    assert describe_row(ROW, 40) == "step 10/40  loss 2.199  4.0 s  300 tokens/s  about 2 min left"


def test_a_validation_is_a_line_for_each_way_to_read_the_rating():
    metrics = {"sampled_tau": None, "sampled_coverage": 0.0, "expected_tau": 0.1714, "score": 0.1714}
    assert describe_validation(metrics) == (
        "\n  validation, sampled rating: tau undefined  coverage 0.000\n  validation, expected rating: tau 0.171"
    )
    assert describe_row(ROW | {"validation": metrics, "loss": None}, 40) == "step 10/40" + describe_validation(metrics)


def test_a_board_hands_every_row_over_once():
    board = Board()
    board.note(ROW)
    assert board.fetch() == [ROW]
    assert board.fetch() == []


def warn(metrics: dict[str, float | None], **sections: dict[str, object]) -> str | None:
    given = {"corpus": "c", "traces": ("t",), "run": "r", "model": {"path": "base"}}
    return warn_of_cuts(metrics, TrainRaterConfig.model_validate(given | sections))


MOST_CUT = {"sampled_coverage": 0.0, "expected_coverage": 0.25, "truncated": 0.75, "score": -1.0}


def test_cut_answers_that_leave_most_items_without_a_rating_are_warned_of_with_what_to_raise():
    told = warn(MOST_CUT)
    assert told is not None
    assert "25% of the validation items have a rating; 75% of the answers were cut" in told
    assert "validation.max_new_tokens = 512" in told
    assert "0% of the validation items" in str(warn(MOST_CUT, validation={"rating": "sampled"}))


@pytest.mark.parametrize(
    "metrics",
    [
        MOST_CUT | {"expected_coverage": 0.5},  # half is enough
        MOST_CUT | {"truncated": 0.0},  # what was written is no rating: more tokens change nothing
        {"sampled_tau": 0.5, "score": 0.5},  # of an earlier version
    ],
)
def test_other_validations_are_not_warned_of(metrics):
    assert warn(metrics) is None


def test_a_rater_that_does_not_think_has_no_thinking_to_be_cut():
    assert warn(MOST_CUT, data={"target": "label"}) is None
