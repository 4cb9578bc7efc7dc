"""The config of infer_traces, and what its rows depend on."""

import pytest
from pydantic import ValidationError

from judgetrace.config import UserError
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.fingerprints import fingerprint_model
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig
from judgetrace.traces import check_new_draws
from judgetrace.vllm_engine import choose_cpu_dtype, engine_arguments


def make_config(**sections) -> InferTracesConfig:
    return InferTracesConfig.model_validate({"corpus": "c", "run": "r", "model": {"path": "org/name"}} | sections)


def contract_of(config: InferTracesConfig, guideline: str = "g", template: str = "t") -> dict:
    texts = {"guideline": guideline, "prompt.template": template, "model.fingerprint": fingerprint_model(config.model)}
    return config.contract(corpus="corpus", **texts)


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        ({"model": {"path": "org/other"}}, {"model.path", "model.fingerprint"}),
        ({"model": {"path": "org/name", "revision": "v2"}}, {"model.revision", "model.fingerprint"}),
        ({"sampling": {"temperature": 0.7}}, {"sampling.temperature"}),
        ({"sampling": {"max_draws": 4}}, {"sampling.max_draws"}),
        ({"thinking": {"constrained_rating": "always"}}, {"thinking.constrained_rating"}),
        ({"acceptance": {"rule": "any_annotator"}}, {"acceptance.rule"}),
        ({"prompt": {"system": "You rate."}}, {"prompt.system"}),
        ({"engine": {"args": {"quantization": "fp8"}}}, {"engine.args"}),
        # What alters speed, not what is sampled, may change between calls.
        ({"sampling": {"mode": "fixed"}}, set()),
        ({"engine": {"slots": 8, "max_replicas": 4, "num_gpus": 1}}, set()),
        ({"engine": {"args": {"gpu_memory_utilization": 0.8}}}, set()),
        ({"limits": {"max_seconds": 9}, "ledger": {"commit_every_s": 3}, "limit": 5}, set()),
    ],
)
def test_the_contract_holds_what_rows_depend_on_and_nothing_else(sections, changed):
    before, after = contract_of(make_config()), contract_of(make_config(**sections))
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == changed


def test_a_changed_guideline_or_template_changes_the_contract():
    config = make_config()
    assert contract_of(config) != contract_of(config, guideline="other")
    assert contract_of(config) != contract_of(config, template="other")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"thinking": {"format": "parser"}}, "go together"),
        ({"engine": {"tensor_parallel_size": 4, "num_gpus": 1}}, "less than tensor_parallel_size"),
        ({"sampling": {"keep": 17}}, "more than max_draws"),
        ({"engine": {"env": {"HF_TOKEN": "hf_1"}}}, r"\['HF_TOKEN'\] look like secrets"),
        ({"engine": {"args": {"hf_token": "hf_1"}}}, "look like secrets"),
        ({"limits": {"max_cost": 5}}, "max_cost needs"),
        ({"endpoint": {}, "engine": {"args": {"dtype": "float32"}}}, "arguments of a local engine"),
        ({"endpoint": {}, "prompt": {"chat_template_args": {"a": 1}}}, "chat_template_args need endpoint.dialect"),
        ({"endpoint": {}, "prompt": {"on_overlong": "shorten"}}, "use 'quarantine'"),
        ({"sampling": {"max_tokens": 512}, "engine": {"args": {"max_model_len": 512}}}, "leaves no room"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(sections, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**sections)


def test_a_model_folder_is_told_from_another_by_its_files(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        fingerprint_model(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    one = fingerprint_model(ModelConfig(path=str(tmp_path)))
    assert fingerprint_model(ModelConfig(path=str(tmp_path))) == one
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert fingerprint_model(ModelConfig(path=str(tmp_path))) != one


def test_cpu_engines_prefill_in_one_piece_and_own_arguments_win():
    model = ModelConfig(path="m")
    gpu = engine_arguments(model, EngineConfig(slots=32, tensor_parallel_size=2), None, 0)
    assert (gpu["max_num_seqs"], gpu["tensor_parallel_size"]) == (32, 2)
    assert not {"enforce_eager", "dtype"} & set(gpu)
    cpu = engine_arguments(model, EngineConfig(args={"dtype": "float32"}), "bfloat16", 8192)
    assert cpu["enable_chunked_prefill"] is False
    assert (cpu["max_num_batched_tokens"], cpu["block_size"]) == (8192, 32)
    assert cpu["dtype"] == "float32"
    assert cpu["distributed_executor_backend"].endswith("UniProcExecutor")
    for split in (EngineConfig(tensor_parallel_size=2), EngineConfig(args={"tensor_parallel_size": 2})):
        assert "distributed_executor_backend" not in engine_arguments(model, split, "bfloat16", 8192)
    bound = engine_arguments(model, EngineConfig(), "bfloat16", 8192, binds_threads=True)
    assert "distributed_executor_backend" not in bound
    short = engine_arguments(model, EngineConfig(args={"max_model_len": 512}), "bfloat16", 8192)
    assert (short["max_num_batched_tokens"], short["dtype"]) == (2048, "bfloat16")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"architecture": "unknown"}, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_has_instructions_for_it(capabilities, dtype):
    assert choose_cpu_dtype(capabilities) == dtype


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"proposal": "second"}, "proposal"),
        ({"hint": {"enabled": True}, "proposal": "hinted"}, "hint.enabled"),
        ({"quota": {"per_level": 9}}, "quota.per_level"),
        ({"prompt": {"severity": "strict"}}, "prompt.severity"),
        ({"splits": ["train"]}, "splits"),
    ],
)
def test_what_a_proposal_is_belongs_to_the_contract_and_is_null_by_default(sections, key):
    """A contract of before there were proposals has none of these keys, and null counts as missing."""
    assert contract_of(make_config())[key] is None
    assert contract_of(make_config(**sections))[key] is not None


def test_a_gate_may_change_while_a_run_goes_on():
    assert contract_of(make_config(gate={"min_level_acceptance": 0.1})) == contract_of(make_config())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"hint": {"enabled": True}}, "needs a proposal name of its own"),
        (
            {"hint": {"enabled": True}, "proposal": "h", "acceptance": {"rule": "any_annotator"}},
            "argues for the one label that it was told",
        ),
        ({"after": ["r/"]}, "names `run` itself"),
        ({"splits": ["training"]}, "splits"),
    ],
)
def test_a_proposal_that_contradicts_itself_is_refused(sections, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**sections)


def test_one_earlier_run_may_be_given_as_a_text():
    assert make_config(after="first-run").after == ("first-run",)


def test_the_order_of_splits_changes_no_row():
    orders = (["train", "test"], ["test", "train"], ["test", "train", "test"])
    assert {str(contract_of(make_config(splits=splits))["splits"]) for splits in orders} == {"['test', 'train']"}
    assert make_config(splits=["train"]).decider().splits == ("train",)


@pytest.mark.parametrize(("earlier", "now"), [([], ["train"]), (["train"], []), (["train"], ["test", "train"])])
def test_a_proposal_that_would_draw_the_same_again_is_refused_whichever_splits_it_samples(tmp_path, earlier, now):
    run = Folder(str(tmp_path))
    run.write_json("manifest.json", {"contract": contract_of(make_config(splits=earlier))})
    same = {"proposal": "second", "after": [run.url], "splits": now}
    with pytest.raises(UserError, match="has drawn with the same model, prompt and seed"):
        check_new_draws(contract_of(make_config(**same)), [run.url])
    check_new_draws(contract_of(make_config(**same, sampling={"seed": 1})), [run.url])
