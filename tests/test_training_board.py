"""What training shows on a terminal."""

from __future__ import annotations

from judgetrace.training.board import Board, describe_row, describe_validation

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
