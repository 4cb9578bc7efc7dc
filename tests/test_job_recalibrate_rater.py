"""recalibrate_rater as a whole: a corpus, a run of rate_items with a scripted engine, the job, agreement on both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs import measure_agreement, rate_items
from jobs.recalibrate_rater import main
from judgetrace.config import UserError
from judgetrace.schema import RATER_ANNOTATIONS
from judgetrace.storage import Folder
from tests.test_job_infer_traces import NUM_UNITS, prepare
from tests.test_job_rate_items import write_rating_config
from tests.trace_tables import read_published

SPLIT = ("--split.train=0.2", "--split.validation=0.5", "--split.test=0.3")
DECODING = "--decoding.samples=2"


def rate(folder: Path, corpus: str, run: str, *more: str) -> str:
    """Rate a corpus; two fifths of the draws give no rating."""
    assert rate_items.main([write_rating_config(folder, corpus, run, unparsed_rate=0.4), DECODING, *more]) == 0
    return run


def write_recalibration(folder: Path, corpus: str, ratings: str, run: str) -> str:
    config = folder / "recalibration.toml"
    config.write_text(f'corpus = "{corpus}"\nratings = "{ratings}"\nrun = "{run}"\nmin_items = 20\n')
    return str(config)


def read_mse(folder: Path, corpus: str, runs: list[str], split: str) -> dict[str, float]:
    """Measure agreement with the targets of a split; returns each rater's MSE."""
    output, config = str(folder / f"agreement-{split}"), folder / "agreement.toml"
    config.write_text(f'output = "{output}"\ncorpus = "{corpus}"\nraters = {json.dumps(runs)}\nsplit = "{split}"\n')
    assert measure_agreement.main([str(config), "--intervals.replicates=0"]) == 0
    rows = Folder(output).read_table("agreement.parquet").to_pylist()
    wanted = {"comparison": "rater_target", "statistic": "mse", "slice_by": "", "population": "all"}
    return {row["who"]: row["value"] for row in rows if wanted.items() <= row.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(folder, str(folder / "corpus"), *SPLIT)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory, corpus) -> str:
    folder = tmp_path_factory.mktemp("ratings")
    return rate(folder, corpus, str(folder / "base-run"))


@pytest.mark.slow
def test_a_recalibrated_rater_is_nearer_to_the_targets_where_it_was_fitted(tmp_path, corpus, ratings, capsys):
    run = str(tmp_path / "isotonic-run")
    config = write_recalibration(tmp_path, corpus, ratings, run)
    assert main([config, "--splits=test,validation"]) == 0
    before = {row["item_id"]: row for row in read_published(Folder(ratings), "annotations")}
    rows = read_published(Folder(run), "annotations")
    assert {row["item_id"] for row in rows} == {i for i, row in before.items() if row["split"] != "train"}
    unrated = [row for row in rows if row["outcome"] != "rated"]
    assert unrated == [before[row["item_id"]] | {"rater_id": "scripted-isotonic"} for row in unrated]
    assert unrated
    rated = [row for row in rows if row["outcome"] == "rated"]
    assert {(row["rater_id"], row["spread"], len(row["draws"])) for row in rated} == {("scripted-isotonic", None, 0)}
    pairs = sorted((before[row["item_id"]]["rating"], row["rating"]) for row in rated)
    assert (np.diff([after for _, after in pairs]) >= 0).all()
    manifest = Folder(run).read_json("manifest.json")
    fit = [row for row in before.values() if row["split"] == "validation" and row["outcome"] == "rated"]
    assert manifest["fit"][""]["items"] == len(fit)
    assert manifest["inputs"]["contract"]["rater_id"] == "scripted"
    assert manifest["outcomes"] == {"rated": len(rated), "unrated": len(unrated)}
    for name in (Folder(run) / "annotations").list_files():
        assert (Folder(run) / "annotations").read_table(name).schema.remove_metadata() == RATER_ANNOTATIONS

    mse = read_mse(tmp_path, corpus, [ratings, run], "validation")
    assert set(mse) == {"scripted", "scripted-isotonic"}
    assert mse["scripted-isotonic"] < mse["scripted"]
    targets = {row["item_id"]: float(row["target_label"]) for row in rated if row["split"] == "validation"}
    after = {row["item_id"]: row["rating"] for row in rated}
    # measure_agreement rounds to 1/100 of a step.
    by_hand = np.mean([(after[item] - target) ** 2 for item, target in targets.items()])
    assert mse["scripted-isotonic"] == pytest.approx(by_hand, abs=0.03)
    assert set(read_mse(tmp_path, corpus, [ratings, run], "test")) == set(mse)

    written = {name: Folder(run).read_bytes(name) for name in Folder(run).list_files(recursive=True)}
    capsys.readouterr()
    assert main([config, "--splits=validation,test"]) == 0
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert {name: Folder(run).read_bytes(name) for name in Folder(run).list_files(recursive=True)} == written
    with pytest.raises(UserError, match=r"splits: was \['validation', 'test'\], is now \['train', 'test'\]"):
        main([config])
    # A second call of rate_items has nothing to do; the recalibrated run is still of the same ratings.
    assert rate(tmp_path, corpus, ratings) == ratings
    assert main([config, "--splits=validation,test"]) == 0


@pytest.mark.slow
def test_a_run_on_s3_that_was_killed_before_its_manifest_is_written_again(tmp_path, s3, corpus, ratings):
    run = f"{s3}/{tmp_path.name}/run"
    config = write_recalibration(tmp_path, corpus, ratings, run)
    assert main([config, "--rater_id=calm"]) == 0
    rows = read_published(Folder(run), "annotations")
    assert {row["rater_id"] for row in rows} == {"calm"}
    # By default everything but the fit split.
    assert {row["split"] for row in rows} == {"train", "test"}
    manifest = Folder(run).read_json("manifest.json")
    Folder(run).delete(["manifest.json", "annotations/shard-00000.parquet"])
    assert main([config, "--rater_id=calm"]) == 0
    assert read_published(Folder(run), "annotations") == rows
    assert Folder(run).read_json("manifest.json") == manifest


@pytest.mark.slow
def test_too_few_items_bind_the_folder_to_nothing(tmp_path, corpus, ratings):
    run = str(tmp_path / "run")
    config = write_recalibration(tmp_path, corpus, ratings, run)
    with pytest.raises(UserError, match=r"too few items to fit on: '' \d+\nexpected: min_items = 500"):
        main([config, "--min_items=500"])
    assert not Path(run).exists()
    assert main([config]) == 0


@pytest.mark.slow
def test_a_dry_run_checks_the_input_and_writes_nothing(tmp_path, corpus, ratings, capsys):
    run = str(tmp_path / "run")
    assert main([write_recalibration(tmp_path, corpus, ratings, run), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert '"min_items": 20' in told
    assert "scripted-isotonic on train, test" in told
    assert not Path(run).exists()


@pytest.mark.slow
def test_what_cannot_be_recalibrated_is_refused_before_a_cluster_is_asked_for(tmp_path, corpus, ratings):
    def refuse(message: str, *more: str, corpus: str = corpus, ratings: str = ratings) -> None:
        with pytest.raises(UserError, match=message):
            main([write_recalibration(tmp_path, corpus, ratings, str(tmp_path / "run")), *more])
        assert not (tmp_path / "run").exists()

    refuse("no finished corpus there", corpus=str(tmp_path / "nowhere"))
    refuse("no complete run there .*; run rate_items first", ratings=str(tmp_path / "nowhere"))
    refuse("rater_id = scripted: is the rater's own", "--rater_id=scripted")
    pilot = str(tmp_path / "pilot")
    rate(tmp_path, corpus, pilot, "--limit=10")
    refuse("no complete run there .*; run the same command of rate_items again", ratings=pilot)
    only_test = rate(tmp_path, corpus, str(tmp_path / "only-test"), "--splits=test")
    refuse(r"rated the splits \['test'\] alone, not validation", ratings=only_test)
    refuse("nothing but the fit split test", "--fit_split=test", ratings=only_test)
    other = prepare(tmp_path, str(tmp_path / "other"), *SPLIT, num=NUM_UNITS - 1)
    refuse("rates another corpus", corpus=other)
    nominal = prepare(tmp_path, str(tmp_path / "nominal"), *SPLIT, "--scale.type=nominal")
    refuse("is nominal: it has no order", corpus=nominal)
    refuse("is a run of recalibrate_rater; expected one of rate_items", ratings=_recalibrate(tmp_path, corpus, ratings))


def _recalibrate(folder: Path, corpus: str, ratings: str) -> str:
    run = str(folder / "isotonic")
    assert main([write_recalibration(folder, corpus, ratings, run)]) == 0
    return run


def test_the_raters_own_folder_is_no_place_for_the_recalibrated_one(tmp_path):
    with pytest.raises(UserError, match="is the folder of ratings itself"):
        main([write_recalibration(tmp_path, "corpus", "runs/a", "runs/a/")])


def test_an_unknown_key_is_an_error_that_names_the_known_ones(tmp_path):
    config = Path(write_recalibration(tmp_path, "corpus", "runs/a", "runs/b"))
    config.write_text(config.read_text().replace("min_items", "min_itmes"))
    with pytest.raises(UserError, match=r"min_itmes: unknown key; known here: .*min_items"):
        main([str(config)])
