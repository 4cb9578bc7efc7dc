from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.agreement_runs import draw_people, draw_rater, report_here, write_table

SCALE = {"values": [1, 2, 3, 4, 5]}


def report(folder: Path, people: pd.DataFrame, *raters: pd.DataFrame, **config: Any) -> str:
    tables = [{"paths": [write_table(folder / "people.parquet", people)], "kind": "human"}]
    for number, frame in enumerate(raters):
        write_table(folder / f"run{number}/annotations/shard-00000.parquet", frame)
    runs = [str(folder / f"run{number}") for number in range(len(raters))]
    defaults: dict[str, Any] = {"scale": SCALE, "intervals": {"replicates": 100}}
    return report_here(folder, tables=tables, raters=runs, **{**defaults, **config})


def find_line(text: str, *parts: str) -> str:
    """Find the one line of a report that has all parts."""
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return line


def test_the_first_look_sets_each_rater_beside_the_human_ceiling_filtered_and_unfiltered(tmp_path: Path) -> None:
    text = report(tmp_path, draw_people(1), draw_rater(2, "m"), target={"rule": "median", "max_sd": 0.6})

    first = text[text.index("## First look") : text.index("## Mind")]
    assert "| rater, others | person, others | difference |" in first
    for population in ("filtered", "all"):
        line = find_line(first, f"| {population}: ", "| m | alpha (ordinal) |")
        # Five figures, each with its interval.
        assert line.count("[") == 5


def test_without_a_rater_the_ceiling_stands_alone(tmp_path: Path) -> None:
    text = report(tmp_path, draw_people(1))

    assert "No rater was given." in text
    assert "Raters and people" not in text
    assert "| 1 |" in text[text.index("(rows) and") :]


def test_what_must_be_minded_is_said(tmp_path: Path) -> None:
    people = draw_people(1)
    people.loc[people["item_id"].str[-1].isin(list("012345")), "label"] = "3"
    targets = people.groupby("item_id")["label"].agg(lambda labels: float(np.median(labels.astype(float))))
    severe = draw_rater(1, "severe", missing=0.2)
    severe["rating"] = severe["rating"].where(severe["rating"].isna(), severe["item_id"].map(targets).clip(2) - 1)
    text = report(tmp_path, people, severe, draw_rater(1, "flat").assign(rating=3.0, label="3", outcome="rated"))

    mind = text[text.index("## Mind") : text.index("## The figures")]
    assert "of the target labels are `3`. Exact agreement, AC1 and AC2 are high by themselves" in mind
    assert "the target rule drops" in mind
    assert "severe rated" in find_line(mind, "of what has a target label")
    assert "below the target on average" in find_line(mind, "severe rates")
    assert "tau-b" in find_line(mind, "flat: undefined:")
    assert "row(s) without a rating: unrated" in mind


def test_too_few_replicates_for_so_many_differences_are_said(tmp_path: Path) -> None:
    raters = [draw_rater(seed, f"rater {seed}") for seed in range(4)]

    text = report(tmp_path, draw_people(1), *raters, intervals={"replicates": 100})

    # Six differences: 6 * 2 / 101.
    assert "no p (Holm) can fall below 0.12" in text
    assert "no p (Holm)" not in report(tmp_path, draw_people(1), *raters, intervals={"replicates": 400})


def test_every_line_of_a_table_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    people = draw_people(1).assign(genre="a|b")
    nominal = {"scale": {**SCALE, "type": "nominal"}, "target": {"rule": "majority"}}
    for config in ({}, nominal, {"scale": {**SCALE, "type": "interval"}}, {"intervals": {"replicates": 0}}):
        text = report(tmp_path, people, draw_rater(3, "m"), draw_rater(1, "n"), slices={"columns": ["genre"]}, **config)
        width = 0
        for line in text.replace("\\|", "/").splitlines():
            width = 0 if not line.startswith("|") else width or line.count("|")
            assert line.count("|") == width


def test_the_share_of_two_labels_or_more_is_not_that_of_the_units_that_all_rated(tmp_path: Path) -> None:
    """The ICCs are of the units that the whole panel rated, 30 of these 60, and their row lent its coverage."""
    people = pd.DataFrame(
        {"item_id": f"item {n}", "annotator_id": who, "label": str(1 + (n + place) % 5)}
        for n in range(60)
        for place, who in enumerate("abc" if n < 30 else "ab")
    )
    m, n, o = (draw_rater(seed, name, 60, missing=0) for seed, name in ((1, "m"), (3, "n"), (5, "o")))
    text = report(tmp_path, people, m, n, o[:30], target={"rule": "majority", "tie": "floor"})

    lines = text.splitlines()
    for column, start in (
        ("of two labels or more", "| all | 60 | 100.0% |"),
        ("of two ratings or more", "| 60 | 100.0% |"),
    ):
        head = lines.index(find_line(text, column))
        assert lines[head + 2].startswith(start)


def test_skewed_labels_are_told_where_items_have_one_annotator_or_some_have_several(tmp_path: Path) -> None:
    """The shares were of the levels that have a human ceiling: of none, and of the label 3 alone."""
    label = ["3"] * 90 + ["1"] * 10
    single = pd.DataFrame({"item_id": [f"item {n}" for n in range(100)], "annotator_id": "a", "label": label})
    # Only units of the label 3 have a second one.
    some = pd.concat([single, single[:10].assign(annotator_id="b")])

    for people in (single, some):
        text = report(tmp_path, people, intervals={"replicates": 0})
        assert find_line(text, "of the target labels are").startswith("- 90% of the target labels are `3`.")
