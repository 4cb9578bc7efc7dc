"""The paper's table, from rows of agreement written by hand."""

from __future__ import annotations

from judgetrace.scale import ScaleConfig
from judgetrace.study.headline import MEAN, TABLE, make_table, write_headline

SCALES = ScaleConfig(values=("1", "2", "3"), type="ordinal")
RATERS = [
    {"rater": "untuned", "guideline": "original", "role": "rater"},
    {"rater": "untuned-refined", "guideline": "refined", "role": "rater"},
    {"rater": "shuffled", "guideline": "original", "role": "control"},
]


def figure(comparison: str, who: str, with_whom: str, statistic: str, value: float | None, **more: object) -> dict:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    row = {"dimension": "", "population": "filtered", "slice_by": "", "slice": "", "comparison": comparison}
    row |= {"who": who, "with_whom": with_whom, "statistic": statistic, "value": value, "low": low, "high": high}
    row |= {"p_value": None, "p_adjusted": None, "num_units": 40, "num_compared": 40, "coverage": 1.0}
    return row | {"undefined": None if value is not None else "one unit only"} | more


ROWS = [
    figure("rater_target", "untuned", "target label", "kendall_tau_b", 0.3),
    figure("rater_target", "untuned-refined", "target label", "kendall_tau_b", 0.45),
    figure("rater_target", "shuffled", "target label", "kendall_tau_b", None),
    figure("rater_target", "untuned", "target label", "kendall_tau_b", 0.9, slice_by="label", slice="1"),
    figure("rater_target", "untuned", "target label", "kendall_tau_b", 0.9, population="all"),
    figure("human_ceiling", "each annotator", "the other annotators", "kendall_tau_b", 0.6),
    # untuned minus untuned-refined; the table turns it round.
    figure("difference", "untuned", "untuned-refined", "kendall_tau_b", -0.15, p_adjusted=0.01),
]
OTHERS = ("untuned-refined, large-refined", "untuned, large")
TOGETHER = [
    figure("raters_change", *OTHERS, "icc_3_1", 0.04, num_compared=31),
    figure("raters_after", OTHERS[0], "", "icc_3_1", 0.62, num_compared=31),
    figure("raters_before", OTHERS[1], "", "icc_3_1", 0.58, num_compared=31),
]
ALONE = [figure("rater_rater", "all raters", "", "icc_3_1", 0.55, num_compared=38)]
"""The raters by the original guideline alone, on the units that two of them rated."""


def test_the_table_has_raters_ceiling_change_and_how_raters_agree() -> None:
    rows = make_table(RATERS, [*ROWS, *TOGETHER], ALONE, SCALES).to_pylist()

    found = {(row["kind"], row["who"], row["guideline"], row["statistic"]): row["value"] for row in rows}
    assert found == {
        ("rater", "untuned", "original", "kendall_tau_b"): 0.3,
        ("rater", "untuned", "refined", "kendall_tau_b"): 0.45,
        ("control", "shuffled", "original", "kendall_tau_b"): None,
        ("ceiling", "each person, the others", "", "kendall_tau_b"): 0.6,
        ("change", "untuned", "refined - original", "kendall_tau_b"): 0.15,
        ("raters", "raters with each other", "original", "icc_3_1"): 0.58,
        ("raters", "raters with each other", "refined", "icc_3_1"): 0.62,
        ("raters", "raters with each other", "refined - original", "icc_3_1"): 0.04,
    }


def test_raters_with_each_other_are_before_after_and_paired_on_the_same_units_in_a_table_of_their_own() -> None:
    """There were two rows of two runs, each of the units that its own raters had rated, and no change."""
    text = write_headline(make_table(RATERS, [*ROWS, *TOGETHER], ALONE, SCALES))
    head, together = text.split("### Raters with each other")

    assert "| figure | original | refined | refined - original | units |" in together
    assert "| ICC(3,1) | 0.580 [0.480, 0.680] | 0.620 [0.520, 0.720] | +0.040 [-0.060, +0.140] | 31 |" in together
    assert "ICC" not in head


def test_without_a_refined_guideline_raters_with_each_other_have_the_original_alone() -> None:
    text = write_headline(make_table(RATERS[:1], ROWS, ALONE, SCALES))

    assert "| figure | original | units |\n|---|---|---|\n| ICC(3,1) | 0.550 [0.450, 0.650] | 38 |" in text
    assert "Raters with each other" not in write_headline(make_table(RATERS[:1], ROWS, [], SCALES))


def test_a_change_is_refined_minus_original_with_its_interval_turned_round() -> None:
    (change,) = [row for row in make_table(RATERS, ROWS, [], SCALES).to_pylist() if row["kind"] == "change"]

    # The interval of -0.15 is [-0.25, -0.05].
    assert [round(change[key], 9) for key in ("low", "value", "high")] == [0.05, 0.15, 0.25]
    assert change["p_adjusted"] == 0.01


def test_several_dimensions_have_a_mean_where_all_of_them_are_defined() -> None:
    both = [{**row, "dimension": name} for name in ("a", "b") for row in ROWS if row["who"] != "shuffled"]
    both.append({**ROWS[2], "dimension": "a"})
    both.append({**ROWS[2], "dimension": "b", "value": 0.2})
    rows = make_table(RATERS, both, [], SCALES).to_pylist()

    mean = {(row["who"], row["guideline"]): row for row in rows if row["dimension"] == MEAN and row["kind"] != "change"}
    assert mean["untuned", "original"]["value"] == 0.3
    assert mean["untuned", "original"]["num_units"] == 80
    assert mean["shuffled", "original"]["value"] is None
    assert mean["shuffled", "original"]["undefined"] == "defined in 1 of 2 dimensions"


def test_a_rater_of_one_dimension_has_no_rows_in_others_and_no_mean() -> None:
    raters = [RATERS[0], RATERS[1] | {"dimension": "a"}]
    both = [{**row, "dimension": name} for name in ("a", "b") for row in ROWS]
    together = [{**row, "dimension": "a"} for row in TOGETHER]
    alone = [{**row, "dimension": name} for name in ("a", "b") for row in ALONE]
    rows = make_table(raters, [*both, *together], alone, SCALES).to_pylist()

    refined = {(row["dimension"], row["kind"]) for row in rows if row["guideline"] not in ("original", "")}
    assert refined == {("a", "rater"), ("a", "change"), ("a", "raters")}
    original = {r["dimension"]: r["value"] for r in rows if (r["kind"], r["guideline"]) == ("raters", "original")}
    assert original == {"a": 0.58, "b": 0.55, MEAN: (0.58 + 0.55) / 2}


def test_the_table_reads_as_markdown_and_is_empty_without_figures() -> None:
    text = write_headline(make_table(RATERS, ROWS, ALONE, SCALES), ["Without tuned: failed."])

    assert "| rater | untuned | original | 0.300 [0.200, 0.400] | 40 |" in text
    assert "| change | untuned | refined - original | +0.150 [+0.050, +0.250] p=0.010 | 40 |" in text
    assert "| control | shuffled | original | undefined | 40 |" in text
    assert "Without tuned: failed." in text
    assert make_table(RATERS, [], [], SCALES).schema == TABLE
