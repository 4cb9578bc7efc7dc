"""rate_items as a whole: the real job on Ray, with a scripted engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from jobs import infer_traces, prepare_corpus, rate_items, status
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.storage import Folder
from tests.test_job_infer_traces import NUM_UNITS, prepare, write_config
from tests.trace_tables import read_published

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def corpus(shared_corpus) -> str:
    return shared_corpus


def write_rating_config(folder: Path, corpus: str, run: str, **script: object) -> str:
    """The config of infer_traces with the section `decoding` in place of `sampling`, and no text kept."""
    config = Path(write_config(folder, corpus, run, **script))
    text = config.read_text().replace("[sampling]\nmax_draws = 8", "[decoding]\nsamples = 3")
    text = text.replace("keep_rejected_text = true\n", "")
    config.write_text('rater_id = "scripted"\n' + text)
    return str(config)


def read_rows(run: str) -> list[dict]:
    return read_published(Folder(run), "annotations")


def test_every_item_gets_one_annotation_and_a_second_run_has_nothing_to_do(tmp_path, corpus, capsys):
    run = str(tmp_path / "run")
    config = write_rating_config(tmp_path, corpus, run)
    assert rate_items.main([config]) == 0
    rows = read_rows(run)
    assert max(Counter(row["item_id"] for row in rows).values()) == 1
    assert len(rows) == NUM_UNITS
    for row in rows:
        numbers = [int(draw["rating"]) for draw in row["draws"]]
        assert (row["outcome"], row["rater_id"], len(numbers)) == ("rated", "scripted", 3)
        assert row["rating"] == pytest.approx(sum(numbers) / 3)
        assert row["target_label"] in "12345"
    manifest = Folder(run).read_json("manifest.json")
    assert (manifest["job"], manifest["outcomes"]) == ("rate_items", {"rated": NUM_UNITS})
    capsys.readouterr()
    assert rate_items.main([config]) == 0
    assert "; 0 shards to go" in capsys.readouterr().out
    assert read_rows(run) == rows


def test_expected_ratings_are_read_off_the_levels_probabilities(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_rating_config(tmp_path, corpus, run)
    changes = ["--decoding.rating=expected", "--decoding.samples=1", "--thinking.format=none"]
    assert rate_items.main([config, *changes]) == 0
    for row in read_rows(run):
        (draw,) = row["draws"]
        favourite = int(draw["rating"])
        # 0.5 on the favourite, 0.25 / 4 on each other level; made to sum to 1: 2/3 and 1/12.
        assert row["rating"] == pytest.approx((0.5 * favourite + 0.0625 * (15 - favourite)) / 0.75)
        # Squares about 3 by hand, less the squared distance of the mean from 3. Favourite 3: (4 + 1 + 1 + 4) / 12 - 0;
        # 2 or 4: 2/3 + 9/12 - (7/12)^2; 1 or 5: 8/3 + 6/12 - (14/12)^2.
        variance = {1: 65 / 36, 2: 155 / 144, 3: 5 / 6, 4: 155 / 144, 5: 65 / 36}[favourite]
        assert row["spread"] == pytest.approx(variance**0.5)


def test_what_the_rater_wrote_is_kept_where_the_config_says_so(tmp_path, corpus):
    for flag, is_kept in (([], False), (["--ledger.keep_text"], True)):
        run = str(tmp_path / f"kept-{is_kept}")
        assert rate_items.main([write_rating_config(tmp_path, corpus, run), "--limit=5", *flag]) == 0
        draws = [draw for row in read_rows(run) for draw in row["draws"]]
        assert len(draws) == 15
        assert {(draw["text"] is not None, draw["trace"] is not None) for draw in draws} == {(is_kept, is_kept)}


def test_a_rating_that_is_not_parsed_is_a_row_with_its_reason(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_rating_config(tmp_path, corpus, run, unparsed_rate=0.5)
    assert rate_items.main([config, "--decoding.samples=1"]) == 0
    rows = read_rows(run)
    assert len(rows) == NUM_UNITS
    assert {(row["outcome"], row["error"], row["label"] is None) for row in rows} == {
        ("rated", None, False),
        ("unrated", "unparsed", True),
    }


def test_splits_s3_a_budget_and_status(tmp_path, ray_session, s3, capsys):
    corpus, run = f"{s3}/{tmp_path.name}/corpus", f"{s3}/{tmp_path.name}/run"
    prepare(tmp_path, corpus)
    config = write_rating_config(tmp_path, corpus, run, latency_s=0.2)
    only = ["--splits=test,validation"]
    assert rate_items.main([config, *only, "--limits.max_output_tokens=600"]) == STOPPED_EARLY_STATUS
    assert rate_items.main([config, *only]) == 0
    items = pd.concat(
        Folder(corpus).read_table(f"items/{name}").to_pandas() for name in (Folder(corpus) / "items").list_files()
    )
    asked = set(items[items["split"] != "train"]["item_id"])
    rows = read_rows(run)
    assert sorted(row["item_id"] for row in rows) == sorted(asked)
    capsys.readouterr()
    assert status.main([run]) == 0
    out = capsys.readouterr().out
    assert "(rate_items): complete" in out
    assert f"{len(asked)} of {len(asked)} decided" in out


def test_an_item_with_targets_of_several_annotators_is_rated_once(tmp_path, ray_session):
    config = tmp_path / "corpus.toml"
    prepare(tmp_path, str(tmp_path / "unused"), "--dry-run")
    rows = [
        {"id": f"item-{i}", "text": "t", "label": str(1 + (i + k) % 5), "who": f"annotator-{k}"}
        for i in range(20)
        for k in range(3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "source.csv", index=False)
    text = config.read_text().replace('label = "label"', 'label = "label"\nannotator_id = "who"')
    config.write_text(
        text.replace('"single"', '"per_annotator"').replace("units_per_shard = 25", "units_per_shard = 4")
    )
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    assert prepare_corpus.main([str(config), f"--corpus={corpus}"]) == 0
    assert rate_items.main([write_rating_config(tmp_path, corpus, run)]) == 0
    assert sorted(row["item_id"] for row in read_rows(run)) == sorted(f"item-{i}" for i in range(20))


def test_a_folder_holds_one_raters_annotations_only(tmp_path, corpus):
    run = str(tmp_path / "run")
    config = write_rating_config(tmp_path, corpus, run)
    assert rate_items.main([config, "--limit=5"]) == 0
    with pytest.raises(UserError, match="rater_id: was 'scripted', is now 'other'"):
        rate_items.main([config, "--limit=5", "--rater_id=other"])
    with pytest.raises(UserError, match="must not mix"):
        infer_traces.main([write_config(tmp_path, corpus, run)])


def test_a_mean_on_a_nominal_scale_is_refused(tmp_path, ray_session):
    corpus = str(tmp_path / "corpus")
    prepare(tmp_path, corpus, "--scale.type=nominal", "--target.rule=single")
    config = write_rating_config(tmp_path, corpus, str(tmp_path / "run"))
    with pytest.raises(UserError, match="is nominal and has no mean"):
        rate_items.main([config])
    assert rate_items.main([config, "--decoding.combine=majority"]) == 0


def test_items_without_a_target_are_rated_where_the_config_says_so(tmp_path, ray_session):
    corpus = str(tmp_path / "corpus")
    prepare(tmp_path, str(tmp_path / "unused"), "--dry-run")
    # Every second item has two labels that are far apart.
    rows = [
        {"id": f"item-{i:02d}", "text": "t", "label": label, "who": who}
        for i in range(20)
        for who, label in (("a", 1), ("b", 5 if i % 2 else 1))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "source.csv", index=False)
    config = tmp_path / "corpus.toml"
    text = config.read_text().replace('label = "label"', 'label = "label"\nannotator_id = "who"')
    config.write_text(text.replace('"single"', '"median"'))
    assert prepare_corpus.main([str(config), f"--corpus={corpus}"]) == 0
    targets = {}
    for name, more in (("kept", []), ("all", ["--dropped"])):
        run = str(tmp_path / name)
        assert rate_items.main([write_rating_config(tmp_path, corpus, run), *more]) == 0
        assert {row["outcome"] for row in read_rows(run)} == {"rated"}
        targets[name] = {row["item_id"]: row["target_label"] for row in read_rows(run)}
    # An early end, where dropped items are decided and their shards are still open.
    pilot = str(tmp_path / "pilot")
    config = write_rating_config(tmp_path, corpus, pilot)
    assert rate_items.main([config, "--dropped", "--limit=15"]) == 0
    assert len(read_rows(pilot)) == 15
    assert rate_items.main([config, "--dropped"]) == 0
    assert len(read_rows(pilot)) == 20
    kept = {f"item-{i:02d}": "1" for i in range(0, 20, 2)}
    assert targets == {"kept": kept, "all": kept | {f"item-{i:02d}": None for i in range(1, 20, 2)}}
