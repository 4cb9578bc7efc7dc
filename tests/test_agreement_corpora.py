"""Runs of ratings beside a prepared corpus: of this one or of another, and where targets are kept per annotator."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from judgetrace.agreement.config import MeasureAgreementConfig
from judgetrace.agreement.sources import find_inputs
from judgetrace.asking import AskedUnit
from judgetrace.config import UserError
from judgetrace.corpus import name_shard, read_finished
from judgetrace.engine import Prompt
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import RunInputs, identify_corpus, read_units
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.schema import RATINGS, unit_key
from judgetrace.storage import Folder, encode_parquet
from tests.agreement_runs import (
    draw_people,
    draw_rater,
    measure_here,
    prepare_here,
    read_value,
    report_here,
    select,
    write_table,
)


def write_run(folder: Path, corpus: str) -> str:
    """Write a rater's ratings of a corpus, with the files by which a run tells what it rated."""
    write_table(folder / "annotations/shard-00000.parquet", draw_rater(1, "m"))
    manifest = read_finished(Folder(corpus))[0]
    run = RunFolder(Folder(str(folder)))
    run.claim(0.0, {"scale": manifest["config"]["scale"]})
    run.check_contract({"corpus": identify_corpus(manifest), "rater_id": "m"})
    return str(folder)


def recalibrate(folder: Path, ratings: str) -> str:
    """Write what recalibrate_rater leaves of a run: no driver, and the name of the run."""
    write_table(folder / "annotations/shard-00000.parquet", draw_rater(1, "m-isotonic"))
    contract = {"corpus": Folder(ratings).read_json("contract.json")["corpus"], "rater_id": "m-isotonic"}
    run = RunFolder(Folder(str(folder)))
    run.check_contract(contract)
    run.folder.write_json("manifest.json", {"config": {"ratings": ratings}, "contract": contract})
    return str(folder)


def rate(folder: Path, corpus: str, answers: dict[str, str]) -> str:
    """Rate the items of a corpus with the given answers, as rate_items does; returns the run's folder."""
    inputs, decider = RunInputs(corpus, None, None), RatingDecider("m", DecodingConfig())
    scale = inputs.scale.of("")
    assert scale is not None
    for number, _ in inputs.shards:
        rows = []
        for unit in read_units(inputs.corpus, number, inputs.num_buckets, decider).to_pylist():
            draw = Draw(0, 0, "rated", answers[unit["item_id"]])
            asked = AskedUnit(unit_key(unit), (), (), scale, Prompt(10))
            rows.append(decider.decide(asked, UnitSampling(decider.sampling, [draw], forget_failed=False)))
        table = pa.Table.from_pylist(rows, schema=RATINGS)
        Folder(str(folder)).write_atomic(f"annotations/{name_shard(number)}", encode_parquet(table))
    return str(folder)


def test_a_rating_is_about_its_item_where_targets_are_kept_per_annotator(tmp_path: Path) -> None:
    """It was compared with the first annotator alone, whose unit the rater happened to be asked about."""
    levels = {f"item {n:02d}": 1 + n % 4 for n in range(40)}
    # The rater says what a and b say; c is always one level above.
    people = pd.DataFrame(
        {"item_id": item, "annotator_id": who, "label": str(level + (who == "c"))}
        for item, level in levels.items()
        for who in "abc"
    )
    rules = {"target": {"rule": "per_annotator"}, "shards": {"units_per_shard": 7}}
    corpus = prepare_here(tmp_path, people, **rules)
    run = rate(tmp_path / "run", corpus, {item: str(level) for item, level in levels.items()})

    results = measure_here(tmp_path, corpus=corpus, raters=[run], intervals={"replicates": 0})

    # Without a common target it is what most say; of b and c the others' is the lower level, which b and the rater say.
    for comparison, whom, num, exact in (
        ("rater_target", "target label", 40, 1.0),
        ("rater_rest", "the other annotators", 120, 1.0),
        ("ceiling_beside", "the other annotators", 120, 2 / 3),
        ("rater_annotator", "each annotator", 120, 2 / 3),
    ):
        (row,) = select(results, comparison=comparison, with_whom=whom, who="m", statistic="exact_agreement")
        assert (row["num_compared"], row["coverage"], row["value"]) == (num, 1.0, pytest.approx(exact))
    single = {who: {"comparison": "rater_annotator", "with_whom": who} for who in "abc"}
    bias = {who: read_value(results, "bias", **about) for who, about in single.items()}
    assert bias == {"a": 0.0, "b": 0.0, "c": -1.0}
    # As close to the others as a and b are, closer than c.
    test = {"comparison": "alternative_test", "who": "m", "with_whom": "all annotators"}
    assert read_value(results, "winning_rate", **test) == 1.0
    assert read_value(results, "advantage_probability", **test) == 1.0


def test_a_run_over_another_corpus_of_the_same_scale_is_told_and_one_of_this_corpus_is_not(tmp_path: Path) -> None:
    """Nothing was said: a rater of other items, or of splits that it was tuned on, passed for one of this corpus."""
    people = draw_people(1)
    corpus = prepare_here(tmp_path / "median", people)
    other = prepare_here(tmp_path / "majority", people, target={"rule": "majority"})
    own_run, other_run = write_run(tmp_path / "own", corpus), write_run(tmp_path / "other", other)
    runs = [own_run, recalibrate(tmp_path / "own-isotonic", own_run), other_run]

    text = report_here(tmp_path, corpus=corpus, raters=runs, intervals={"replicates": 0})

    told = [line for line in text.splitlines() if "rated another corpus" in line]
    assert [line.split()[1] for line in told] == [other_run]


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        ({"values": [1, 2, 3, 4, 5, 6, 7]}, "found: 1, 2, 3, 4, 5, 6, 7 (ordinal); expected: 1, 2, 3, 4, 5 (ordinal)"),
        ({"values": [1, 2, 3, 4, 5], "type": "interval"}, "found: 1, 2, 3, 4, 5 (interval)"),
    ],
)
def test_a_run_on_another_scale_is_refused(tmp_path: Path, scale: dict[str, Any], complaint: str) -> None:
    """Its ratings were read as those of this scale, where they happened to be on it."""
    corpus = prepare_here(tmp_path / "five", draw_people(1))
    run = write_run(tmp_path / "run", prepare_here(tmp_path / "other", draw_people(1), scale=scale))

    for named in (run, recalibrate(tmp_path / "isotonic", run)):
        with pytest.raises(
            UserError, match=f"raters: {named}: rated another corpus than {corpus}, on another scale"
        ) as e:
            find_inputs(MeasureAgreementConfig(output=str(tmp_path / "out"), corpus=corpus, raters=[named]))
        assert complaint in str(e.value)


def test_dimensions_that_only_one_of_two_corpora_has_are_no_other_scale(tmp_path: Path) -> None:
    people = draw_people(1).assign(dimension="tone")
    columns = {name: name for name in ("item_id", "text", "annotator_id", "label", "dimension")}
    one, two, three = (
        prepare_here(tmp_path / name, people, columns=columns, scale={"dimensions": dimensions})
        for name, dimensions in (
            ("one", {"tone": {"values": [1, 2, 3, 4, 5]}}),
            ("two", {"tone": {"values": [1, 2, 3, 4, 5]}, "plot": {"values": ["No", "Yes"]}}),
            ("three", {"tone": {"values": [1, 2, 3, 4, 5], "type": "interval"}}),
        )
    )

    def find(run: str) -> tuple[str, ...]:
        return find_inputs(MeasureAgreementConfig(output=str(tmp_path / "out"), corpus=one, raters=[run])).foreign_runs

    run = write_run(tmp_path / "run", two)
    assert find(run) == (run,)
    with pytest.raises(UserError, match="on another scale of 'tone'"):
        find(write_run(tmp_path / "other", three))


@pytest.mark.parametrize(("corpus_group", "over"), [(None, "auto"), (None, "item"), ("author", "auto")])
def test_splits_are_those_of_the_corpus_whatever_a_table_calls_a_group(
    tmp_path: Path, corpus_group: str | None, over: str
) -> None:
    """A table's group was hashed in place of what the corpus was split by, so that `test` was mostly train items."""
    people = draw_people(1).assign(author=lambda rows: "author " + rows["item_id"].str[-1])
    columns = {name: name for name in ("item_id", "text", "annotator_id", "label")} | {"group": corpus_group}
    shares = {"train": 0.4, "validation": 0.2, "test": 0.4}
    corpus = prepare_here(tmp_path, people, columns=columns, target={"rule": "rounded_mean"}, split=shares)
    splits = Folder(corpus).read_table(f"items/{name_shard(0)}").to_pandas()["split"].value_counts().to_dict()
    assert min(splits.values()) > 1
    more = people.assign(page="page " + people["item_id"].str[5], annotator_id="e").drop_duplicates("item_id")
    table = {"paths": [write_table(tmp_path / "more.parquet", more)], "kind": "human", "group": "page"}
    given: dict[str, Any] = {"corpus": corpus, "tables": [table], "intervals": {"replicates": 0, "over": over}}

    def count_units(slice_by: str, columns: tuple[str, ...] = (), **config: Any) -> dict[str, int]:
        results = measure_here(tmp_path, **given, slices={"label": False, "columns": columns}, **config)
        return {row["slice"]: row["num_units"] for row in select(results, slice_by=slice_by)}

    assert count_units("split", columns=("split",)) == splits
    for split, count in splits.items():
        assert count_units("", split=split) == {"": count}, split


def write_some(folder: Path, rater: str, dimensions: list[str], contract: dict[str, Any], seed: int = 1) -> str:
    """Write a run of ratings of some dimensions, with what its contract says of them."""
    rows = pd.concat([draw_rater(seed + 2 * n, rater).assign(dimension=name) for n, name in enumerate(dimensions)])
    write_table(folder / "annotations/shard-00000.parquet", rows)
    Folder(str(folder)).write_json("contract.json", {"rater_id": rater, **contract})
    return str(folder)


def test_a_rater_has_no_figures_and_no_warning_in_dimensions_that_its_run_was_not_to_rate(tmp_path: Path) -> None:
    """It had 0% coverage in each of them, and a warning: 26 in a study of 14 tests that refined one of them."""
    people = pd.concat([draw_people(n).assign(dimension=name) for n, name in enumerate(("plot", "tone"))])
    columns = {name: name for name in ("item_id", "text", "annotator_id", "label", "dimension")}
    corpus = prepare_here(tmp_path, people, columns=columns, guideline={"path": str(tmp_path / "guideline.md")})
    both, some = ["plot", "tone"], {"dimensions": ["tone"]}
    runs = [
        write_some(tmp_path / "m", "m", both, {"dimensions": None}),
        write_some(tmp_path / "n", "n", both, {}, seed=11),
        write_some(tmp_path / "m-refined", "m-refined", ["tone"], some),
        write_some(tmp_path / "isotonic", "isotonic", ["tone"], {"job": "recalibrate_rater"}),
    ]
    inputs = {"contract": {"rater_id": "m-refined", **some}}
    Folder(runs[-1]).write_json("manifest.json", {"inputs": inputs, "config": {}})
    config = {"corpus": corpus, "raters": runs, "intervals": {"replicates": 0}}

    results, text = measure_here(tmp_path, **config), report_here(tmp_path, **config)

    def list_raters(dimension: str, comparison: str) -> set[str]:
        return {row["who"] for row in select(results, dimension=dimension, comparison=comparison)}

    for comparison in ("rater_target", "rater_rest", "rater_annotator", "alternative_test"):
        assert list_raters("plot", comparison) == {"m", "n"}
        assert list_raters("tone", comparison) == {"m", "n", "m-refined", "isotonic"}
    # The panel is of those who were asked: it had no unit that all raters rated.
    panel = {"comparison": "rater_rater", "who": "all raters", "dimension": "plot", "statistic": "icc_3_1"}
    assert select(results, **panel)[0]["num_compared"] > 20
    assert " rated 0.0% of" not in text
    plot = text[text.index("## plot") : text.index("## tone")]
    assert "m-refined" not in plot
    assert "isotonic" not in plot
    assert all("| m |" in line or "| n |" in line for line in text.splitlines() if line.startswith("| plot | "))


def test_a_table_of_a_rater_that_tells_nothing_of_a_dimension_lowers_its_coverage_there(tmp_path: Path) -> None:
    people = pd.concat([draw_people(n).assign(dimension=name) for n, name in enumerate(("plot", "tone"))])
    tables = [
        {"paths": [write_table(tmp_path / f"{name}.parquet", rows)], "kind": kind, "dimension": "dimension", **more}
        for name, kind, rows, more in (
            ("people", "human", people, {}),
            ("rater", "rater", draw_rater(1, "m").assign(dimension="tone"), {"annotator_id": "rater_id"}),
        )
    ]
    results = measure_here(tmp_path, tables=tables, scale={"values": [1, 2, 3, 4, 5]}, intervals={"replicates": 0})

    row = select(results, dimension="plot", comparison="rater_target", who="m", statistic="mse")[0]
    assert (row["value"], row["coverage"]) == (None, 0.0)
