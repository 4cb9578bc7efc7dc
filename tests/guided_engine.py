"""An engine without a model whose ratings depend on the guideline: a better text makes a better rater.

A guideline's quality is written in it ("quality 0.7"): the chance that an item's rating is the number that the item's
text holds ("label 3"), else the next level up. Which it is depends on the item and the quality alone. All figures made
with it are simulated.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from judgetrace.engine import Completion, EngineDeadError, EngineSpec, LevelScores, Prompt, PromptRefusedError, Request
from judgetrace.fingerprints import hash_text

LEVELS = ("1", "2", "3", "4", "5")


def read_quality(prompt: str) -> float:
    """The quality of the guideline in a prompt."""
    found = re.search(r"quality (\d\.\d+)", prompt)
    return float(found[1]) if found else 0.3


def read_label(prompt: str) -> int:
    """The label that the item in a prompt holds."""
    return int(re.findall(r"label (\d)", prompt)[-1])


class ScriptedSilence:
    """An engine's signs of life, and their end. Script: silent_once (a file: the engine says nothing more after
    `silent_after` requests unless it exists)."""

    def __init__(self, script: Mapping[str, Any]):
        self._once, self._after = script.get("silent_once"), script.get("silent_after", 0)
        self._num_requests = self._beats = 0
        self._is_silent = False

    @property
    def num_beats(self) -> int:
        """A token of some request, at every look, for as long as it is not silent."""
        self._beats += not self._is_silent
        return self._beats

    async def keep(self) -> None:
        """Never return once the engine is silent."""
        self._num_requests += 1
        if self._once and self._num_requests > self._after and not os.path.exists(self._once):
            open(self._once, "w").close()
            self._is_silent = True
        if self._is_silent:
            await asyncio.Event().wait()


class GuidedModel:
    """What engines without a model have in common: words are tokens, and their script is `engine.args`."""

    max_model_tokens = 4096
    special_tokens = ()

    def __init__(self, spec: EngineSpec):
        self._script: dict[str, Any] = spec.engine.args
        self._silence = ScriptedSilence(self._script)

    @property
    def num_beats(self) -> int:
        return self._silence.num_beats

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        return [Prompt(len(some[-1]["content"].split()), messages=some) for some in conversations]

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        return Prompt(prompt.num_tokens, messages=prompt.messages, begun=text)

    def close(self) -> None:
        pass


class GuidedEngine(GuidedModel):
    """Script, in `engine.args`, beside those of ScriptedSilence:

    journal     a file that every request appends a line to: model, fingerprint of the guideline, item
    latency_s   time of a request
    shift       of the rater's own: its chances are lower by that
    fail_once   a folder: each item fails the first time asked
    poison      an item id that is refused
    kills       an item id that the engine dies of
    dies_once   a file: the engine dies after `dies_after` requests unless it exists
    """

    def __init__(self, spec: EngineSpec):
        super().__init__(spec)
        self._path = spec.model.path
        self._num_requests = 0

    async def generate(self, request: Request) -> Completion:
        item_id = request.request_id.partition("\x1f")[0]
        if item_id == self._script.get("poison"):
            raise PromptRefusedError("scripted refusal")
        self._die_when_due()
        self._note(request)
        await self._silence.keep()
        await asyncio.sleep(float(self._script.get("latency_s", 0.0)))
        if item_id == self._script.get("kills"):
            raise EngineDeadError(f"scripted death of {item_id}")
        self._fail_the_first_time(item_id)
        level = self._choose_level(request.prompt.messages[-1]["content"], item_id)
        return Completion(f"It is so. <rating>{LEVELS[level]}</rating>", "stop", 5)

    def _choose_level(self, prompt: str, item_id: str) -> int:
        quality = read_quality(prompt) - float(self._script.get("shift", 0.0))
        label = read_label(prompt) - 1
        digest = hashlib.blake2b(item_id.encode(), digest_size=8).digest()
        return label if int.from_bytes(digest, "big") / 2**64 < quality else (label + 1) % len(LEVELS)

    def _note(self, request: Request) -> None:
        if "journal" in self._script:
            guideline = request.prompt.messages[-1]["content"].partition("\n[text]")[0].strip()
            item_id = request.request_id.partition("\x1f")[0]
            with open(self._script["journal"], "a") as file:
                file.write(f"{self._path}\t{hash_text(guideline + chr(10))}\t{item_id}\n")

    def _fail_the_first_time(self, item_id: str) -> None:
        if "fail_once" in self._script:
            path = os.path.join(self._script["fail_once"], item_id)
            if not os.path.exists(path) or os.path.getsize(path) < 3:  # a draw is tried three times
                with open(path, "a") as file:
                    file.write(".")
                raise RuntimeError("scripted failure")

    def _die_when_due(self) -> None:
        self._num_requests += 1
        once = self._script.get("dies_once")
        if once and self._num_requests > self._script.get("dies_after", 0) and not os.path.exists(once):
            open(once, "w").close()
            raise EngineDeadError("scripted death")

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        level = self._choose_level(prompt.messages[-1]["content"], request_id.partition("\x1f")[0])
        return LevelScores(tuple(0.0 if n == level else -math.inf for n in range(len(levels))), None, 1)
