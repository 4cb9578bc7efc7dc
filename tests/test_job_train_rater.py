"""train_rater as a whole: Ray Train and DeepSpeed's real engine on a cluster of two nodes, with a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_rater
from judgetrace.config import UserError
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder
from judgetrace.training import run as run_module
from judgetrace.training.checkpoints import STATE
from judgetrace.training.progress import Progress
from judgetrace.training.standing import read_standing
from tests import scripted_scores
from tests.plain_training import read_batches, train_plainly
from tests.train_runs import LONG_STEPS, list_checkpoints, make_tiny_model, read_losses, write_traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEEPSPEED = Path(__file__).parents[1] / "cluster/deepspeed"


def read_first_validation(run: str) -> dict[str, float | None]:
    """Read what the untuned base's ratings come to, but for the last digits."""
    (row,) = [row for row in Folder(run).read_table("metrics.parquet").to_pylist() if row["step"] == 0]
    found = json.loads(row["validation"])
    return {name: value if value is None else round(value, 3) for name, value in found.items()}


def test_a_run_leaves_a_rater_with_its_card_its_metrics_and_a_manifest(undisturbed_training, capsys):
    run = Folder(undisturbed_training)
    losses = read_losses(undisturbed_training)
    assert sorted(losses) == list(range(1, LONG_STEPS + 1))
    assert losses[LONG_STEPS] < losses[1]
    manifest = run.read_json("manifest.json")
    assert manifest["training"]["steps"] == LONG_STEPS
    assert manifest["data"]["examples"] > 60
    names = set((run / "rater").list_files())
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "guideline.md"} <= names
    assert "Rate the text from 1 to 5." in (run / "rater").read_bytes("guideline.md").decode()
    card = (run / "rater").read_bytes("README.md").decode()
    assert f"{manifest['data']['examples']:,}" in card
    validated = [row for row in run.read_table("metrics.parquet").to_pylist() if row["validation"]]
    assert [row["step"] for row in validated] == [0, 5, 10, 15, 20, 25]
    assert 0 <= json.loads(validated[-1]["validation"])["expected_coverage"] <= 1


def test_losses_and_gradients_are_those_of_a_plain_loop_over_the_same_batches(
    undisturbed_training, word_runs, tmp_path
):
    """Two workers that each accumulate two micro-batches; the norm, unlike the losses under AdamW, tells the scale."""
    batches = read_batches(word_runs.write_long_config(tmp_path, undisturbed_training), 3, num_cpus=0.5)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    plain = train_plainly(batches, word_runs.model, learning_rate=1e-3, warmup_steps=2)
    rows = Folder(undisturbed_training).read_table("metrics.parquet").to_pylist()
    for step, expected in enumerate(plain, start=1):
        (row,) = [row for row in rows if row["step"] == step]
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


def test_the_rater_holds_the_base_with_the_trained_adapter_merged_in(undisturbed_training, word_runs):
    import torch
    from transformers import AutoModelForCausalLM

    tuned = AutoModelForCausalLM.from_pretrained(f"{undisturbed_training}/rater", dtype=torch.float32).state_dict()
    base = AutoModelForCausalLM.from_pretrained(word_runs.model, dtype=torch.float32).state_dict()
    assert tuned.keys() == base.keys()
    changed = {name for name in base if not torch.allclose(tuned[name], base[name], atol=1e-2, rtol=1e-2)}
    assert changed
    assert all("_proj" in name for name in changed)


def test_a_finished_run_has_nothing_to_do(undisturbed_training, word_runs, tmp_path, capsys):
    assert train_rater.main([word_runs.write_long_config(tmp_path, undisturbed_training)]) == 0
    assert "is complete" in capsys.readouterr().out


def test_another_recipe_is_refused_in_the_same_folder(undisturbed_training, word_runs, tmp_path):
    config = word_runs.write_long_config(tmp_path, undisturbed_training)
    with pytest.raises(UserError, match=r"training\.learning_rate"):
        train_rater.main([config, "--training.learning_rate=0.5"])


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [2, 3])
def test_other_zero_stages_and_one_worker_have_the_same_losses(stage, undisturbed_training, word_runs, tmp_path):
    config = word_runs.write_config(tmp_path, str(tmp_path / "run"))
    workers = 1 if stage == 2 else 2
    changes = [f"--deepspeed={DEEPSPEED}/zero{stage}.json", f"--workers.num_workers={workers}"]
    # What is computed again is what it was.
    changes += ["--training.activation_checkpointing"] if stage == 3 else []
    assert train_rater.main([config, *changes]) == 0
    assert read_losses(str(tmp_path / "run")) == pytest.approx(read_losses(undisturbed_training, 6), abs=1e-4)
    # However the items are shared, all of them are rated, each once.
    assert read_first_validation(str(tmp_path / "run")) == read_first_validation(undisturbed_training)


@pytest.mark.chaos
def test_the_adapter_alone_can_be_what_is_left(undisturbed_training, word_runs, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = word_runs.write_config(tmp_path, str(tmp_path / "run"), output='form = "adapter"\n')
    changes = ["--training.max_steps=2", "--validation.max_items=0", "--lora.dropout=0.5"]
    assert train_rater.main([config, *changes]) == 0
    # An adapter begins as nothing, whatever is dropped before it; without a validation, too, it drops from then on.
    losses, whole = read_losses(str(tmp_path / "run")), read_losses(undisturbed_training)
    assert losses[1] == pytest.approx(whole[1], abs=1e-6)
    assert abs(losses[2] - whole[2]) > 1e-5
    rater = tmp_path / "run/rater"
    assert not (rater / "model.safetensors").exists()
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(word_runs.model), rater)
    assert any(float(p.abs().sum()) > 0 for name, p in tuned.named_parameters() if "lora_B" in name)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint(word_runs, tmp_path):
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    run = str(tmp_path / "run")
    config = word_runs.write_config(tmp_path, run, training="max_grad_norm = 1e30\n")
    # Decay that multiplies all weights by about -100 in each step: they overflow after some.
    changes = ["--training.weight_decay=1e5", "--training.warmup_steps=0", "--training.max_steps=40"]
    changes += ["--full_weights", "--validation.max_items=0", "--workers.max_failures=0"]
    with pytest.raises(UserError, match="diverged") as raised:
        train_rater.main([config, *changes])
    assert not Folder(run).exists("manifest.json")
    (newest,) = list_checkpoints(run)
    saved = Progress.load(newest)
    print(f"the last checkpoint is of step {saved.step}; {raised.value}")
    assert saved.step >= 2
    assert f"at step {saved.step + 1}:" in str(raised.value) or f"at step {saved.step + 2}:" in str(raised.value)
    weights = get_fp32_state_dict_from_zero_checkpoint(str(newest), tag=STATE, exclude_frozen_parameters=True)
    assert weights
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_traces_that_teach_nothing_are_refused_with_what_was_found(word_runs, tmp_path):
    traces = write_traces(word_runs.corpus, str(tmp_path / "traces"), outcome="exhausted", trace=None)
    config = word_runs.write_config(tmp_path, str(tmp_path / "run"), traces)
    with pytest.raises(UserError, match="not_accepted"):
        train_rater.main([config])


def test_prompts_that_do_not_fit_are_refused_with_what_to_do(word_runs, tmp_path):
    config = word_runs.write_config(tmp_path, str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"raise it, or shorten the guideline"):
        train_rater.main([config, "--data.max_tokens=20"])
    # Advice can be followed in the same folder: nothing was trained there.
    with pytest.raises(UserError, match=r"training\.batch 400 is more than the \d+ usable"):
        train_rater.main([config, "--training.batch=400"])


def test_a_base_without_a_chat_template_is_refused(word_runs, tmp_path):
    from transformers import AutoTokenizer

    bare = make_tiny_model(tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    (bare / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(bare)
    config = replace(word_runs, model=bare).write_config(tmp_path, str(tmp_path / "run"))
    with pytest.raises(UserError, match="chat template"):
        train_rater.main([config])


def test_a_score_that_does_not_rise_ends_training_and_the_best_and_the_newest_checkpoint_remain(
    word_runs, tmp_path, monkeypatch
):
    """With all that a recipe may have: full weights, the ordinal loss, weights, activations computed again."""
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    from transformers import AutoModelForCausalLM

    # Steps 4 and 6 are equally good: patience counts from the first of them, the rater is the newest.
    monkeypatch.setattr(run_module, "train", scripted_scores.train)
    run = str(tmp_path / "run")
    config = word_runs.write_config(tmp_path, run, output='dtype = "float32"\n')
    changes = ["--full_weights", "--training.ordinal_loss=0.1", "--data.weights=inverse_acceptance"]
    changes += ["--training.activation_checkpointing", "--training.max_steps=20", "--validation.patience_steps=4"]
    assert train_rater.main([config, *changes]) == 0
    assert sorted(read_losses(run)) == list(range(1, 9))
    trained = Folder(run).read_json("manifest.json")["training"]
    assert (trained["steps"], trained["best_step"]) == (8, 6)
    rows = Folder(run).read_table("metrics.parquet").to_pylist()
    assert all(row["squared_error"] > 0 for row in rows if row["step"])
    kept = list_checkpoints(run)
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir() if path.is_dir()} == {
        path.name for path in kept
    }
    assert [Progress.load(path).step for path in kept] == [6, 8]
    standing = read_standing(RunFolder(Folder(run)), now=0.0)
    assert (standing["best"]["step"], standing["rater_step"]) == (6, 6)
    best = get_fp32_state_dict_from_zero_checkpoint(str(kept[0]), tag=STATE, exclude_frozen_parameters=True)
    rater = AutoModelForCausalLM.from_pretrained(f"{run}/rater", dtype=torch.float32).state_dict()
    assert all(torch.equal(rater[name.removeprefix("model.")], weights) for name, weights in best.items())


@pytest.mark.chaos
def test_a_deepspeed_config_that_it_refuses_ends_the_run_at_the_first_try(word_runs, tmp_path):
    config = word_runs.write_config(tmp_path, str(tmp_path / "run"))
    refused = tmp_path / "zero.json"
    refused.write_text(json.dumps({"zero_optimization": {"stage": 1, "reduce_bucketsize": 1}}))
    with pytest.raises(UserError, match=r"no engine can be made(.|\n)*reduce_bucketsize(.|\n)*Nothing was saved yet"):
        train_rater.main([config, f"--deepspeed={refused}"])


@pytest.mark.chaos
@pytest.mark.parametrize(("stage", "workers"), [(1, (1, 2)), (2, (2, 1)), (3, (2, 1)), (3, (1, 2))])
def test_another_number_of_workers_goes_on_with_the_same_losses(
    stage, workers, undisturbed_training, word_runs, tmp_path
):
    run = str(tmp_path / "run")
    config = word_runs.write_config(tmp_path, run)
    changes = [f"--deepspeed={DEEPSPEED}/zero{stage}.json"]
    first, second = ([*changes, f"--workers.num_workers={number}"] for number in workers)
    assert train_rater.main([config, *first, "--training.max_steps=4"]) == 0
    # As it is left where training has not come to its end.
    Folder(run).delete(["manifest.json"])
    assert train_rater.main([config, *second]) == 0
    assert read_losses(run) == pytest.approx(read_losses(undisturbed_training, 6), abs=1e-4)


@pytest.mark.chaos
def test_a_checkpoint_that_another_number_of_workers_cannot_load_names_the_number_that_can(word_runs, tmp_path):
    run = str(tmp_path / "run")
    config = word_runs.write_config(tmp_path, run)
    changes = ["--validation.max_items=0", "--training.max_steps=2"]
    assert train_rater.main([config, *changes]) == 0
    Folder(run).delete(["manifest.json"])
    (newest,) = list_checkpoints(run)
    part = next((newest / STATE).glob("*zero_pp_rank_1*_optim_states.pt"))
    whole = part.read_bytes()
    part.write_bytes(b"what no version of DeepSpeed reads")
    with pytest.raises(UserError, match=r"was saved by 2 worker\(s\), and 1 can't load it(.|\n)*num_workers = 2"):
        train_rater.main([config, *changes, "--training.max_steps=4", "--workers.num_workers=1"])
    part.write_bytes(whole)
    assert train_rater.main([config, *changes, "--training.max_steps=4"]) == 0
    assert sorted(read_losses(run)) == [1, 2, 3, 4]


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [2, 3])
def test_states_in_main_memory_have_the_same_losses(stage, undisturbed_training, word_runs, tmp_path):
    config = word_runs.write_config(tmp_path, str(tmp_path / "run"))
    assert train_rater.main([config, f"--deepspeed={DEEPSPEED}/zero{stage}_offload.json"]) == 0
    assert read_losses(str(tmp_path / "run")) == pytest.approx(read_losses(undisturbed_training, 6), abs=1e-4)
