"""Counts and figures of small panels against brute force over the rows."""

from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from judgetrace.agreement.intake import IntakeRules, Origin, Source, admit_rows
from judgetrace.agreement.rating_codes import NO_RATING, OFF_SCALE
from judgetrace.agreement.survey import Survey
from judgetrace.agreement.tables import EACH_ANNOTATOR
from judgetrace.config import UserError
from judgetrace.labels import TargetConfig, aggregate_labels
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import ANNOTATIONS
from tests.agreement_runs import (
    draw_people,
    draw_rater,
    measure_here,
    read_value,
    report_here,
    select,
    write_table,
)

SCALE = {"values": [1, 2, 3, 4, 5]}
RULES: list[dict[str, Any]] = [
    {"rule": "median", "max_sd": 0.6},
    {"rule": "majority"},
    {"rule": "rounded_mean", "half_point": "ceil"},
]


def find_targets(people: pd.DataFrame, rule: dict[str, Any]) -> dict[str, float]:
    """Find the targets with the room that prepare_corpus uses."""
    table = pa.Table.from_pandas(people.assign(dimension=""), preserve_index=False).select(ANNOTATIONS.names)
    units, _ = aggregate_labels(table.cast(ANNOTATIONS), TargetConfig(**rule), ScaleConfig(**SCALE))
    return dict(zip(units["item_id"].to_pylist(), map(float, units["target_label"].to_pylist()), strict=True))


def without_drops(rule: dict[str, Any]) -> dict[str, Any]:
    return {"median": {**rule, "max_sd": None}, "majority": {**rule, "tie": "floor"}}.get(rule["rule"], rule)


def compute_icc(whole: np.ndarray) -> float:
    """ICC(3,1) of ratings [units, raters], by Shrout and Fleiss."""
    n, k = whole.shape
    rows = k * whole.mean(axis=1).var(ddof=1)
    error = ((whole - whole.mean(axis=1)[:, None] - whole.mean(axis=0) + whole.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error))


def run(folder: Path, people: pd.DataFrame, raters: list[pd.DataFrame], **config: Any) -> Any:
    tables = [{"paths": [write_table(folder / "people.parquet", people)], "kind": "human"}]
    for number, frame in enumerate(raters):
        write_table(folder / f"run{number}/annotations/shard-00000.parquet", frame)
    runs = [str(folder / f"run{number}") for number in range(len(raters))]
    return measure_here(folder, tables=tables, raters=runs, scale=SCALE, intervals={"replicates": 0}, **config)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
@pytest.mark.parametrize("seed", range(2))
def test_a_rater_against_the_target_filtered_and_unfiltered(tmp_path: Path, rule: dict[str, Any], seed: int) -> None:
    people, rater = draw_people(seed), draw_rater(seed, "m")
    results = run(tmp_path, people, [rater], target=rule)
    kept, everything = find_targets(people, rule), find_targets(people, without_drops(rule))
    assert len(kept) < len(everything) or rule["rule"] == "rounded_mean"
    ratings = dict(zip(rater["item_id"], rater["rating"], strict=True))

    for population, targets in (("filtered", kept), ("all", everything)):
        both = [item for item in targets if not np.isnan(ratings[item])]
        first, second = np.array([ratings[i] for i in both]), np.array([targets[i] for i in both])
        about = {"population": population, "comparison": "rater_target", "who": "m"}
        assert read_value(results, "mse", **about) == pytest.approx(((first - second) ** 2).mean())
        assert read_value(results, "bias", **about) == pytest.approx((first - second).mean())
        assert read_value(results, "kendall_tau_b", **about) == pytest.approx(stats.kendalltau(first, second)[0])
        row = select(results, statistic="mse", **about)[0]
        assert (row["num_compared"], row["coverage"]) == (len(both), pytest.approx(len(both) / len(targets)))


def test_coverage_beside_others_is_of_labels_that_others_stand_beside(tmp_path: Path) -> None:
    # 9 items have one label and 1 has two; the rater rated all ten.
    rows = [(f"item {n}", "a", "3") for n in range(10)] + [("item 9", "b", "3")]
    people = pd.DataFrame(rows, columns=["item_id", "annotator_id", "label"])
    results = run(tmp_path, people, [draw_rater(1, "m", items=10, missing=0)], target={"rule": "majority"})

    about = {"statistic": "exact_agreement", "population": "all"}
    for comparison, who in (("human_ceiling", EACH_ANNOTATOR), ("rater_rest", "m")):
        row = select(results, **about, comparison=comparison, who=who)[0]
        assert (row["num_compared"], row["coverage"]) == (2, 1.0), comparison
    row = select(results, **about, comparison="rater_annotator", who="m", with_whom=EACH_ANNOTATOR)[0]
    assert (row["num_compared"], row["coverage"]) == (11, 1.0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_the_human_ceiling_is_each_annotator_against_what_the_others_agree_on(
    tmp_path: Path, rule: dict[str, Any]
) -> None:
    people, rater = draw_people(3), draw_rater(2, "m")
    ratings = dict(zip(rater["item_id"], rater["rating"], strict=True))
    results = run(tmp_path, people, [rater], target=rule)

    own, rest, rated, rest_of_rated, own_of_rated = [], [], [], [], []
    for who in "abcd":
        targets = find_targets(people[people["annotator_id"] != who], without_drops(rule))
        for row in people[people["annotator_id"] == who].itertuples():
            if row.item_id in targets:
                own.append(float(row.label))
                rest.append(targets[row.item_id])
                if not np.isnan(ratings[row.item_id]):
                    rated.append(ratings[row.item_id])
                    rest_of_rated.append(targets[row.item_id])
                    own_of_rated.append(float(row.label))
    mse = ((np.array(own) - rest) ** 2).mean()
    assert read_value(results, "mse", comparison="human_ceiling", who="each annotator") == pytest.approx(mse)
    assert select(results, statistic="mse", comparison="human_ceiling", who="each annotator")[0]["num_compared"] == len(
        own
    )
    mse = ((np.array(rated) - rest_of_rated) ** 2).mean()
    assert read_value(results, "mse", comparison="rater_rest", who="m") == pytest.approx(mse)
    difference = read_value(results, "mse", comparison="difference", who="m", with_whom="the human ceiling")
    # The ceiling on the units that the rater rated.
    assert difference == pytest.approx(mse - ((np.array(own_of_rated) - rest_of_rated) ** 2).mean())


def test_a_rater_against_each_annotator_single_and_pooled(tmp_path: Path) -> None:
    people, rater = draw_people(4), draw_rater(1, "m")
    results = run(tmp_path, people, [rater])
    joined = people.merge(rater[["item_id", "rating"]], on="item_id").dropna()
    joined["error"] = (joined["rating"] - joined["label"].astype(float)).abs()

    pooled = read_value(results, "mae", comparison="rater_annotator", with_whom="each annotator")
    assert pooled == pytest.approx(joined["error"].mean())
    for who, rows in joined.groupby("annotator_id"):
        found = read_value(results, "mae", comparison="rater_annotator", with_whom=who)
        assert found == pytest.approx(rows["error"].mean())


def test_two_raters_and_two_annotators(tmp_path: Path) -> None:
    people, raters = draw_people(5), [draw_rater(2, "m"), draw_rater(4, "n")]
    results = run(tmp_path, people, raters)
    wide = people.astype({"label": float}).pivot(index="item_id", columns="annotator_id", values="label")
    both = raters[0].merge(raters[1], on="item_id").dropna(subset=["rating_x", "rating_y"])

    found = read_value(results, "spearman", comparison="rater_rater", who="m", with_whom="n")
    assert found == pytest.approx(stats.spearmanr(both["rating_x"], both["rating_y"])[0])
    for one, two in combinations("abcd", 2):
        pair = wide[[one, two]].dropna()
        found = read_value(results, "kendall_tau_b", comparison="human_human", who=one, with_whom=two)
        assert found == pytest.approx(stats.kendalltau(pair[one], pair[two])[0])


def test_differences_of_two_raters_are_of_the_units_that_both_rated(tmp_path: Path) -> None:
    people, raters = draw_people(6), [draw_rater(2, "m"), draw_rater(4, "n")]
    results = run(tmp_path, people, raters, target={"rule": "median", "max_sd": None})
    targets = pd.Series(find_targets(people, {"rule": "median", "max_sd": None}), name="target")
    both = raters[0].merge(raters[1], on="item_id").dropna(subset=["rating_x", "rating_y"]).join(targets, "item_id")
    both = both.dropna(subset=["target"])

    expected = ((both["rating_x"] - both["target"]) ** 2).mean() - ((both["rating_y"] - both["target"]) ** 2).mean()
    row = select(results, comparison="difference", statistic="mse", who="m", with_whom="n")[0]
    assert row["value"] == pytest.approx(expected)
    assert row["num_compared"] == len(both)


def test_alpha_and_iccs_of_the_raters_as_a_panel(tmp_path: Path) -> None:
    import krippendorff

    raters = [draw_rater(seed, name) for seed, name in ((1, "m"), (3, "n"), (5, "o"))]
    results = run(tmp_path, draw_people(7), raters)
    ratings = np.stack([frame["rating"].to_numpy(dtype=float) for frame in raters])

    found = read_value(results, "alpha_ordinal", comparison="rater_rater", who="all raters")
    assert found == pytest.approx(krippendorff.alpha(ratings, level_of_measurement="ordinal"))
    whole = ratings[:, ~np.isnan(ratings).any(axis=0)].T
    found = read_value(results, "icc_3_1", comparison="rater_rater", who="all raters")
    assert found == pytest.approx(compute_icc(whole))


def rate_twice(seed: int, missing: float = 0.1) -> list[pd.DataFrame]:
    """Draw three raters before and after: m, n, o and m2, n2, o2."""
    names = ("m", "n", "o", "m2", "n2", "o2")
    return [draw_rater(seed + 2 * place, name, missing=missing) for place, name in enumerate(names)]


PANEL = [{"before": name, "after": f"{name}2"} for name in "mno"]


def test_raters_with_each_other_before_and_after_are_of_the_units_that_all_of_them_rated(tmp_path: Path) -> None:
    import krippendorff

    raters = rate_twice(1)
    results = run(tmp_path, draw_people(7), [*raters, draw_rater(21, "alone")], panel=PANEL)
    ratings = np.stack([frame["rating"].to_numpy(dtype=float) for frame in raters])
    whole = ratings[:, ~np.isnan(ratings).any(axis=0)]
    assert 10 < whole.shape[1] < 35

    times = (("raters_before", "m, n, o", whole[:3]), ("raters_after", "m2, n2, o2", whole[3:]))
    found = {}
    for comparison, who, own in times:
        about = {"comparison": comparison, "who": who}
        found[comparison] = (compute_icc(own.T), krippendorff.alpha(own, level_of_measurement="ordinal"))
        for statistic, value in zip(("icc_3_1", "alpha_ordinal"), found[comparison], strict=True):
            assert read_value(results, statistic, **about) == pytest.approx(value)
            (row,) = select(results, statistic=statistic, **about)
            assert row["num_compared"] == whole.shape[1]
    change = {"comparison": "raters_change", "who": "m2, n2, o2", "with_whom": "m, n, o"}
    for place, statistic in enumerate(("icc_3_1", "alpha_ordinal")):
        apart = found["raters_after"][place] - found["raters_before"][place]
        assert read_value(results, statistic, **change) == pytest.approx(apart)


def test_the_change_of_raters_with_each_other_is_paired(tmp_path: Path) -> None:
    raters = rate_twice(1)[:3]
    twins = [frame.assign(rater_id=f"{name}2") for frame, name in zip(raters, "mno", strict=True)]
    tables = [{"paths": [write_table(tmp_path / "people.parquet", draw_people(7))], "kind": "human"}]
    for number, frame in enumerate([*raters, *twins]):
        write_table(tmp_path / f"run{number}/annotations/shard-00000.parquet", frame)
    runs = [str(tmp_path / f"run{number}") for number in range(6)]
    config = {"tables": tables, "raters": runs, "scale": SCALE, "intervals": {"replicates": 50}, "panel": PANEL}
    results, text = measure_here(tmp_path, **config), report_here(tmp_path, **config)

    for statistic in ("icc_3_1", "alpha_ordinal"):
        (before,) = select(results, comparison="raters_before", statistic=statistic)
        (change,) = select(results, comparison="raters_change", statistic=statistic)
        assert before["low"] < before["high"]
        assert (change["value"], change["low"], change["high"]) == (0.0, 0.0, 0.0)
    lines = [line for line in text.splitlines() if line.startswith(("| before |", "| after |", "| change |"))]
    assert [line.split(" | ")[1] for line in lines] == ["m, n, o", "m2, n2, o2", "m2, n2, o2"]
    assert "+0.000 [+0.000, +0.000]" in lines[2]


def test_raters_that_no_unit_has_in_common_have_no_change_and_a_reason(tmp_path: Path) -> None:
    raters = rate_twice(1)
    raters[0]["rating"], raters[0]["label"] = np.nan, None
    results = run(tmp_path, draw_people(7), raters, panel=PANEL)

    for comparison in ("raters_before", "raters_after", "raters_change"):
        (row,) = select(results, comparison=comparison, statistic="alpha_ordinal")
        assert (row["value"], row["undefined"]) == (None, "no unit was rated by all")


def test_a_pair_that_may_be_left_out_is_where_one_of_its_raters_did_not_rate(tmp_path: Path) -> None:
    optional = [pair | {"optional": True} for pair in PANEL]
    results = run(tmp_path, draw_people(7), rate_twice(1)[:5], panel=optional)

    assert {row["who"] for row in select(results, comparison="raters_after")} == {"m2, n2"}
    # Two raters are a panel, one is none.
    results = run(tmp_path, draw_people(7), rate_twice(1)[:4], panel=optional)
    assert not select(results, comparison="raters_after")
    with pytest.raises(UserError, match=r"panel: there are no raters \['o2'\]; there are \['m', 'm2'"):
        run(tmp_path, draw_people(7), rate_twice(1)[:5], panel=PANEL)


def test_a_nominal_scale_has_no_iccs_since_its_levels_are_no_numbers(tmp_path: Path) -> None:
    """Complete panels had them, of the places of the levels, and report.md showed them."""
    config = {
        "tables": [{"paths": [write_table(tmp_path / "people.parquet", draw_people(1))], "kind": "human"}],
        "raters": [str(tmp_path / "m"), str(tmp_path / "n")],
        "scale": {**SCALE, "type": "nominal"},
        "target": {"rule": "majority"},
        "intervals": {"replicates": 0},
    }
    for seed, name in ((2, "m"), (4, "n")):
        write_table(tmp_path / name / "annotations/shard-00000.parquet", draw_rater(seed, name))

    results = measure_here(tmp_path, **config)

    for comparison in ("human_human", "rater_rater"):
        statistics = {row["statistic"] for row in select(results, comparison=comparison)}
        assert "alpha_nominal" in statistics
        assert not {"icc_2_1", "icc_3_1"} & statistics
    assert "ICC" not in report_here(tmp_path, **config)


@pytest.mark.parametrize("nominal", [False, True])
def test_the_alternative_annotator_test_by_brute_force(tmp_path: Path, nominal: bool) -> None:
    people, rater = draw_people(8, items=120), draw_rater(1, "m", items=120)
    scale = {**SCALE, "type": "nominal"} if nominal else SCALE
    tables = [{"paths": [write_table(tmp_path / "people.parquet", people)], "kind": "human"}]
    write_table(tmp_path / "run/annotations/shard-00000.parquet", rater)
    results = measure_here(
        tmp_path,
        tables=tables,
        raters=[str(tmp_path / "run")],
        scale=scale,
        target={"rule": "majority"},
        intervals={"replicates": 0},
    )
    ratings = dict(zip(rater["item_id"], rater["rating"], strict=True))
    labels = {
        item: dict(zip(rows["annotator_id"], rows["label"].astype(float), strict=True))
        for item, rows in people.groupby("item_id")
    }

    def score(value: float, others: np.ndarray) -> float:
        return float((value == others).mean()) if nominal else -float(np.sqrt(((value - others) ** 2).mean()))

    advantages, p_values = {}, {}
    for who in "abcd":
        d, w = [], []
        for item, said in labels.items():
            others = np.array([label for other, label in said.items() if other != who])
            if who in said and len(others) and not np.isnan(ratings[item]):
                person, model = score(said[who], others), score(ratings[item], others)
                w.append(model >= person or np.isclose(model, person))
                d.append(float(person >= model or np.isclose(model, person)) - float(w[-1]))
        advantages[who] = np.mean(w)
        p_values[who] = stats.ttest_1samp(d, 0.2, alternative="less").pvalue
    rows = {
        row["with_whom"]: row
        for row in select(results, comparison="alternative_test", statistic="advantage_probability")
    }
    for who in "abcd":
        assert rows[who]["value"] == pytest.approx(advantages[who])
        assert rows[who]["p_value"] == pytest.approx(p_values[who])
        adjusted = stats.false_discovery_control(list(p_values.values()), method="by")
        assert rows[who]["p_adjusted"] == pytest.approx(adjusted["abcd".index(who)])
    won = read_value(results, "winning_rate", comparison="alternative_test")
    assert won == np.mean(adjusted <= 0.05)


def test_slices_hold_the_units_of_a_label_and_of_a_column(tmp_path: Path) -> None:
    people = draw_people(9)
    people["genre"] = ["poem" if int(item.split()[1]) % 3 else "tale" for item in people["item_id"]]
    rater = draw_rater(2, "m")
    rule = {"rule": "median", "max_sd": None}
    results = run(tmp_path, people, [rater], target=rule, slices={"columns": ["genre"]})
    targets = find_targets(people, rule)
    ratings = rater.set_index("item_id")["rating"]

    def expect(items: list[str]) -> float:
        errors = [ratings[item] - targets[item] for item in items if not np.isnan(ratings[item])]
        return float(np.mean(errors))

    for level in range(1, 6):
        items = [item for item, target in targets.items() if target == level]
        found = read_value(results, "bias", comparison="rater_target", slice_by="label", slice=str(level))
        assert found == pytest.approx(expect(items))
    for genre in ("poem", "tale"):
        items = [item for item in targets if (int(item.split()[1]) % 3 > 0) == (genre == "poem")]
        found = read_value(results, "bias", comparison="rater_target", slice_by="genre", slice=genre)
        assert found == pytest.approx(expect(items))
        row = select(results, comparison="rater_target", slice_by="genre", slice=genre)[0]
        assert row["num_units"] == len(items)


def test_a_scale_of_words_is_counted_by_position(tmp_path: Path) -> None:
    people = draw_people(11)
    people["label"] = people["label"].map(dict(zip("12345", ["awful", "bad", "fair", "good", "great"], strict=True)))
    scale = {"values": ["awful", "bad", "fair", "good", "great"], "type": "ordinal"}
    tables = [{"paths": [write_table(tmp_path / "words.parquet", people)], "kind": "human"}]
    words = measure_here(tmp_path, tables=tables, scale=scale, intervals={"replicates": 0})
    numbers = run(tmp_path, draw_people(11), [])

    assert words.rows
    assert [row["value"] for row in words.rows if row["slice_by"] == ""] == [
        row["value"] for row in numbers.rows if row["slice_by"] == ""
    ]
    assert Scale(**scale).numbers == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", ["human", "rater"])
@pytest.mark.parametrize(
    ("values", "labels", "levels"),
    [
        # Coded labels of words are no positions, whatever their type: 1 was read as mild.
        (["none", "mild", "severe"], [0, 1, 2, 3], [OFF_SCALE] * 4),
        (["none", "mild", "severe"], [1.0, 0.5, None], [OFF_SCALE, OFF_SCALE, NO_RATING]),
        (["none", "mild", "severe"], ["1", "1.5", "mild", " Severe", None], [OFF_SCALE, OFF_SCALE, 1, 2, NO_RATING]),
        # A level that is a number is found by it, and others are still no positions.
        (["1", "2", "many"], [1, 2, 0], [0, 1, OFF_SCALE]),
        (["1", "2", "many"], [1.0, 1.5, None], [0, OFF_SCALE, NO_RATING]),
        # 3 + 150: one and a half steps above the lowest level, on the grid after the three levels.
        (["0", "5", "9"], [9, 0], [2, 0]),
        (["0", "4", "8"], ["6.0", "4.0"], [3 + 150, 1]),
    ],
)
def test_labels_are_read_as_prepare_corpus_reads_them(
    kind: Literal["human", "rater"], values: list[str], labels: list[Any], levels: list[int]
) -> None:
    rows = range(len(labels))
    table = pa.table({"item_id": [f"item {n}" for n in rows], "who": ["a"] * len(labels), "label": labels})
    source = Source("table", kind, who="who", dimension=None)
    survey = Survey()
    admitted = admit_rows(table, Origin(source, 0), IntakeRules(ScaleConfig(values=tuple(values))), survey)

    found = dict(zip(admitted["item_id"].to_pylist(), admitted["code"].to_pylist(), strict=True))
    if kind == "rater":
        # A rater's row without a usable rating lowers its coverage.
        assert found == {f"item {n}": max(level, NO_RATING) for n, level in enumerate(levels)}
    else:
        # A label of a person is a level: what lies between two is left out, too.
        assert found == {f"item {n}": level for n, level in enumerate(levels) if 0 <= level < len(values)}
    assert survey.unusable["off_scale"] == levels.count(OFF_SCALE)


def test_ratings_of_a_run_on_a_scale_of_words_are_positions() -> None:
    table = pa.table({"item_id": ["x", "y"], "rater_id": ["m"] * 2, "label": ["mild", "severe"], "rating": [1.0, 1.5]})
    source = Source("run", "rater", who="rater_id", rating="rating", dimension=None)
    rules = IntakeRules(ScaleConfig(values=("none", "mild", "severe")))

    # 3 + 150: one and a half steps above the lowest level, on the grid after the three levels.
    assert admit_rows(table, Origin(source, 0), rules, Survey())["code"].to_pylist() == [1, 3 + 150]
