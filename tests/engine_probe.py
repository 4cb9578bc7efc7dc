"""Ask a real vLLM engine how probable levels are, and for answers; prints JSON.

A program of its own: vLLM starts processes.

python -m tests.engine_probe MODEL [ADAPTER]
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig, Request
from judgetrace.vllm_engine import VllmEngine

WORDS = ("happy", "terrible", "table")
SCALES = (tuple(str(level) for level in range(-4, 5)), tuple(str(level) for level in range(1, 11)), ("No", "Yes"))


MARKS = ("<|im_start|>", "<|im_end|>")
"""Special tokens of the model, which the engine must show then."""
ASKED: dict[str, dict[str, Any]] = {"free": {}, "stopped": {"stop": ("never",)}, "chosen": {"choices": ("No", "Yes")}}


async def probe_answers(engine: VllmEngine) -> dict[str, list[object]]:
    """Ask for answers that end by themselves."""
    (prompt,) = engine.make_prompts([[{"role": "user", "content": "Say hello."}]])
    found = {}
    for name, more in ASKED.items():
        answer = await engine.generate(Request(name, prompt, 0, 0.0, 1.0, 0, 100, **more))
        found[name] = [answer.text, answer.finish_reason]
    return found


async def probe(model: str, adapter: str | None) -> dict[str, object]:
    spec = EngineSpec(
        ModelConfig(path=model, adapter=adapter),
        # Single precision: the reference is another implementation, and half precision differs by a tenth.
        EngineConfig(slots=16, args={"max_model_len": 256, "dtype": "float32"}, env={"VLLM_CPU_KVCACHE_SPACE": "1"}),
        marks=MARKS,
    )
    engine = VllmEngine(spec)
    conversations = [[{"role": "user", "content": f"Rate this word: {word}"}] for word in WORDS]
    found = []
    for prompt in engine.make_prompts(conversations):
        opened = engine.continue_prompt(prompt, "<rating>")
        for number, levels in enumerate(SCALES):
            scores = await engine.score_levels(f"{len(found)}-{number}", opened, levels)
            paths = engine._level_tree(levels).sequences
            found.append(
                {"prompt": list(opened.token_ids), "paths": paths, "log_probabilities": scores.log_probabilities}
            )
    answers = await probe_answers(engine)
    engine.close()
    return {"levels": found, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(probe(sys.argv[1], *(sys.argv[2:] or [None])))))
