"""Prefill many long prompts at once on a real vLLM engine, watching for silence; prints JSON. Run as a program.

python -m tests.beat_probe MODEL NUM_PROMPTS TOKENS_EACH

prompt_tokens    of all prompts together
first_token_s    until the first request was answered by its first token
all_answered_s   until all were (each answers 4 tokens)
longest_gap_s    longest time without a sign of life between the first one and the end
silences         seconds of silence that the watchdog would have replaced the engine for, at 30 s
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig, Prompt, Request
from judgetrace.vllm_engine import VllmEngine
from judgetrace.watchdog import SilenceClock


async def probe(model: str, num_prompts: int, tokens_each: int) -> dict[str, object]:
    spec = EngineSpec(
        ModelConfig(path=model),
        EngineConfig(
            slots=num_prompts,
            args={"max_model_len": 2048},
            env={"VLLM_CPU_KVCACHE_SPACE": "4"},
        ),
    )
    engine = VllmEngine(spec)
    # Different from their first token on: nothing of them is cached.
    prompts = [[1000 + n, *((7 * i + n) % 5000 + 100 for i in range(tokens_each - 1))] for n in range(num_prompts)]
    began = time.monotonic()
    beats: list[float] = []
    clock, silences = SilenceClock(30.0), []

    async def watch() -> None:
        seen = 0
        while True:
            await asyncio.sleep(0.05)
            if engine.num_beats != seen:
                seen = engine.num_beats
                beats.append(time.monotonic() - began)
            if clock.look(time.monotonic(), num_prompts, engine.num_beats):
                silences.append(clock.silent_s)

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        *(engine.generate(Request(str(n), Prompt(len(ids), ids), n, 1.0, 1.0, 0, 4)) for n, ids in enumerate(prompts))
    )
    took = time.monotonic() - began
    await asyncio.sleep(0.2)
    watching.cancel()
    engine.close()
    gaps = [after - before for before, after in zip(beats, [*beats[1:], took], strict=True)]
    return {
        "prompt_tokens": num_prompts * tokens_each,
        "first_token_s": round(beats[0], 2),
        "all_answered_s": round(took, 2),
        "num_beats": engine.num_beats,
        "longest_gap_s": round(max(gaps), 2),
        "silences": silences,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(probe(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
