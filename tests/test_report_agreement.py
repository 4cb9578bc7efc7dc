"""The report's sections of agreement, made of what measure_agreement really writes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from judgetrace.config import UserError
from judgetrace.reporting.agreement_section import MAX_PAIRS, make_confusions, make_headline, where_of
from judgetrace.reporting.blocks import Block, Cell, Figures, Folded, Matrices, Notes, Prose, Section, Table
from judgetrace.reporting.config import ComparisonConfig, RenderReportConfig
from judgetrace.reporting.report import gather_report
from judgetrace.reporting.run_reading import read_agreement
from judgetrace.reporting.slices_section import PLOT_RATERS, make_slices
from judgetrace.storage import Folder
from tests.agreement_runs import draw_people, draw_rater, write_agreement, write_output, write_table

RATERS = ("untuned", "tuned", "untuned-refined", "tuned-refined", "shuffled")


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_agreement(tmp_path_factory.mktemp("agreement"), RATERS)


def compare(before: str, after: str, *, optional: bool = True) -> ComparisonConfig:
    return ComparisonConfig(before=before, after=after, optional=optional)


def read_changes(section: Section) -> Table:
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption.startswith("Before and after"))
    return table


def list_heads(table: Table) -> list[str]:
    return [row[0].text for row in table.rows if isinstance(row[0], Cell)]


def test_pairs_that_are_named_are_shown_wherever_they_stand_among_all_pairs(agreement: str) -> None:
    named = [compare("tuned", "tuned-refined"), compare("shuffled", "tuned")]
    table = read_changes(make_headline(read_agreement(agreement, named, frozenset())))

    assert list_heads(table) == ["tuned → tuned-refined", "shuffled → tuned"]
    assert "not shown" not in table.note


def test_an_optional_pair_is_left_out_where_nobody_measured_it_and_another_one_is_an_error(agreement: str) -> None:
    given = [compare("untuned", "tuned"), compare("large", "tuned")]
    assert read_agreement(agreement, given, frozenset()).pairs == [("untuned", "tuned", "")]
    with pytest.raises(UserError, match=r"the agreement has no raters \['large'\]"):
        read_agreement(agreement, [compare("large", "tuned", optional=False)], frozenset())


def test_pairs_beyond_those_shown_are_counted_where_none_is_named(agreement: str) -> None:
    table = read_changes(make_headline(read_agreement(agreement, [], frozenset())))

    assert len(list_heads(table)) == MAX_PAIRS
    assert "4 more pairs of raters are not shown" in table.note


def unfold(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Folded):
            yield from unfold(block.blocks)


def test_every_rater_is_in_the_tables_and_plots_of_slices_the_compared_ones_first(agreement: str) -> None:
    named = [compare("untuned", "tuned-refined"), compare("untuned", "untuned-refined")]
    section = make_slices(read_agreement(agreement, named, frozenset()))
    order = ["untuned", "tuned-refined", "untuned-refined", "tuned", "shuffled"]

    (table,) = (b for b in unfold(section.blocks) if isinstance(b, Table) and b.caption == "By target label")
    assert [row[1] for row in table.rows[: len(order) + 1]] == [*order, "each annotator"]
    first, rest = (b for b in unfold(section.blocks) if isinstance(b, Figures))
    assert first.figures[0].data.columns == ["label", *order[:PLOT_RATERS], "each annotator"]
    assert rest.figures[0].data.columns == ["label", *order[PLOT_RATERS:], "each annotator"]
    assert next(b.title for b in section.blocks if isinstance(b, Folded)) == "By target label: shuffled"


def test_the_headline_and_the_confusion_matrices_have_all_raters_in_one_order(agreement: str) -> None:
    found = read_agreement(agreement, [compare("shuffled", "tuned")], frozenset())
    order = ["shuffled", "tuned", "untuned", "untuned-refined", "tuned-refined"]
    blocks = make_headline(found).blocks

    (targets,) = (b for b in blocks if isinstance(b, Table) and b.caption.startswith("Raters and the target"))
    assert list_heads(targets) == [*order, "Human ceiling"]
    (figures,) = (b for b in blocks if isinstance(b, Figures))
    assert [row[0] for row in figures.figures[0].data.rows] == order
    (matrices,) = (b for b in make_confusions(found).blocks if isinstance(b, Matrices))
    assert [matrix.caption for matrix in matrices.matrices] == ["Each annotator", *order]


def test_what_the_input_lacked_is_said_beside_the_figures(agreement: str) -> None:
    missing = int((draw_rater(0, RATERS[0])["outcome"] == "unrated").sum())
    assert missing > 0
    texts = [
        text
        for block in unfold(make_headline(read_agreement(agreement, [], frozenset())).blocks)
        if isinstance(block, Notes)
        for text in block.sentences
    ]
    assert f"{RATERS[0]}: {missing} row(s) without a rating: unrated." in texts


def test_labels_of_one_person_an_item_have_no_ceiling_and_the_report_says_so_once(tmp_path: Path) -> None:
    found = read_agreement(write_agreement(tmp_path, RATERS[:2], people="a"), [], frozenset())
    made = list(unfold(make_headline(found).blocks))

    assert not any(isinstance(block, Figures) for block in made)
    assert not any(isinstance(block, Table) and block.caption.startswith("Beside") for block in made)
    assert [block.text for block in made if isinstance(block, Prose)] == [
        "No item that a rater rated has labels of two people: there is no human ceiling."
    ]


def test_no_agreement_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected: an output of measure_agreement"):
        read_agreement(str(tmp_path), [], frozenset())


def test_raters_with_each_other_are_shown_before_and_after_with_the_paired_change(tmp_path: Path) -> None:
    """The page had no figure of how far raters agree with each other."""
    panel = [{"before": name, "after": f"{name}-refined"} for name in RATERS[:2]]
    found = read_agreement(write_agreement(tmp_path, RATERS, panel=panel), [], frozenset())
    where = where_of(found, "")

    made = make_headline(found).blocks
    (table,) = (b for b in made if isinstance(b, Table) and b.caption == "Raters with each other")
    assert table.columns == ["figure", "units", "before", "after", "change"]
    assert [row[0] for row in table.rows] == ["ICC(3,1)", "\u03b1 (ordinal)"]
    assert table.note.startswith("Before: untuned, tuned. After: untuned-refined, tuned-refined. On the units that all")
    for cells, statistic in zip(table.cells(), ("icc_3_1", "alpha_ordinal"), strict=True):
        for cell, time in zip(cells[2:], ("before", "after", "change"), strict=True):
            (who,) = found.figures.list_who(where, f"raters_{time}")
            row = found.figures.find(where, who, statistic)
            shown = f"{row['value']:+.3f}" if time == "change" else f"{row['value']:.3f}"
            assert cell.text == shown.replace("-", "\u2212")
            assert " to " in cell.detail


def test_a_rater_of_one_dimension_is_in_no_table_plot_or_warning_of_another(tmp_path: Path) -> None:
    dimensions = ("plot", "tone")
    people = pd.concat([draw_people(n).assign(dimension=name) for n, name in enumerate(dimensions)])
    runs = [tmp_path / name for name in ("m", "n", "m-refined")]
    for run in runs:
        asked = dimensions[1:] if run.name == "m-refined" else dimensions
        rows = pd.concat([draw_rater(n, run.name).assign(dimension=name) for n, name in enumerate(asked)])
        write_table(run / "annotations/shard-00000.parquet", rows)
        contract = {"rater_id": run.name, "dimensions": list(asked) if len(asked) == 1 else None}
        Folder(str(run)).write_json("contract.json", contract)
    table = {"paths": [write_table(tmp_path / "people.parquet", people)], "kind": "human", "dimension": "dimension"}
    scale = {"values": [1, 2, 3, 4, 5]}
    config = {"tables": [table], "raters": [*map(str, runs)], "scale": scale, "intervals": {"replicates": 20}}
    found = read_agreement(write_output(tmp_path, config), [], frozenset())

    made = list(unfold([*make_headline(found).blocks, *make_slices(found).blocks]))
    tables = [block for block in made if isinstance(block, Table)]
    plots = [figure for block in made if isinstance(block, Figures) for figure in block.figures]
    # Heads of the rows of `plot`, whose first cell names their dimension; a plot's caption does.
    heads = [cells[1].text for table in tables for cells in table.cells() if cells[0].text == "plot"]
    assert heads
    assert not any("m-refined" in head for head in heads)
    assert all("m-refined" not in figure.alternative for figure in plots if figure.caption.startswith("plot"))
    sentences = [text for block in made if isinstance(block, Notes) for text in block.sentences]
    assert not any(text.startswith("plot: m-refined") for text in sentences)
    assert any(cells[1].text == "m-refined" for table in tables for cells in table.cells() if cells[0].text == "tone")


def test_what_a_study_must_say_first_stands_before_all_warnings(agreement: str) -> None:
    remark = "The test split has been rated by 2 refined guidelines."
    page = gather_report(RenderReportConfig(output="x", agreement=agreement, remarks=[remark]), now=0.0)

    assert page.sections[0].id == "agreement"
    notes = next(block for block in page.sections[0].blocks if isinstance(block, Notes))
    assert notes.sentences[0] == remark
