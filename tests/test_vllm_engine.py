"""The vLLM engine: what can be held without running a model, and the probabilities of levels with one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from judgetrace.parsing import parse_answer
from judgetrace.scale import Scale

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".cache/judgetrace/smollm2-135m"


@pytest.fixture(scope="module")
def model() -> Path:
    from judgetrace import embedded

    embedded.prepare_model(embedded.find_model_file(), MODEL)
    return MODEL


@pytest.mark.parametrize(
    ("output", "reasoning", "rating"),
    [
        ("<think>Hm.</think>So <rating>4</rating>", "Hm.", "4"),
        # DeepSeek's chat template opens the thinking itself.
        ("Hm <rating>1</rating>.</think><rating>5</rating>", "Hm <rating>1</rating>.", "5"),
        ("<think>On and on", "On and on", None),
    ],
)
def test_vllms_own_reasoning_parser_splits_thinking_from_answer(model, output, reasoning, rating):
    from transformers import AutoTokenizer

    from judgetrace.vllm_engine import _make_parser

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<think>", "</think>"])
    thinking, answer = _make_parser("deepseek_r1", tokenizer).extract_reasoning(output, None)
    assert thinking == reasoning
    found = parse_answer(thinking, answer or "", False, Scale(values=(1, 2, 3, 4, 5)))
    assert found.rating == rating


def save_random_adapter(model: Path, folder: Path, seed: int = 0) -> None:
    """Save a LoRA adapter whose both halves are random, so that it does change the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)


def reference(model: Path, adapter: Path | None, asked: list[dict]) -> list[list[float]]:
    """Log-probabilities of the same token paths by transformers, each path run whole."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    found = []
    for one in asked:
        start = len(one["prompt"])
        sums = []
        for path in one["paths"]:
            with torch.no_grad():
                steps = network(torch.tensor([[*one["prompt"], *path]])).logits[0].log_softmax(-1)
            sums.append(math.fsum(steps[start - 1 + at, token].item() for at, token in enumerate(path)))
        found.append(sums)
    return found


@pytest.mark.parametrize("adapted", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_level_probabilities_are_those_of_whole_continuations(model, tmp_path, adapted):
    if adapted:
        save_random_adapter(model, tmp_path)
    adapter = [str(tmp_path)] if adapted else []
    command = [sys.executable, "-m", "tests.engine_probe", str(model), *adapter]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    asked = found["levels"]
    lengths = {len(path) for one in asked for path in one["paths"]}
    assert max(lengths) > 1
    expected = reference(model, tmp_path if adapted else None, asked)
    for one, sums in zip(asked, expected, strict=True):
        assert one["log_probabilities"] == pytest.approx(sums, abs=2e-3)
    if adapted:
        plain = reference(model, None, asked)
        assert plain[0] != pytest.approx(expected[0], abs=0.1)
    # Special tokens are shown; the one that ends an answer is no part of it.
    answers = found["answers"]
    assert {reason for _, reason in answers.values()} == {"stop"}
    assert answers["free"][0] == answers["stopped"][0]
    assert answers["free"][0].strip()
    assert "<|im_end|>" not in answers["free"][0]
    assert answers["chosen"][0] in ("No", "Yes")
