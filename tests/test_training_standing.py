"""How a run of train_rater stands, from files that are written here as the job writes them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import status
from judgetrace.config import UserError
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder, encode_parquet
from judgetrace.training.progress import METRICS, Progress
from judgetrace.training.standing import read_standing


def begin(folder: Path, started_at: float) -> RunFolder:
    run = RunFolder(Folder(str(folder)))
    run.claim(started_at, {"job": "train_rater", "config": {}})
    return run


def save_steps(run: RunFolder, *scores: float | None, at: float) -> None:
    """Save a curve with a row a score, from step 0 on; a score of None is a step without validation."""
    history = [
        dict.fromkeys(METRICS.names)
        | {"step": step, "loss": 3.0 - step, "at": at}
        | {"validation": None if score is None else {"expected_tau": score, "sampled_tau": None, "score": score}}
        for step, score in enumerate(scores)
    ]
    run.folder.write_atomic("metrics.parquet", encode_parquet(Progress(history=history).tabulate()))


def tell(run: RunFolder, capsys: Any) -> tuple[str, dict[str, Any]]:
    """Run the job both ways; returns what it prints for people and for programs."""
    assert status.main([run.folder.url]) == 0
    text = capsys.readouterr().out
    assert status.main([run.folder.url, "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_a_run_that_has_saved_nothing_says_so(tmp_path, capsys):
    text, told = tell(begin(tmp_path, time.time() - 30), capsys)
    assert "nothing is saved yet" in text
    assert (told["job"], told["driver"], told["step"], told["best"]) == ("train_rater", 0, None, None)


def test_a_run_under_way_tells_its_last_step_its_last_validation_and_the_best(tmp_path, capsys):
    now = time.time()
    run = begin(tmp_path, now - 900)
    save_steps(run, 0.1, None, 0.4, None, 0.3, at=now - 600)
    text, told = tell(run, capsys)
    assert "not complete: last saved 10 min ago\n" in text
    assert "step 4, loss -1.000" in text
    assert "best validation, step 2: expected_tau 0.400, score 0.400" in text
    assert told["validation"] == {"step": 4, "expected_tau": 0.3, "sampled_tau": None, "score": 0.3}
    assert (told["step"], told["best"]["step"], told["rater_step"]) == (4, 2, None)


def test_the_newest_of_equal_validations_is_the_best_as_of_the_checkpoints(tmp_path):
    run = begin(tmp_path, 0.0)
    save_steps(run, 0.1, 0.4, 0.4, at=1.0)
    assert read_standing(run, 2.0)["best"]["step"] == 2


def test_what_an_earlier_driver_saved_is_called_so(tmp_path):
    run = begin(tmp_path, 1000.0)
    save_steps(run, 0.1, at=1100.0)
    begin(tmp_path, 1200.0)
    assert read_standing(run, 1400.0)["state"] == "not complete: last saved 5 min ago, by an earlier driver"


def test_the_fault_of_the_newest_driver_is_told(tmp_path, capsys):
    from judgetrace.training.worker import name_fault

    run = begin(tmp_path, time.time())
    # As of before a fault had a status.
    run.folder.write_json(name_fault(0), {"fault": "the loss is nan [at step 3]"})
    text, told = tell(run, capsys)
    assert "stopped by a fault" in text
    assert "fault: the loss is nan [at step 3]" in text
    assert told["fault"] == "the loss is nan [at step 3]"
    begin(tmp_path, time.time())
    assert read_standing(run, time.time())["fault"] is None


def test_a_complete_run_tells_which_step_the_rater_is(tmp_path, capsys):
    run = begin(tmp_path, time.time())
    save_steps(run, None, None, None, at=time.time())
    run.folder.write_json("manifest.json", {"job": "train_rater", "training": {"best_step": 2}})
    text, told = tell(run, capsys)
    assert "(train_rater): complete" in text
    assert "rater: the weights of step 2" in text
    assert (told["state"], told["rater_step"]) == ("complete", 2)


def test_a_recalibrated_rater_is_complete_or_not_there(tmp_path, capsys):
    run = RunFolder(Folder(str(tmp_path / "isotonic")))
    with pytest.raises(UserError, match="no run there"):
        status.main([run.folder.url])
    # A run that died left its contract; the same command writes all of it again.
    run.folder.write_json("contract.json", {})
    with pytest.raises(UserError, match="no run there"):
        status.main([run.folder.url])
    outcomes = {"rated": 7, "unrated": 1}
    run.folder.write_json("manifest.json", {"job": "recalibrate_rater", "units": 8, "outcomes": outcomes, "tally": {}})
    text, told = tell(run, capsys)
    assert "(recalibrate_rater): complete" in text
    assert "7 rated, 1 unrated" in text
    assert told == {"job": "recalibrate_rater", "state": "complete", "units": 8, "outcomes": outcomes}
