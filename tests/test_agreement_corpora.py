"""Runs of ratings beside a prepared corpus: of this one or of another, and where targets are kept per annotator."""

from pathlib import Path
from typing import Any

import pytest

from judgetrace.agreement.config import MeasureAgreementConfig
from judgetrace.agreement.sources import find_inputs
from judgetrace.config import UserError
from judgetrace.corpus import read_finished
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import identify_corpus
from judgetrace.storage import Folder
from tests.agreement_runs import draw_people, draw_rater, prepare_here, report_here, write_table


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
