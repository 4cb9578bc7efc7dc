"""The dry run of train_rater, on a corpus whose files are written here: no cluster is started."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs import train_rater
from judgetrace.config import UserError, load_config
from judgetrace.storage import Folder
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.dry_run import print_dry_run
from judgetrace.training.estimate import ModelShape, Sharing, WorkerPass
from judgetrace.training.inputs import TrainInputs
from judgetrace.training.order import EpochOrder, share_padding
from judgetrace.training.outlook import Outlook, measure_shape, plan_pass, print_hours, read_sharing
from judgetrace.training.sample import EpochEstimate, ExampleSample, estimate_epoch, sample_examples
from tests.disk_store import ASKED
from tests.trace_tables import make_items
from tests.train_runs import make_tiny_model, prepare_model, write_corpus, write_traces, write_train_config

SHARDS, UNITS = 4, 30


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    """Write a corpus of four shards with 30 units each, labels 1 to 5."""
    folder = Folder(str(tmp_path_factory.mktemp("corpus")))
    return write_corpus(folder, [make_items(UNITS, prefix=f"item-{number}") for number in range(SHARDS)])


@pytest.fixture(scope="module")
def traces(tmp_path_factory, corpus) -> str:
    return write_traces(corpus, str(tmp_path_factory.mktemp("traces")))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def read_inputs(folder: Path, corpus: str, traces: str, model: Path, *more: str) -> TrainInputs:
    config = write_train_config(folder, corpus, traces, str(folder / "run"), model)
    return TrainInputs(load_config(TrainRaterConfig, "train_rater", [config, *more]))


def sample(inputs: TrainInputs, max_units: int) -> ExampleSample:
    return sample_examples(inputs.shards, inputs.reading, inputs.encoding, max_units)


def test_a_dry_run_shows_an_example_and_what_training_takes_and_writes_nothing(tmp_path, corpus, traces, model, capsys):
    config = write_train_config(tmp_path, corpus, traces, str(tmp_path / "run"), model)
    assert train_rater.main([config, "--dry-run"]) == 0
    told = capsys.readouterr().out
    prompt, _, answer = told.partition("--- answer, learned:")
    assert "text of 0" in prompt
    assert "The text says awful." not in prompt
    assert "The text says awful.\n<rating>‹›1</rating><|im_end|>" in answer
    assert "Units of train: 120 usable; left out: none" in told
    assert "120 examples, 15 steps of 8" in told
    assert "> zero1" in told
    assert "at the start" in told
    assert "max_epochs 10 = 150 steps" in told
    assert "max_steps 6 = 6 steps" in told
    assert "A100 80 GB" in told
    assert not (tmp_path / "run").exists()


def test_a_dry_run_with_a_base_by_url_fetches_all_but_its_weights(tmp_path, corpus, traces, model, capsys, monkeypatch):
    monkeypatch.setenv("JUDGETRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(ASKED, str(tmp_path / "asked"))
    config = write_train_config(tmp_path, corpus, traces, str(tmp_path / "run"), model)
    assert train_rater.main([config, "--dry-run"]) == 0
    told_of_a_folder = capsys.readouterr().out
    assert train_rater.main([config, "--dry-run", f"--model.path=disk://{model}"]) == 0
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if "parameters" in line]
    assert told.partition("Units of train")[2] == told_of_a_folder.partition("Units of train")[2]
    assert "config.json" in (tmp_path / "asked").read_text().split()
    assert "model.safetensors" not in (tmp_path / "asked").read_text().split()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_layers_that_the_base_does_not_have_and_bases_that_cannot_be_made_are_refused(tmp_path, corpus, traces, model):
    with pytest.raises(UserError, match=r"lora\.target_modules = \('q_projj',\): can't be trained") as raised:
        read_inputs(tmp_path, corpus, traces, model, '--lora.target_modules=["q_projj"]')
    assert "names of its layers" in str(raised.value)
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    described = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(described | {"model_type": "nobody-knows"}))
    with pytest.raises(UserError, match="can't be trained: ValueError"):
        read_inputs(tmp_path, corpus, traces, broken)


def test_longer_sequences_than_the_base_has_positions_for_are_refused(tmp_path, corpus, traces, model):
    assert read_inputs(tmp_path, corpus, traces, model, "--data.max_tokens=512").config.data.max_tokens == 512
    with pytest.raises(UserError, match=r"data\.max_tokens = 513: .* takes 512 tokens, by the max_position_embeddings"):
        read_inputs(tmp_path, corpus, traces, model, "--data.max_tokens=513")


def test_plain_thinking_is_refused_where_the_chat_template_has_opened_a_tag(tmp_path, corpus, traces, model):
    thinker = shutil.copytree(model, tmp_path / "thinker")
    template = thinker / "chat_template.jinja"
    asks = "{% if add_generation_prompt and thinks | default(true) %}<think>\n{% endif %}"
    template.write_text(template.read_text() + asks)

    with pytest.raises(UserError, match=r"ends a prompt with <think>: .*\nexpected: thinking\.format = 'tags'"):
        read_inputs(tmp_path, corpus, traces, thinker)
    assert read_inputs(tmp_path, corpus, traces, thinker, "--thinking.format=tags").encoding.form == "tags"
    closed = 'prompt.chat_template_args={"thinks": false}'
    assert read_inputs(tmp_path, corpus, traces, thinker, f"--{closed}").encoding.form == "plain"


def test_traces_of_another_corpus_are_refused(tmp_path, corpus, model):
    traces = write_traces(corpus, str(tmp_path / "traces"))
    Folder(traces).write_json("contract.json", {"corpus": "another"})
    with pytest.raises(UserError, match="its units are of another corpus"):
        read_inputs(tmp_path, corpus, traces, model)


def test_a_dry_run_refuses_what_a_run_would_refuse(tmp_path, corpus, model, capsys):
    traces = write_traces(corpus, str(tmp_path / "traces"), outcome="exhausted")
    config = write_train_config(tmp_path, corpus, traces, str(tmp_path / "run"), model)
    with pytest.raises(UserError, match="no unit of the split teaches anything: 120 not_accepted"):
        train_rater.main([config, "--dry-run"])
    assert "0 usable; left out: 120 not_accepted" in capsys.readouterr().out


def write_template(folder: Path, text: str) -> str:
    (folder / "prompt.jinja").write_text(text)
    return f"--prompt.template={folder / 'prompt.jinja'}"


def test_items_that_lack_a_field_of_the_template_are_left_out_with_what_they_lack(tmp_path, model, capsys):
    items = make_items(30)
    fields = [json.dumps({"text": "so"} | ({"note": "a note"} if n % 3 else {})) for n in range(30)]
    items = items.set_column(items.schema.get_field_index("fields"), "fields", [fields])
    corpus = write_corpus(Folder(str(tmp_path / "corpus")), [items])
    traces = write_traces(corpus, str(tmp_path / "traces"))
    config = write_train_config(tmp_path, corpus, traces, str(tmp_path / "run"), model)
    assert train_rater.main([config, "--dry-run", write_template(tmp_path, "{{ fields.note }}")]) == 0
    told = capsys.readouterr().out
    assert "20 usable; left out: 10 not_rendered (prompt template: 'dict object' has no attribute 'note'" in told


@pytest.mark.parametrize("max_units", [1000, 45])
def test_a_template_that_no_item_fits_is_refused_with_what_is_wrong_with_it(tmp_path, corpus, traces, model, max_units):
    text = io.StringIO()
    inputs = read_inputs(tmp_path, corpus, traces, model, write_template(tmp_path, "{{ guidline }} {{ fields.text }}"))
    with pytest.raises(UserError) as raised:
        print_dry_run(Console(file=text, width=500), inputs, max_units)
    found = f"{min(max_units, 120)} not_rendered (prompt template: 'guidline' is undefined; known variables: guideline,"
    assert found in text.getvalue()
    if max_units > 120:
        assert f"no unit of the split teaches anything: {found}" in str(raised.value)
        assert "Mend prompt.template" in str(raised.value)


def test_a_dry_run_holds_the_config_against_the_contract_of_a_begun_run(tmp_path, corpus, traces, model):
    config = write_train_config(tmp_path, corpus, traces, str(tmp_path / "run"), model)
    inputs = TrainInputs(load_config(TrainRaterConfig, "train_rater", [config]))
    Folder(inputs.config.run).write_json("contract.json", inputs.contract())
    with pytest.raises(UserError, match=r"learning_rate: was 0\.001, is now 0\.002"):
        train_rater.main([config, "--dry-run", "--training.learning_rate=2e-3"])


def test_tokens_of_an_epoch_are_counted_one_by_one(tmp_path, corpus, traces, model):
    inputs = read_inputs(tmp_path, corpus, traces, model)
    found = sample(inputs, 1000)
    epoch = estimate_epoch(found, inputs.order, workers=2, micro_batch=2)
    shards = [Folder(traces).read_table(f"traces/shard-{n:05d}.parquet") for n in range(SHARDS)]
    rows = pa.concat_tables(shards).to_pylist()
    texts = [f"{row['trace']}\n<rating>{row['rating']}</rating><|im_end|>" for row in rows]
    # Traces here are so plain that no token spans a cut.
    assert epoch.answer_tokens == sum(len(inputs.tokenizer(text)["input_ids"]) for text in texts)
    assert epoch.prompt_tokens + epoch.answer_tokens == found.survey.num_tokens
    assert (found.is_complete, epoch.examples, epoch.steps) == (True, 120, 15)
    assert epoch.padding_share == share_padding(found.survey.index(), inputs.order, 0, 2, 2)


def test_a_sample_reads_few_shards_and_tells_about_the_whole(tmp_path, corpus, traces, model):
    inputs = read_inputs(tmp_path, corpus, traces, model)
    whole, part = sample(inputs, 1000), sample(inputs, 45)
    assert (part.num_shards, part.survey.usable.num_rows, part.share) == (2, 45, 45 / 120)
    exact = estimate_epoch(whole, inputs.order, 2, 2)
    told = estimate_epoch(part, inputs.order, 2, 2)
    assert (told.examples, told.steps) == (120, 15)
    assert told.prompt_tokens == pytest.approx(exact.prompt_tokens, rel=0.03)
    assert told.answer_tokens == pytest.approx(exact.answer_tokens, rel=0.03)
    # The longest example may be one that was not read.
    assert plan_pass(inputs.config, part).num_tokens == inputs.config.data.max_tokens
    assert plan_pass(inputs.config, whole).num_tokens == max(whole.survey.index().num_tokens)


def test_a_sample_that_fills_no_step_has_no_padding_share(tmp_path, corpus, traces, model):
    inputs = read_inputs(tmp_path, corpus, traces, model)
    assert estimate_epoch(sample(inputs, 5), EpochOrder(8, 4, 0), 2, 2).padding_share is None


def test_a_pass_holds_no_more_examples_than_a_workers_share(tmp_path, corpus, traces, model):
    inputs = read_inputs(tmp_path, corpus, traces, model, "--training.micro_batch=100", "--workers.num_workers=3")
    # Four lanes of two examples; one of three workers has two of the lanes.
    assert plan_pass(inputs.config, sample(inputs, 1000)).num_examples == 4


def test_the_embedded_model_has_as_many_parameters_as_its_checkpoints(tmp_path, corpus, traces):
    lora = measure_shape(read_inputs(tmp_path, corpus, traces, prepare_model()).config)
    assert (lora.num_parameters, lora.num_trained) == (134_515_008 + 4_884_480, 4_884_480)
    assert (lora.num_layers, lora.hidden, lora.query_width, lora.vocabulary) == (30, 576, 9 * 64, 49152)
    assert (lora.intermediate, lora.is_gated) == (1536, True)
    whole = measure_shape(read_inputs(tmp_path, corpus, traces, prepare_model(), "--full_weights").config)
    assert (whole.num_parameters, whole.num_trained) == (134_515_008, 134_515_008)


def test_a_deepspeed_config_of_ones_own_is_read_for_what_it_does():
    own = {"stage": 1, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True, "reduce_bucket_size": 1000}
    found = read_sharing(json.loads(json.dumps({"zero_optimization": own})))
    assert (found.stage, found.offloads_optimizer, found.offloads_parameters) == (1, True, False)
    assert found.bucket_numbers == 2000


def test_a_gpu_that_cannot_hold_the_whole_base_is_too_small_however_many_share_it():
    # 45 billion parameters are 90 GB in bf16, and a 64th of them 1.4 GB.
    shape = ModelShape(45 * 10**9, 10**8, 80, 8192, 8192, 28672, True, 32000)
    config = TrainRaterConfig(corpus="c", traces=("t",), run="r", model={"path": "base"})
    for parameters, is_too_small in ((45 * 10**9, True), (35 * 10**9, False)):
        work = WorkerPass(1, 100, 100, 2, recomputes=True)
        outlook = Outlook(config, Sharing(3), replace(shape, num_parameters=parameters), work)
        text = io.StringIO()
        print_hours(Console(file=text, width=200), outlook, EpochEstimate(1000, 1e6, 1e6, 0.0, 8))
        (row,) = [line for line in text.getvalue().splitlines() if "H100 80 GB" in line]
        assert row.rstrip(" \u2502").endswith("too small") == is_too_small
