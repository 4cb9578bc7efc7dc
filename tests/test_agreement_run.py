"""What must hold however the rows come: in which order, in how many files, buckets and tasks; and of bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judgetrace.agreement import run as agreement_run
from judgetrace.agreement.name_hash import hash_strings
from judgetrace.agreement.results import AGREEMENT, Results
from judgetrace.config import UserError
from tests.agreement_runs import (
    collect,
    draw_people,
    draw_rater,
    measure_here,
    prepare_here,
    read_value,
    select,
    write_table,
)

SCALE = {"values": [1, 2, 3, 4, 5]}


def run(folder: Path, people: pd.DataFrame, *raters: pd.DataFrame, **config: Any) -> Results:
    tables = [{"paths": [write_table(folder / "people.parquet", people, 37)], "kind": "human"}]
    for number, frame in enumerate(raters):
        write_table(folder / f"run{number}/annotations/shard-00000.parquet", frame, 23)
    runs = [str(folder / f"run{number}") for number in range(len(raters))]
    defaults = {"intervals": {"replicates": 50}, "target": {"rule": "median", "max_sd": 0.6}, "scale": SCALE}
    return measure_here(folder, tables=tables, raters=runs, **{**defaults, **config})


def test_the_number_of_buckets_and_the_order_of_rows_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, raters = draw_people(0, items=60), [draw_rater(2, "m", 60), draw_rater(3, "n", 60)]
    one = run(tmp_path, people, *raters, buckets=1)

    monkeypatch.setattr(agreement_run, "ROWS_PER_TASK", 10)
    many = run(tmp_path, people.sample(frac=1, random_state=1), *(r[::-1] for r in raters), buckets=7)

    assert len(one.rows) > 500
    assert many.rows == one.rows
    assert many.confusions == one.confusions


def test_more_clusters_than_blocks_are_folded_the_same_for_any_number_of_buckets(tmp_path: Path) -> None:
    people = draw_people(0, items=1500, people="ab")

    one, many = (run(tmp_path, people, buckets=buckets) for buckets in (1, 5))

    assert many.rows == one.rows
    (row,) = select(one, comparison="human_human", who="all annotators", statistic="alpha_ordinal")
    assert row["low"] < row["value"] < row["high"]


def test_other_names_of_raters_and_annotators_change_no_figure(tmp_path: Path) -> None:
    people, rater = draw_people(1), draw_rater(2, "m")
    renamed = people.assign(annotator_id=people["annotator_id"].map(dict(zip("abcd", "wxyz", strict=True))))
    before, after = run(tmp_path, people, rater), run(tmp_path, renamed, rater.assign(rater_id="another"))

    names = dict(zip("wxyz", "abcd", strict=True)) | {"another": "m"}
    for row in after.rows:
        row["who"], row["with_whom"] = names.get(row["who"], row["who"]), names.get(row["with_whom"], row["with_whom"])
    assert sorted(map(repr, after.rows)) == sorted(map(repr, before.rows))


def test_the_seed_decides_the_intervals_and_nothing_else(tmp_path: Path) -> None:
    people = draw_people(1)
    first = run(tmp_path, people)
    second = run(tmp_path, people, intervals={"replicates": 50, "seed": 1})

    assert [row["value"] for row in first.rows] == [row["value"] for row in second.rows]
    assert [row["low"] for row in first.rows] != [row["low"] for row in second.rows]


def test_groups_are_resampled_whole_so_that_copies_of_an_item_give_no_narrower_interval(tmp_path: Path) -> None:
    people = draw_people(2).assign(page="")
    copies = pd.concat(
        [people.assign(item_id=people["item_id"] + f" copy {n}", page=people["item_id"]) for n in range(9)]
    )
    table = {"paths": [write_table(tmp_path / "copies.parquet", copies)], "kind": "human", "group": "page"}

    def width(over: str) -> float:
        results = measure_here(
            tmp_path, tables=[table], scale=SCALE, intervals={"replicates": 400, "over": over}, slices={"label": False}
        )
        (row,) = select(results, comparison="human_human", who="all annotators", statistic="alpha_interval")
        return float(row["high"] - row["low"])

    single = run(tmp_path, people, intervals={"replicates": 400})
    (row,) = select(single, comparison="human_human", who="all annotators", statistic="alpha_interval")
    assert width("group") == pytest.approx(row["high"] - row["low"], rel=0.25)
    assert width("auto") == width("group")
    assert width("item") == pytest.approx(width("group") / 3, rel=0.3)


@pytest.mark.parametrize(
    "pages", [["", "  ", None, "", "p", "p"], [None, np.nan, np.nan, None, 7.0, 7.0]], ids=["text", "number"]
)
def test_items_without_a_group_are_resampled_one_by_one(tmp_path: Path, pages: list[Any]) -> None:
    """A blank text, or NaN, was a group like any other, so that all items without one were resampled as one."""
    items = [f"item {n}" for n in range(6)]
    people = pd.DataFrame({"item_id": items, "annotator_id": "a", "label": "3"})
    # Not as pandas writes it, which makes a null of NaN.
    frame = pa.table({**people.to_dict("list"), "page": pa.array(pages, from_pandas=False)})
    pq.write_table(frame, tmp_path / "people.parquet")
    table = {"paths": [str(tmp_path / "people.parquet")], "kind": "human", "group": "page"}

    _, collected = collect(tmp_path, {"tables": [table], "scale": SCALE})

    clusters = hash_strings(pa.array([*items[:4], "p" if pages[4] == "p" else "7"]))
    assert collected.total.clusters.names.tolist() == sorted(clusters.tolist())


def test_equal_raters_differ_by_nought_and_unequal_ones_significantly(tmp_path: Path) -> None:
    people = draw_people(3, items=80)
    good = draw_rater(1, "good", 80, missing=0)
    mode = people.groupby("item_id")["label"].agg(lambda labels: labels.mode()[0])
    good["rating"] = good["item_id"].map(mode).astype(float)
    good["label"] = good["item_id"].map(mode)
    twin = good.assign(rater_id="twin")
    bad = draw_rater(3, "bad", 80, missing=0)
    results = run(tmp_path, people, good, twin, bad, intervals={"replicates": 200})

    rows = {
        (r["who"], r["with_whom"]): r
        for r in select(results, comparison="difference", statistic="alpha_ordinal", population="all")
        if r["with_whom"] != "the human ceiling"
    }
    same, other = rows["good", "twin"], rows["bad", "good"]
    assert (same["value"], same["low"], same["high"], same["p_adjusted"]) == (0.0, 0.0, 0.0, 1.0)
    assert other["high"] < 0
    # Three differences of one statistic: Holm multiplies the smallest p-value by three.
    assert other["p_value"] == pytest.approx(2 / 201)
    assert other["p_adjusted"] == pytest.approx(6 / 201)


@pytest.mark.parametrize(
    ("people", "reason"),
    [
        pytest.param(draw_people(0).assign(label="3"), "all ratings are of one category", id="one category"),
        pytest.param(draw_people(0, people="a"), "no unit has two ratings", id="one annotator"),
        pytest.param(
            draw_people(0, people="ab", missing=0)
            .iloc[:0]
            .pipe(
                lambda frame: pd.concat(
                    [frame, pd.DataFrame({"item_id": ["i", "j"], "annotator_id": ["a", "b"], "label": ["1", "2"]})]
                )
            ),
            "no unit has two ratings",
            id="no overlap",
        ),
    ],
)
def test_what_is_undefined_says_why_and_no_value_is_nan(tmp_path: Path, people: pd.DataFrame, reason: str) -> None:
    results = run(tmp_path, people)

    (row,) = select(results, comparison="human_human", who="all annotators", statistic="alpha_ordinal")
    assert (row["value"], row["undefined"]) == (None, reason)
    assert all((row["value"] is None) == (row.get("undefined") is not None) for row in results.rows)
    assert not any(isinstance(v, float) and np.isnan(v) for row in results.rows for v in row.values())
    assert results.to_table().schema == AGREEMENT


def test_no_rows_keep_the_schema() -> None:
    assert Results().to_table().schema == AGREEMENT


def test_a_rater_that_always_says_the_same_is_told_apart_from_one_that_is_undefined(tmp_path: Path) -> None:
    results = run(tmp_path, draw_people(1), draw_rater(1, "m").assign(rating=3.0, label="3"))

    (row,) = select(results, comparison="rater_target", statistic="kendall_tau_b")
    assert (row["value"], row["undefined"]) == (None, "the first gives one rating only")
    assert read_value(results, "cohen_kappa", comparison="rater_target") == 0.0


def test_a_rater_without_any_overlap_has_no_figures_but_a_coverage_of_nought(tmp_path: Path) -> None:
    rater = draw_rater(1, "m")
    results = run(tmp_path, draw_people(1), rater.assign(rating=np.nan, label=None, outcome="unrated"))

    rows = select(results, comparison="rater_target", who="m")
    assert rows
    assert {(row["value"], row["coverage"], row["undefined"]) for row in rows} == {
        (None, 0.0, "no unit has a rating of both")
    }


def test_labels_outside_the_scale_stop_the_job_or_are_left_out_and_counted(tmp_path: Path) -> None:
    people = draw_people(1)
    faulty = people.assign(label=["9", "2.5", None, *people["label"][3:]])
    faulty.loc[faulty.index[4], "item_id"] = None

    told = r"4 of \d+ rows are unusable, over max_unusable_rate(?s:.*)off_scale(?s:.*)'9'(?s:.*)raise the limit"
    with pytest.raises(UserError, match=told):
        run(tmp_path, faulty, max_unusable_rate=0.01)

    table = {"paths": [write_table(tmp_path / "faulty.parquet", faulty)], "kind": "human"}
    _, collected = collect(tmp_path, {"tables": [table], "scale": SCALE})
    assert dict(collected.survey.unusable) == {
        "off_scale": 1,
        "between_levels": 1,
        "missing_label": 1,
        "missing_item_id": 1,
    }
    kept = people.drop(people.index[[0, 1, 2, 4]])
    assert run(tmp_path, faulty).rows == run(tmp_path, kept).rows


def test_the_first_of_several_labels_of_one_annotator_counts(tmp_path: Path) -> None:
    people = draw_people(1)
    again = people.sample(20, random_state=0).assign(label="5")
    table = {"paths": [write_table(tmp_path / "again.parquet", pd.concat([people, again]))], "kind": "human"}
    config = {"tables": [table], "scale": SCALE, "buckets": 3}

    _, collected = collect(tmp_path, config)

    assert collected.total.num_duplicates == 20
    results = measure_here(tmp_path, **config, intervals={"replicates": 50}, target={"rule": "median", "max_sd": 0.6})
    assert results.rows == run(tmp_path, people).rows


def test_numbers_are_read_as_labels_whatever_their_type(tmp_path: Path) -> None:
    people = draw_people(1)

    as_text = run(tmp_path, people)
    for kind in ("int64", "float32"):
        assert run(tmp_path, people.assign(label=people["label"].astype(kind))).rows == as_text.rows


def test_nobody_named_still_has_a_panel_and_a_ceiling(tmp_path: Path) -> None:
    people = draw_people(1)
    table = {
        "paths": [write_table(tmp_path / "anonymous.parquet", people[["item_id", "label"]])],
        "kind": "human",
        "annotator_id": None,
    }
    write_table(tmp_path / "run/annotations/shard-00000.parquet", draw_rater(2, "m"))
    anonymous = measure_here(
        tmp_path, tables=[table], raters=[str(tmp_path / "run")], scale=SCALE, intervals={"replicates": 0}
    )
    named = run(tmp_path, people, draw_rater(2, "m"), target=None)

    for wanted in (
        {"comparison": "human_human", "who": "all annotators"},
        {"comparison": "human_ceiling", "who": "each annotator"},
    ):
        assert read_value(anonymous, "alpha_ordinal" if "all" in wanted["who"] else "mse", **wanted) == read_value(
            named, "alpha_ordinal" if "all" in wanted["who"] else "mse", **wanted
        )
    (row,) = select(anonymous, comparison="alternative_test", statistic="winning_rate")
    assert row["undefined"].startswith("no annotator has 30 items")


def test_only_the_file_that_counts_is_read_of_each_shard_of_a_run(tmp_path: Path) -> None:
    rater = draw_rater(2, "m")
    for name, rows in (
        ("shard-00000.partial-00002", rater[:10]),
        ("shard-00000", rater[:20]),
        ("shard-00001.partial-00001", rater[20:25]),
        ("shard-00001.partial-00010", rater[20:]),
    ):
        write_table(tmp_path / f"run/annotations/{name}.parquet", rows)
    table = {"paths": [write_table(tmp_path / "people.parquet", draw_people(1))], "kind": "human"}

    _, collected = collect(tmp_path, {"tables": [table], "raters": [str(tmp_path / "run")], "scale": SCALE})

    assert dict(collected.survey.raters) == {(0, "m"): 40}
    assert collected.total.num_duplicates == 0


def test_raters_of_the_same_name_are_told_apart_by_their_run(tmp_path: Path) -> None:
    results = run(tmp_path, draw_people(1), draw_rater(2, "m"), draw_rater(4, "m"))

    assert {row["who"] for row in select(results, comparison="rater_target")} == {"m (run0)", "m (run1)"}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"slices": {"columns": ["genre"]}}, r"no source has the column\(s\) \['genre'\]"),
        ({"slices": {"columns": ["item_id"]}}, "more than 50 values"),
        ({"intervals": {"over": "group"}}, "group column"),
        ({"target": {"rule": "median"}, "scale": {**SCALE, "type": "nominal"}}, "needs an order"),
        ({"raters": ["nowhere"]}, "no annotations there"),
        ({"corpus": "nowhere", "scale": None}, "no finished corpus"),
    ],
)
def test_what_is_wrong_is_said_and_what_to_do(tmp_path: Path, config: dict[str, Any], complaint: str) -> None:
    table = {"paths": [write_table(tmp_path / "people.parquet", draw_people(1, items=70))], "kind": "human"}

    with pytest.raises(UserError, match=complaint):
        collect(tmp_path, {"tables": [table], "scale": SCALE, **config})


def test_a_slice_that_the_corpus_knows_nothing_of_is_named_with_what_it_has(tmp_path: Path) -> None:
    """A corpus' `extra` was taken to have every name, so that a misspelt one gave no slice and no word."""
    people = draw_people(1).assign(genre="tale", place="x")
    corpus = prepare_here(tmp_path, people)

    results = measure_here(tmp_path, corpus=corpus, slices={"columns": ["genre"]}, intervals={"replicates": 0})
    assert select(results, slice_by="genre", slice="tale")
    with pytest.raises(UserError, match=r"no row has a value of \['gender', 'genr'\]\n.*: \['genre', 'place'\]\n"):
        collect(tmp_path, {"corpus": corpus, "slices": {"columns": ["genr", "genre", "split", "gender"]}})


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    people = draw_people(1).rename(columns={"label": "stars"})
    table = {"paths": [write_table(tmp_path / "people.parquet", people)], "kind": "human"}

    with pytest.raises(UserError, match=r"no column 'label'; found: \['item_id', 'annotator_id', 'stars'\]"):
        collect(tmp_path, {"tables": [table], "scale": SCALE})
