"""The report's section of the refined guideline, made of what refine_guideline really writes."""

from pathlib import Path

import pytest

from judgetrace.config import UserError
from judgetrace.refining.guideline_file import diff_guidelines
from judgetrace.refining.held_items import HeldItems, ItemRule
from judgetrace.refining.losses import LOSSES
from judgetrace.refining.outcome import Outcome, describe_outcome, tabulate_candidates
from judgetrace.reporting.blocks import Diff, Notes, Prose, Section, Table
from judgetrace.reporting.guideline_section import MAX_LINES, Refinement, make_guideline, read_difference
from judgetrace.reporting.run_reading import read_refinement
from judgetrace.storage import Folder, encode_parquet
from tests.report_runs import write_refinement
from tests.test_refining_contest import make_held
from tests.test_refining_outcome import LOST, ORIGINAL, WON, make_outcome, make_unraced


def show(outcome: Outcome) -> Section:
    difference = diff_guidelines(ORIGINAL.text, outcome.winner.file)
    found = Refinement(describe_outcome(outcome), tabulate_candidates(outcome).to_pylist(), difference)
    return make_guideline(found)


def read_rows(section: Section, caption: str) -> list[list[str]]:
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption.startswith(caption))
    return [[" ".join(filter(None, [cell.text, cell.detail])) for cell in cells] for cells in table.cells()]


def list_verdicts(section: Section) -> list[str]:
    (notes,) = (block for block in section.blocks if isinstance(block, Notes))
    return list(notes.sentences)


def test_a_refined_guideline_is_shown_with_its_verdict_and_the_agreement_it_brings() -> None:
    section = show(WON)
    verdicts = list_verdicts(section)
    rows = {(row[0], row[1]): row[2:] for row in read_rows(section, "Agreement")}

    assert verdicts[0].startswith("The refined guideline is returned: on 200 items in 200 groups")
    assert verdicts[1].startswith("The race took 1 of ")
    assert "costs more than 0.01 of score is 5% at most" in verdicts[1]
    assert verdicts[2] == "Few items."
    # By hand: rater a is 2, 1 and 1 levels off before, and right after.
    items, before, after, change = rows["a with the target label", "MSE"]
    assert (items, after) == ("60", "0.000 0.00 to 0.00")
    assert before.startswith("2.000 ")
    assert change.startswith("\u22122.000 ")
    assert rows["a, b with each other", "ICC(3,1)"][2].startswith("1.000")
    assert rows["a, b with each other", "alpha (ordinal)"][2].startswith("1.000")
    assert ("a, b with each other", "MSE") not in rows
    (diff,) = (block for block in section.blocks if isinstance(block, Diff))
    assert diff.caption == "Original and refined guideline; lines added: 1, removed: 1"


def test_it_says_beside_its_name_what_became_of_each_candidate() -> None:
    ends = {row[0].split(" ")[0]: row[1] for row in read_rows(show(WON), "Candidates")}

    assert ends["rubric-0"] == "returned"
    assert ends["both-0"] == "out at look 1, behind rubric-0"
    assert ends["rubric-1"] == "not raced: tags: found [] (0 tags)"
    assert ends["original"] == ""


def test_it_says_beside_what_became_of_a_candidate_what_it_lost() -> None:
    section = show(LOST)
    ends = {row[0].split(" ")[0]: row[1] for row in read_rows(section, "Candidates")}
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption == "Candidates")

    assert ends["rubric-0"] == "returned 1 of 7 drafts lost; traces that gave no critique: 3 of 4 of level 2"
    assert ends["both-0"] == "out at look 1, behind rubric-0"
    assert not {"drafts", "lost drafts", "critique counts"} & set(table.columns)


def test_what_was_lost_is_read_from_a_run_and_a_run_that_did_not_count_it_is_read_too(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    write_refinement(run, LOST, ORIGINAL.text, str(LOST.winner.file))
    found = read_rows(make_guideline(read_refinement(str(tmp_path))), "Candidates")
    older = run.read_table("candidates.parquet").drop_columns(LOSSES.names)
    run.write_atomic("candidates.parquet", encode_parquet(older))
    facts = {key: value for key, value in describe_outcome(LOST).items() if key != "why_not_measured"}
    run.write_json("refinement.json", facts)
    before = read_rows(make_guideline(read_refinement(str(tmp_path))), "Candidates")

    assert [row[1] for row in found][1].startswith("returned 1 of 7 drafts lost")
    assert [row[1] for row in before][1] == "returned"
    assert [row[2:] for row in before] == [row[2:] for row in found]


def test_agreement_that_was_not_measured_is_said_with_its_reason() -> None:
    items = HeldItems(ItemRule("", 0, test=None), make_held(400, 200).rows)

    assert list_verdicts(show(make_unraced(items)))[1].startswith(
        "Agreement was not measured: no candidate was left to compare the original with"
    )


def test_an_interval_stands_beside_its_figure_and_not_in_columns_of_its_own() -> None:
    section = show(WON)
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption == "Candidates")
    rows = {row[0].split(" ")[0]: row for row in read_rows(section, "Candidates")}
    place = list(table.columns).index("minus original")

    assert not {"low", "high", "behind", "text"} & set(table.columns)
    assert " to +" in rows["rubric-0"][place]
    assert rows["original"][place] == ""


def test_a_challenger_that_was_not_confirmed_is_named_as_such() -> None:
    section = show(make_outcome({"original": 0.3, "rubric-0": 0.9}, {"original": 0.5, "rubric-0": 0.5}))
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption.startswith("Agreement"))

    assert "is not shown to beat the original" in list_verdicts(section)[0]
    assert "rubric-0, which was not shown to be better: the original is returned" in table.note
    assert [b.text for b in section.blocks if isinstance(b, Prose)] == [
        "Nothing changed: the original guideline is returned."
    ]


def test_where_nothing_was_raced_the_page_says_so_and_claims_no_comparison() -> None:
    section = show(make_outcome({"original": 0.3}))
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption.startswith("Agreement"))

    assert list_verdicts(section)[0] == (
        "The original guideline is returned. There was no race: no candidate besides the original is sound."
    )
    assert "after" not in table.columns
    assert not any("enough certainty" in b.text for b in section.blocks if isinstance(b, Prose))


def test_lines_that_changed_are_marked_whatever_they_begin_with() -> None:
    difference = diff_guidelines("one\n-- two\n@@ x @@", "one\n++ three\n@@ x @@")

    assert [(line.mark, line.text) for line in read_difference(difference)] == [
        ("@", ""),
        (" ", "one"),
        ("-", "-- two"),
        ("+", "++ three"),
        (" ", "@@ x @@"),
    ]
    assert list(read_difference("")) == []


def test_a_difference_that_is_too_long_for_the_page_says_what_is_left_out_and_where_it_is() -> None:
    difference = diff_guidelines("", "".join(f"line {n}\n" for n in range(MAX_LINES + 5)))
    section = make_guideline(Refinement(describe_outcome(WON), [], difference))
    (diff,) = (block for block in section.blocks if isinstance(block, Diff))
    left_out = len(list(read_difference(difference))) - MAX_LINES

    assert len(diff.lines) == MAX_LINES
    assert left_out >= 5
    assert section.blocks[-1] == Prose(
        f"{left_out} more lines are left out here; all are in guideline.diff of the refinement.", quiet=True
    )


def test_a_refinement_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected: a complete run of refine_guideline"):
        read_refinement(str(tmp_path))
