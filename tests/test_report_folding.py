"""What is long is folded, and what is left out of the page is said."""

from judgetrace.reporting.blocks import Folded, Prose, Table
from judgetrace.reporting.folding import fold_rows, group
from judgetrace.reporting.training_section import MAX_LINES, MAX_POINTS, TrainingRun, make_training, thin_points


def make_table(count: int) -> Table:
    return Table("t", ["n"], [[f"{n}"] for n in range(count)], note="a note")


def test_rows_beyond_those_shown_are_folded_and_those_beyond_the_most_are_counted() -> None:
    shown, folded, said = fold_rows(make_table(10), "all.parquet", shown=3, most=8)

    assert isinstance(shown, Table)
    assert isinstance(folded, Folded)
    assert (shown.rows, shown.note) == ([["0"], ["1"], ["2"]], "a note")
    assert folded.title == "5 more rows"
    assert folded.blocks == [Table("t", ["n"], [[f"{n}"] for n in range(3, 8)])]
    assert said == Prose("2 more rows are left out here; all are in all.parquet.", quiet=True)


def test_a_short_table_stays_as_it_is() -> None:
    assert fold_rows(make_table(3), "all.parquet", shown=3, most=8) == [make_table(3)]


def test_groups_hold_everything_in_order() -> None:
    assert group("abcde", 2) == ["ab", "cd", "e"]
    assert group("", 2) == []


def test_curves_of_more_runs_than_one_plot_takes_are_folded_and_not_left_out() -> None:
    metrics = [{"step": step, "loss": 1.0, "seconds": 1.0, "validation": None} for step in range(3)]
    section = make_training([TrainingRun(f"run{n}", metrics) for n in range(MAX_LINES + 1)])
    folded = [block for block in section.blocks if isinstance(block, Folded)]

    assert [block.title for block in folded] == [f"Curves of run{MAX_LINES}"]
    (figures,) = folded[0].blocks
    assert list(figures.figures[0].data.columns) == ["step", f"run{MAX_LINES}"]


def test_long_runs_of_unequal_lengths_are_thinned_to_the_same_steps() -> None:
    lengths = (12_000, 9_999, 7_001, 500, 3)
    runs = thin_points([[(step, 1.0) for step in range(1, length + 1)] for length in lengths])

    assert [points[-1][0] for points in runs] == list(lengths)
    # Every run's own last step beside those that all share.
    assert len({step for points in runs for step, _ in points}) <= MAX_POINTS + len(lengths)
    assert len(runs[0]) >= MAX_POINTS
    shared = [{step for step, _ in points[:-1]} for points in runs]
    assert all(own <= shared[0] for own in shared)


def test_short_runs_keep_all_their_steps() -> None:
    points = [(step, 1.0) for step in range(MAX_POINTS)]
    assert thin_points([points, points[:7], []]) == [points, points[:7], []]
