"""An engine without a model, for tests and for scale: it replaces tokenizing and generating, nothing else.

What it answers is a function of unit and draw index alone, whatever its latency.
All figures made with it are simulated.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from judgetrace.engine import Completion, EngineDeadError, EngineSpec, LevelScores, Prompt, PromptRefusedError, Request


class ScriptedEngine:
    """Rates each unit around a favourite level of its own. Script, in `engine.args`:

    levels            the ratings to choose from
    favour            probability of the unit's favourite level (else uniform)
    latency_s         mean time of a draw, exponential; 0 answers at once
    crowd_s           seconds that a draw takes beyond that where it is not alone
    output_tokens     tokens that a draw counts
    unparsed_rate     share of draws without a rating
    fail_rate         share of draws that raise, again at every try
    max_model_len     longest prompt and output, in words
    poison            item ids that the engine refuses
    fails_to_start    the engine can't be made, for this reason
    hangs_once        a file: the first engine that starts makes it, and never gets any further
    fails_beside      a file: of the engines but the first, the next one that starts once others have drawn can't be
                      made, and makes the file (needs `journal`)
    journal           a file that every draw appends a line to: process id, Ray node, item id, draw index
    dies_after        the engine dies for good after so many draws (a file `dies_once` makes that happen once)
    kills             item ids that the engine dies of: at the end of their draw
    crashes           item ids that the whole process crashes of (SIGABRT), likewise
    vanishes          item ids that the process is killed of (SIGKILL), likewise: nothing on its machine says why
    silent_after      the engine says nothing more after so many draws (a file `silent_once` makes that happen once)
    """

    def __init__(self, spec: EngineSpec):
        script: dict[str, Any] = spec.engine.args
        if "fails_to_start" in script:
            raise ValueError(script["fails_to_start"])
        if "hangs_once" in script and _make_once(script["hangs_once"]):
            time.sleep(3600)
        if "fails_beside" in script:
            _fail_beside_another(script["fails_beside"], script["journal"])
        self._levels = [str(level) for level in script.get("levels", range(1, 6))]
        self._script = script
        self._slots = asyncio.Semaphore(spec.engine.slots)
        self._num_draws = 0
        self._is_silent = False
        self._num_waiting = 0
        self._beats = 0
        self.max_model_tokens = int(script.get("max_model_len", 4096))
        self.special_tokens = ("<|im_start|>", "<|im_end|>")

    @property
    def num_beats(self) -> int:
        """A token of some request, at every look, for as long as it is not silent."""
        self._beats += not self._is_silent
        return self._beats

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        return [Prompt(sum(len(message["content"].split()) for message in messages)) for messages in conversations]

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        return Prompt(prompt.num_tokens + len(text.split()))

    async def generate(self, request: Request) -> Completion:
        item_id, dimension, target_source, index = request.request_id.split("\x1f")[:4]
        if item_id in self._script.get("poison", ()):
            raise PromptRefusedError(f"scripted refusal of {item_id}")
        self._die_when_due()
        self._note(item_id, index)
        self._fall_silent_when_due()
        unit = (item_id, dimension, target_source)
        tokens = int(self._script.get("output_tokens", 20))
        await self._wait(_hash_random("latency", *unit, index), tokens, request)
        if self._is_silent:
            await asyncio.Event().wait()
        if item_id in self._script.get("kills", ()):
            self._note(f"killed by {item_id}", index)
            raise EngineDeadError(f"scripted death of {item_id}")
        if item_id in self._script.get("hangs", ()):
            self._note(f"killed by {item_id}", index)
            time.sleep(3600)
        if item_id in self._script.get("crashes", ()):
            self._note(f"killed by {item_id}", index)
            os.abort()
        if item_id in self._script.get("vanishes", ()):
            self._note(f"killed by {item_id}", index)
            os.kill(os.getpid(), signal.SIGKILL)
        choice = _hash_random("draw", *unit, index)
        if choice.random() < self._script.get("fail_rate", 0.0):
            raise RuntimeError("scripted failure")
        if choice.random() < self._script.get("unparsed_rate", 0.0):
            return Completion("I can't say.", "stop", tokens)
        favourite = _hash_random("unit", *unit).choice(self._levels)
        rating = favourite if choice.random() < self._script.get("favour", 0.3) else choice.choice(self._levels)
        if request.choices is not None:
            return Completion(rating, "stop", 1)
        return Completion(f"Draw {index} of {item_id} thinks. <rating>{rating}</rating>", "stop", tokens)

    async def _wait(self, choice: random.Random, tokens: int, request: Request) -> None:
        latency = float(self._script.get("latency_s", 0.0))
        if latency:
            seconds = choice.expovariate(1 / latency)
            if request.on_tokens is not None:
                request.on_tokens(tokens // 2)
            self._num_waiting += 1
            try:
                await asyncio.sleep(seconds)
                if self._num_waiting > 1:
                    await asyncio.sleep(float(self._script.get("crowd_s", 0.0)))
            finally:
                self._num_waiting -= 1

    def _note(self, item_id: str, index: str) -> None:
        if "journal" in self._script:
            with open(self._script["journal"], "a") as file:
                file.write(f"{os.getpid()}\t{_node_id()}\t{item_id}\t{index}\n")

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        """Half of the probability lies on the unit's favourite level, a quarter on all others together."""
        item_id, dimension, target_source, index = request_id.split("\x1f")[:4]
        if item_id in self._script.get("poison", ()):
            raise PromptRefusedError(f"scripted refusal of {item_id}")
        self._note(item_id, index)
        favourite = _hash_random("unit", item_id, dimension, target_source).choice(self._levels)
        others = 0.25 / (len(levels) - 1)
        return LevelScores(tuple(math.log(0.5 if level == favourite else others) for level in levels), None, 1)

    def _die_when_due(self) -> None:
        self._num_draws += 1
        if self._is_due("dies"):
            raise EngineDeadError("scripted death")

    def _fall_silent_when_due(self) -> None:
        self._is_silent = self._is_silent or self._is_due("silent")

    def _is_due(self, what: str) -> bool:
        due, once = self._script.get(f"{what}_after"), self._script.get(f"{what}_once")
        if due is None or self._num_draws < due or (once and os.path.exists(once)):
            return False
        if once:
            open(once, "w").close()
        return True

    def close(self) -> None:
        pass


def _make_once(name: str) -> bool:
    """Make a file; returns False where it is there."""
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _fail_beside_another(failed: str, journal: str) -> None:
    if _make_once(f"{failed}.first"):
        return
    while not os.path.exists(journal):
        time.sleep(0.1)
    if _make_once(failed):
        raise ValueError("scripted fault of this machine")


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _hash_random(*parts: str) -> random.Random:
    return random.Random(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest())
