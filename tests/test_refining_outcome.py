import json
from dataclasses import replace

import numpy as np
import pytest

from judgetrace.guideline import parse_guideline
from judgetrace.refining.agreement_change import CHANGES, Ratings, measure_change
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.confirm import ConfirmConfig, keep_original
from judgetrace.refining.contest import Contest, hold_contest
from judgetrace.refining.entries import list_entries
from judgetrace.refining.guideline_file import diff_guidelines
from judgetrace.refining.held_items import HeldItems, ItemRule
from judgetrace.refining.losses import CritiqueCount, Losses
from judgetrace.refining.outcome import (
    CANDIDATES,
    Outcome,
    Spent,
    describe_agreement,
    describe_outcome,
    tabulate_candidates,
)
from judgetrace.refining.racing import RaceConfig
from judgetrace.refining.report import write_report
from judgetrace.refining.trace_choice import TraceSupply
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
    alone = Ratings(["a", "b"], before, None, targets, ratings.groups)
    raced = {"original": measure_change(alone, SCALE, replicates=200, seed=0, level=0.95), "rubric-0": changes}
    return Outcome(ENTRIES, contest, items, "confirm", changes, coverage, spent, ["Few items."], SUPPLY, raced)


def lose(outcome: Outcome, **losses: Losses) -> Outcome:
    """The outcome whose candidates lost something, by their names with "_" for "-"."""
    entries = [
        replace(entry, candidate=replace(entry.candidate, losses=losses.get(entry.name.replace("-", "_"))))
        for entry in outcome.entries
    ]
    return replace(outcome, entries=entries)


WON = make_outcome({"original": 0.3, "rubric-0": 0.9, "both-0": 0.2})
LOST = lose(
    WON,
    rubric_0=Losses(7, 1, (CritiqueCount("1", 50, 0), CritiqueCount("2", 4, 3))),
    both_0=Losses(1, 0, (CritiqueCount("1", 50, 0),)),
)


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


def test_a_row_has_what_its_candidate_lost() -> None:
    rows = {row["name"]: row for row in tabulate_candidates(LOST).to_pylist()}

    assert (rows["rubric-0"]["num_drafts"], rows["rubric-0"]["num_lost_drafts"]) == (7, 1)
    assert rows["rubric-0"]["critique_counts"] == [
        {"level": "1", "num_asked": 50, "num_silent": 0},
        {"level": "2", "num_asked": 4, "num_silent": 3},
    ]
    assert (rows["original"]["num_drafts"], rows["original"]["critique_counts"]) == (None, None)


def test_the_report_says_what_candidates_lost_and_nothing_where_they_lost_nothing() -> None:
    report = write_report(LOST, "", "")
    _, _, traces = report.partition("## Traces")
    traces, _, _ = traces.partition("## Candidates")

    assert "| rubric-0 | 1 of 7 drafts lost; traces that gave no critique: 3 of 4 of level 2 |" in traces
    assert "both-0" not in traces
    assert "Not all of them went in" not in write_report(WON, "", "")


def test_a_candidate_has_how_far_raters_agree_with_each_other_and_what_it_changed() -> None:
    rows = {row["name"]: row for row in tabulate_candidates(WON).to_pylist()}

    # Rater a is one level off in every item with the original, and both are right with rubric-0: three levels in turn,
    # which one rater shifts by one, correlate by -.5, and ICC(3,1) of equal variances is the correlation.
    assert rows["original"]["raters_icc"] == pytest.approx(-0.5)
    assert rows["original"]["raters_icc_change"] is None
    assert rows["rubric-0"]["raters_icc"] == pytest.approx(1.0)
    assert rows["rubric-0"]["raters_icc_change"] == pytest.approx(1.5)
    assert rows["rubric-0"]["raters_alpha_change_low"] > 0
    assert rows["both-0"]["raters_icc"] is None


def test_a_candidate_has_how_far_raters_agree_with_people_on_the_mean() -> None:
    rows = {row["name"]: row for row in tabulate_candidates(WON).to_pylist()}

    # Rater a is one level off in every item with the original, by -2 or 1: MSE (4 + 1 + 1) / 3. Rater b is right.
    assert (rows["original"]["people_mse"], rows["original"]["people_exact"]) == pytest.approx((1.0, 0.5))
    assert rows["original"]["people_tau_change"] is None
    assert (rows["rubric-0"]["people_mse"], rows["rubric-0"]["people_mse_change"]) == pytest.approx((0.0, -1.0))
    assert (rows["rubric-0"]["people_tau"], rows["rubric-0"]["people_icc"]) == pytest.approx((1.0, 1.0))
    assert rows["rubric-0"]["people_tau_change_low"] > 0
    assert rows["both-0"]["people_tau"] is None


def test_one_rater_is_its_own_mean_and_a_nominal_scale_has_no_error_to_square() -> None:
    targets = np.arange(60) % 2 + 1.0
    ratings = Ratings(["a"], targets[None], None, targets, [str(n) for n in range(60)])
    scale = Scale(values=("1", "2"), type="nominal")
    found = describe_agreement(measure_change(ratings, scale, replicates=200, seed=0, level=0.95), "before")

    assert found == {"people_exact": 1.0, **dict.fromkeys(f"people_exact_change{end}" for end in ("", "_low", "_high"))}


def test_a_figure_that_is_undefined_under_a_candidate_is_not_the_originals() -> None:
    targets = np.arange(60) % 3 + 1.0
    # A rater that gives one level has no order, so no tau; its error is known.
    ratings = Ratings(["a"], targets[None], np.full((1, 60), 2.0), targets, [str(n) for n in range(60)])
    changes = measure_change(ratings, SCALE, replicates=200, seed=0, level=0.95)

    assert describe_agreement(changes, "before")["people_tau"] == pytest.approx(1.0)
    assert describe_agreement(changes, "after")["people_tau"] is None
    assert describe_agreement(changes, "after")["people_mse"] == pytest.approx(2 / 3)


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


def make_unraced(items: HeldItems) -> Outcome:
    contest = Contest("original", None, keep_original(), "no candidate besides the original is sound")
    return Outcome(ENTRIES, contest, items, None, CHANGES.empty_table(), {}, {}, [], TraceSupply(50, {}, {}))


def test_without_a_race_the_report_says_why() -> None:
    outcome = make_unraced(make_held(0, 0))
    report = write_report(outcome, "", "")

    assert "There was no race: no candidate besides the original is sound." in report
    assert "Not measured: the test split has no items." in report
    assert describe_outcome(outcome)["race"] is None
    assert tabulate_candidates(outcome).num_rows == 4


def test_without_a_candidate_and_with_the_test_split_left_alone_items_are_not_what_is_lacking() -> None:
    outcome = make_unraced(HeldItems(ItemRule("", 0, test=None), make_held(400, 200).rows))
    why = "no candidate was left to compare the original with, and the test split is left alone (test.enabled = false)"

    assert f"Not measured: {why}." in write_report(outcome, "", "")
    assert describe_outcome(outcome)["why_not_measured"] == why
    assert describe_outcome(WON)["why_not_measured"] is None
