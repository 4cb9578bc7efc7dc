"""The stages of train_rater before a worker is started, read in this process instead of on Ray."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from jobs import train_rater
from judgetrace.config import UserError, load_config
from judgetrace.storage import Folder
from judgetrace.trace_shards import check_shards
from judgetrace.training import run as run_module
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.inputs import TrainInputs
from judgetrace.training.outcome import print_start
from judgetrace.training.reading import USABLE, ExampleSurvey, read_examples
from judgetrace.training.run import claim_run, release_run, survey_traces, weigh_examples
from tests.trace_tables import make_items
from tests.train_runs import make_tiny_model, write_corpus, write_traces, write_train_config


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def without_ray(monkeypatch) -> None:
    """Let the driver read traces itself; all else of it is as it is."""

    def run_here(_: str, run: Callable[[int, Any], Any], tasks: Sequence[Any], *, wait_s: float) -> Iterator[Any]:
        assert wait_s > 0
        return (run(number, task) for number, task in enumerate(tasks))

    monkeypatch.setattr(run_module, "run_tasks", run_here)
    monkeypatch.setattr(train_rater, "connect_ray", lambda _: nullcontext(True))
    monkeypatch.setattr(train_rater, "check_cluster", lambda config, started_here: None)


def write_config(folder: Path, model: Path, items: pa.Table) -> str:
    """Write a corpus of these items in one shard, traces of all of them, and a config over both."""
    corpus = write_corpus(Folder(str(folder / "corpus")), [items])
    traces = write_traces(corpus, str(folder / "traces"))
    return write_train_config(folder, corpus, traces, str(folder / "run"), model)


def read_inputs(config: str, *more: str) -> TrainInputs:
    return TrainInputs(load_config(TrainRaterConfig, "train_rater", [config, *more]))


def replace_column(items: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return items.set_column(items.schema.get_field_index(name), name, [values])


@pytest.mark.parametrize("wrong", ["{{ fields.text", "{{ guidline }} {{ fields.text }}"])
def test_a_template_that_is_wrong_leaves_the_run_folder_free_for_the_mended_one(tmp_path, model, without_ray, wrong):
    # The template is part of the run's contract, which is written before the traces are read with it.
    config = write_config(tmp_path, model, make_items(30))
    template = tmp_path / "prompt.jinja"
    changed = f"--prompt.template={template}"
    template.write_text(wrong)
    with pytest.raises(UserError, match="prompt template: "):
        train_rater.main([config, changed])
    run = Folder(str(tmp_path / "run"))
    assert not run.exists("contract.json")
    assert (run / "examples").list_files() == []
    template.write_text("{{ guideline }} {{ fields.text }}")
    # A dry run holds the config against the folder's contract, as the run would.
    assert train_rater.main([config, changed, "--dry-run"]) == 0
    mended = read_inputs(config, changed)
    claim_run(mended)
    assert survey_traces(mended).usable.num_rows == 30


def test_a_driver_that_was_replaced_leaves_the_folder_to_the_newer_one(tmp_path, model):
    inputs = read_inputs(write_config(tmp_path, model, make_items(30)))
    older, newer = claim_run(inputs), claim_run(inputs)
    release_run(inputs, older)
    assert Folder(inputs.config.run).exists("contract.json")
    release_run(inputs, newer)
    assert not Folder(inputs.config.run).exists("contract.json")


def tell_start(inputs: TrainInputs) -> str:
    survey, text = survey_traces(inputs), io.StringIO()
    print_start(Console(file=text, width=500), inputs, survey, inputs.plan(survey), inputs.validation_items())
    return text.getvalue()


def test_a_warm_up_that_the_run_does_not_end_is_told_before_training(tmp_path, model, without_ray):
    config = write_config(tmp_path, model, make_items(30))
    assert "the warm-up has 9 steps and the run 6" in tell_start(read_inputs(config, "--training.warmup_steps=9"))
    assert "warm-up" not in tell_start(read_inputs(config, "--training.warmup_steps=6"))


def test_a_rating_that_was_accepted_for_several_labels_weighs_the_mean_of_theirs():
    # Of 10 units each 2 of label 1 (one of them by rating 2) and 8 of label 2: raw weights 5 and 1.25, mean 2.
    survey = ExampleSurvey(
        USABLE.empty_table(),
        labels=[("", "1"), ("", "2")],
        reasons=Counter(),
        num_tokens=0,
        num_answer_tokens=0,
        accepted=Counter({("", "1"): 2, ("", "2"): 8}),
        decided=Counter({("", "1"): 10, ("", "2"): 10}),
        targets=Counter({(0, "1"): 1, (1, "1"): 1, (1, "2"): 8}),
    )
    given = {"corpus": "c", "traces": ("t",), "run": "r", "model": {"path": "base"}}
    config = TrainRaterConfig.model_validate(given | {"data": {"weights": "inverse_acceptance"}})
    assert weigh_examples(config, survey) == pytest.approx((2.5, (2.5 + 8 * 0.625) / 9))
    assert weigh_examples(TrainRaterConfig.model_validate(given), survey) == (1.0, 1.0)


def test_traces_that_are_not_finished_are_told_of_and_named_once_their_run_went_on(tmp_path, model, without_ray):
    config = write_config(tmp_path, model, make_items(30))
    traces = Folder(str(tmp_path / "traces")) / "traces"
    assert "not finished" not in tell_start(read_inputs(config))
    partial = "shard-00000.partial-00001.parquet"
    traces.put_if_absent(partial, traces.read_bytes("shard-00000.parquet"))
    traces.delete(["shard-00000.parquet"])
    inputs = read_inputs(config, f"--run={tmp_path / 'other'}")
    assert "1 of 1 shards of traces are not finished: let infer_traces go on" in tell_start(inputs)
    traces.delete([partial])
    gone = rf"traces/{partial} is gone: infer_traces went on in its run.*\nBegin anew in another run folder"
    with pytest.raises(UserError, match=gone):
        check_shards(inputs.shards)
    read_examples.cache_clear()
    with pytest.raises(UserError, match=gone):
        read_examples(inputs.shards[0], inputs.reading)


def test_training_on_the_validation_split_is_told_as_why_nothing_is_validated(tmp_path, model, without_ray):
    items = replace_column(make_items(30), "split", ["validation"] * 30)
    told = tell_start(read_inputs(write_config(tmp_path, model, items), "--data.split=validation"))
    assert "30 examples, 3 steps an epoch, 6 steps at most; 0 validation items\nUnits left out: none" in told
    assert "The validation split is what is trained on" in told
    assert "aggregated label" not in told


def test_validation_items_that_can_not_be_asked_are_counted(tmp_path, model, without_ray):
    # Every fifth item is one of validation: of these six every second lacks the note.
    items = replace_column(make_items(30), "split", ["train" if n % 5 else "validation" for n in range(30)])
    fields = ['{"text": "so"}' if n % 10 == 0 else '{"text": "so", "note": "a note"}' for n in range(30)]
    (tmp_path / "prompt.jinja").write_text("{{ fields.note }}")
    config = write_config(tmp_path, model, replace_column(items, "fields", fields))
    told = tell_start(read_inputs(config, f"--prompt.template={tmp_path / 'prompt.jinja'}"))
    assert "24 examples, 3 steps an epoch, 6 steps at most; 6 validation items\nUnits left out: none" in told
    assert "3 of the validation items lack what the prompt template needs" in told
