"""A generator without a model: it writes guidelines whose quality depends on the seed of the call.

All figures made with it are simulated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from judgetrace.engine import Completion, LevelScores, Prompt, Request
from tests.guided_engine import GuidedModel


class GuidedGenerator(GuidedModel):
    """Script, in `engine.args`: qualities (one is chosen by the seed), journal (a file that every request appends its
    id to), latency_s, those of ScriptedSilence."""

    max_model_tokens = 16_384

    async def generate(self, request: Request) -> Completion:
        if "journal" in self._script:
            with open(self._script["journal"], "a") as file:
                file.write(request.request_id.partition("\x1f")[0] + "\n")
        await self._silence.keep()
        await asyncio.sleep(float(self._script.get("latency_s", 0.0)))
        content = request.prompt.messages[-1]["content"]
        if "codebook>" not in content:
            return Completion(f"The label {request.seed % 7} is said plainly.\nNothing else is said.", "stop", 12)
        qualities = self._script.get("qualities", [0.5])
        quality = qualities[request.seed % len(qualities)]
        text = f"Give 1 where the label is one, 2 for two, 3 for three, 4 for four, 5 for five: quality {quality}."
        return Completion(f"<codebook>\n{text}\n</codebook>", "stop", 20)

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        raise NotImplementedError
