import json

import numpy as np
import pytest

from judgetrace.guideline import parse_guideline
from judgetrace.refining.agreement_change import CHANGES, Ratings, measure_change
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.confirm import ConfirmConfig, keep_original
from judgetrace.refining.contest import Contest, hold_contest
from judgetrace.refining.entries import list_entries
from judgetrace.refining.guideline_file import diff_guidelines
from judgetrace.refining.outcome import CANDIDATES, Outcome, Spent, describe_outcome, tabulate_candidates
from judgetrace.refining.racing import RaceConfig
from judgetrace.refining.report import write_report
from judgetrace.refining.trace_choice import TraceSupply
from judgetrace.reporting.blocks import Notes, Prose
from judgetrace.reporting.guideline_section import Refinement, make_guideline
from judgetrace.scale import Scale
from tests.test_refining_contest import Quality, make_held

ORIGINAL = parse_guideline("Rate 1, 2 or 3.\n")
ENTRIES = list_entries(
    [
        Candidate("original", "original", None, ORIGINAL.text),
        Candidate("rubric-0", "rubric", 0, "1 is poor, 2 is fair, 3 is good. ```code```"),
        Candidate("both-0", "both", 0, "1 is bad, 2 is so so, 3 is great."),
        Candidate("rubric-1", "rubric", 1, "", ("tags: found [] (0 tags)",)),
    ],
    ORIGINAL,
    "",
)
SCALE = Scale(values=("1", "2", "3"))
SUPPLY = TraceSupply(50, {"1": 70, "2": 4, "3": 50}, {"not_recovered": 3, "hinted_over_share": 1})


def make_outcome(qualities: dict[str, float], confirm: dict[str, float] | None = None) -> Outcome:
    items = make_held(400, 200)
    contest = hold_contest(
        list(qualities),
        items,
        Quality(qualities, confirm),
        race_config=RaceConfig(),
        confirm_config=ConfirmConfig(),
        seed=0,
    )
    targets = np.arange(60) % 3 + 1.0
    before = np.stack([np.roll(targets, 1), targets])
    after = np.stack([targets, targets]) if contest.challenger else None
    ratings = Ratings(["a", "b"], before, after, targets, [str(n) for n in range(60)])
    changes = measure_change(ratings, SCALE, replicates=200, seed=0, level=0.95)
    coverage = {"before": {"a": 1.0, "b": 0.5}, "after": {"a": 1.0, "b": 1.0}}
    spent = {"original": Spent(800, 9000, 80)}
    return Outcome(ENTRIES, contest, items, "confirm", changes, coverage, spent, ["Few items."], SUPPLY)


WON = make_outcome({"original": 0.3, "rubric-0": 0.9, "both-0": 0.2})


def test_every_candidate_has_one_row_with_what_became_of_it() -> None:
    table = tabulate_candidates(WON)
    rows = {row["name"]: row for row in table.to_pylist()}

    assert table.schema == CANDIDATES
    assert list(rows) == ["original", "rubric-0", "both-0", "rubric-1"]
    assert [row["is_winner"] for row in rows.values()] == [False, True, False, False]
    assert rows["rubric-0"]["minus_original"] == pytest.approx(0.6, abs=0.1)
    assert (rows["both-0"]["behind"], rows["both-0"]["why_out"]) == ("rubric-0", None)
    assert (rows["rubric-1"]["why_out"], rows["rubric-1"]["num_items"]) == ("tags: found [] (0 tags)", None)
    assert (rows["original"]["num_ratings"], rows["rubric-0"]["num_ratings"]) == (800, 0)


def test_the_description_is_json_with_verdict_and_interval() -> None:
    found = describe_outcome(WON)

    assert json.loads(json.dumps(found)) == found
    assert (found["winner"], found["is_replaced"], found["race"]["verdict"]) == ("rubric-0", True, "leads")
    assert found["confirmation"]["low"] > 0
    assert found["traces"]["left_out"] == {"not_recovered": 3, "hinted_over_share": 1}
    assert found["items"] == {"race": 400, "confirm": 200, "test": 0}
    assert found["race"]["scores"] < found["race"]["scores_without_racing"] == 1200


def test_the_report_of_a_replaced_guideline_shows_before_and_after() -> None:
    difference = diff_guidelines(ORIGINAL.text, WON.winner.file)
    report = write_report(WON, "style", difference)

    assert report.startswith("# Refined guideline of style\n\nThe refined guideline is returned: on 200 items in 200")
    assert "**Note.** Few items." in report
    assert '"Before" is the original, "after" is rubric-0, which is returned.' in report
    # Rater a is one level off in every item before, and right after.
    assert "| a | exact | 60 | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] | +1.000 [+1.000, +1.000] |" in report
    assert "| b | 50.0% | 100.0% |" in report
    assert "not raced: tags: found [] (0 tags)" in report
    assert "accepted traces of the train split, 50 of each level at most" in report
    assert "| 2 | 4 |" in report
    assert "| 3 | not_recovered | a second model could not tell the rating from it |" in report
    assert f"````diff\n{difference}````" in report


def test_a_challenger_that_is_not_confirmed_is_named_and_not_returned() -> None:
    outcome = make_outcome({"original": 0.3, "rubric-0": 0.9}, {"original": 0.5, "rubric-0": 0.5})
    report = write_report(outcome, "", "")

    assert outcome.winner.name == "original"
    assert '"After" is the best candidate, rubric-0, which was **not** shown to beat the original.' in report
    assert "Nothing: the original guideline is returned." in report


def test_without_a_race_the_report_says_why() -> None:
    contest = Contest("original", None, keep_original(), "no candidate besides the original is sound")
    outcome = Outcome(
        ENTRIES, contest, make_held(0, 0), None, CHANGES.empty_table(), {}, {}, [], TraceSupply(50, {}, {})
    )
    report = write_report(outcome, "", "")

    assert "There was no race: no candidate besides the original is sound." in report
    assert "Not measured: there are no items to measure it on." in report
    assert describe_outcome(outcome)["race"] is None
    assert tabulate_candidates(outcome).num_rows == 4


def test_the_page_shows_verdict_change_of_agreement_and_why_a_candidate_is_out() -> None:
    candidates = tabulate_candidates(WON).to_pylist()
    section = make_guideline(Refinement(ORIGINAL.text, WON.winner.file, candidates, describe_outcome(WON)))
    verdict, standings, changed, difference = section.blocks

    assert verdict == Notes("Verdict", [WON.contest.confirmation.describe(), "Few items."])
    assert standings.rows[1][0].detail == "rubric, is returned"
    assert [row[-1] for row in standings.rows] == ["", "", "clearly behind rubric-0", "tags: found [] (0 tags)"]
    assert changed.caption.endswith(", on the half of the validation split that confirms")
    exact = next(row for row in changed.rows if row[0].text == "a" and row[1] == "exact")
    # Rater a is one level off in every item before, and right after.
    assert [cell.text for cell in exact[2:5]] == ["0.000", "1.000", "1.000"]
    assert exact[4].detail == "1.000 to 1.000"
    assert "lines added" in difference.caption


def test_the_page_says_why_there_was_no_race_rather_than_that_no_candidate_was_better() -> None:
    contest = Contest("original", None, keep_original(), "no candidate besides the original is sound")
    outcome = Outcome(
        ENTRIES, contest, make_held(0, 0), None, CHANGES.empty_table(), {}, {}, [], TraceSupply(50, {}, {})
    )
    candidates = tabulate_candidates(outcome).to_pylist()
    section = make_guideline(Refinement(ORIGINAL.text, ORIGINAL.text, candidates, describe_outcome(outcome)))

    assert "no candidate besides the original is sound" in section.blocks[0].sentences
    assert section.blocks[-1] == Prose("The original guideline was kept.")
