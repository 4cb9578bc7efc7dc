"""What is said of a complete run."""

from __future__ import annotations

import io

from rich.console import Console

from judgetrace.storage import Folder
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.outcome import (
    Trained,
    explain_no_items,
    list_ignored,
    print_complete,
    print_outcome,
    warn_of_warmup,
)
from judgetrace.training.progress import Progress


def make_config(run: str = "r", **sections: dict[str, object]) -> TrainRaterConfig:
    return TrainRaterConfig(corpus="c", traces=("t",), run=run, model={"path": "base"}, **sections)


def tell(config: TrainRaterConfig) -> str:
    text = io.StringIO()
    print_complete(Console(file=text, width=500), config)
    return text.getvalue()


def test_settings_that_come_after_a_run_is_complete_are_named_with_what_to_do(tmp_path):
    run = str(tmp_path / "run")
    earlier = make_config(run)
    Folder(run).write_json("manifest.json", {"config": earlier.model_dump(mode="json")})
    told = tell(make_config(run, output={"form": "adapter"}, training={"max_steps": 9}))
    assert "output.form: was 'merged', is now 'adapter'" in told
    assert "training.max_steps: was None, is now 9" in told
    assert f"delete {run}/manifest.json and run the same command again" in told
    assert "Ignored" not in tell(earlier)


def test_what_an_earlier_version_did_not_know_and_where_a_job_runs_is_no_change():
    earlier = make_config().model_dump(mode="json")
    del earlier["output"]["base_license"], earlier["validation"]
    changed = make_config(output={"base_license": "mit"}, workers={"num_workers": 4}, validation={"batch": 2})
    assert list_ignored(earlier, changed) == []


def tell_outcome(*scores: float, **metrics: float) -> str:
    """Print the outcome of a run validated after these many steps, each of another score; the last one is kept."""
    progress = Progress()
    for step, score in enumerate(scores):
        progress.step = step
        progress.history.append({"step": step, "validation": None})
        progress.note_validation({"score": score})
    text = io.StringIO()
    best = {"step": step, "score": scores[-1], **metrics}
    print_outcome(Console(file=text, width=500), make_config(), Trained(progress, None, best))
    return text.getvalue()


def test_an_untuned_base_is_called_best_only_where_something_was_measured():
    assert "No checkpoint scored better than the untuned base" in tell_outcome(0.3, 0.2)
    assert "scored better" not in tell_outcome(0.3, 0.4)
    nothing = tell_outcome(-1.0, -1.0)
    assert "No validation had a score" in nothing
    assert "untuned base" not in nothing


def test_why_no_validation_had_a_score_is_told_by_how_many_items_had_a_rating():
    few = {"expected_coverage": 0.25, "sampled_coverage": 1.0}
    assert "since too few answers had a rating" in tell_outcome(-1.0, -1.0, **few)
    assert "since all of the ratings, or all of the labels, were the same" in tell_outcome(
        -1.0, -1.0, expected_coverage=1.0, sampled_coverage=0.25
    )


def test_a_run_that_is_shorter_than_its_warm_up_is_warned_of():
    def warn(num_steps: int, warmup_steps: int) -> str:
        text = io.StringIO()
        warn_of_warmup(Console(file=text, width=500), num_steps, warmup_steps)
        return text.getvalue()

    assert "warm-up has 100 steps and the run 20: the learning rate ends at 20% of training.learning_rate" in warn(
        20, 100
    )
    assert warn(100, 100) == warn(3, 0) == ""


def test_a_validation_split_that_is_trained_on_is_not_said_to_be_without_labels():
    trained_on = explain_no_items("validation")
    assert trained_on.startswith("The validation split is what is trained on")
    assert "aggregated label" not in trained_on
    assert explain_no_items("train").startswith("No item of the validation split has an aggregated label: nothing")
