"""What of the vLLM engine can be held without running a model."""

from pathlib import Path

import pytest

from judgetrace.parsing import parse_answer
from judgetrace.scale import Scale

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[1] / ".cache/judgetrace/smollm2-135m"


@pytest.mark.parametrize(
    ("output", "reasoning", "rating"),
    [
        ("<think>Hm.</think>So <rating>4</rating>", "Hm.", "4"),
        # DeepSeek's chat template opens the thinking itself.
        ("Hm <rating>1</rating>.</think><rating>5</rating>", "Hm <rating>1</rating>.", "5"),
        ("<think>On and on", "On and on", None),
    ],
)
def test_vllms_own_reasoning_parser_splits_thinking_from_answer(output, reasoning, rating):
    from transformers import AutoTokenizer

    from judgetrace import embedded
    from judgetrace.vllm_engine import _make_parser

    embedded.prepare_model(embedded.find_model_file(), MODEL)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.add_tokens(["<think>", "</think>"])
    thinking, answer = _make_parser("deepseek_r1", tokenizer).extract_reasoning(output, None)
    assert thinking == reasoning
    found = parse_answer(thinking, answer or "", False, Scale(values=(1, 2, 3, 4, 5)))
    assert found.rating == rating
