"""One engine that rates items by one guideline after another: what rate_items would give, asked by the same parts.

Knows no Ray and no store: a batch goes in, its rows come out as they are decided.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from judgetrace.asking import AskedUnit, UnitAsker
from judgetrace.draws import DrawSampler
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import (
    Completion,
    Engine,
    EngineConfig,
    LevelScores,
    ModelConfig,
    Prompt,
    PromptRefusedError,
    Request,
)
from judgetrace.engine_loop import (
    check_room,
    give_up_when_silent,
    load_thinking_engine,
    run_each_on,
    run_on,
    start_loop,
)
from judgetrace.guideline import Guideline
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.ratings import RatingDecider
from judgetrace.refining.engine_pool import DoneRow
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.scale import ScaleConfig
from judgetrace.scheduler import DrawScheduler, UnitWork
from judgetrace.unit_worker import QUEUED_SHARE


@dataclass(frozen=True)
class RaterSpec:
    """All that a rater's worker needs to know; can be pickled."""

    model: ModelConfig
    engine: EngineConfig
    endpoint: EndpointConfig | None
    prompt: PromptConfig
    template: str
    scale: ScaleConfig
    thinking: ThinkingConfig
    decider: RatingDecider
    beside: int = 0
    """Engines of the other raters, which run at the same time."""


@dataclass(frozen=True)
class RatingCall:
    """An item to rate by a guideline."""

    text: str
    """Fingerprint of the guideline."""
    guideline: str
    """What the rater is told."""
    row: Mapping[str, Any]
    """A row of schema.ITEMS."""


class TaggedEngine:
    """An engine as one batch sees it. Several guidelines ask about a unit at once, and an engine takes an id once."""

    def __init__(self, engine: Engine, tag: str):
        self._engine, self._tag = engine, tag
        self.max_model_tokens, self.special_tokens = engine.max_model_tokens, engine.special_tokens

    @property
    def num_beats(self) -> int | None:
        """How often the engine has given a sign of life."""
        return self._engine.num_beats

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        """Make prompts."""
        return self._engine.make_prompts(conversations)

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        """Let the answer begin with `text`."""
        return self._engine.continue_prompt(prompt, text)

    async def generate(self, request: Request) -> Completion:
        """Sample a completion."""
        return await self._engine.generate(replace(request, request_id=f"{request.request_id}\x1f{self._tag}"))

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        """Score whole levels."""
        return await self._engine.score_levels(f"{request_id}\x1f{self._tag}", prompt, levels)

    def close(self) -> None:
        """Leave the engine to its worker."""


class RaterWorker:
    """Takes calls, yields rows of schema.RATINGS. One instance is one engine; `work` is called from several threads."""

    def __init__(self, spec: RaterSpec):
        self._spec = spec
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._num_batches = self._num_ended = 0
        self.loop = start_loop()
        run_on(self.loop, self._start())

    def work(self, calls: Sequence[RatingCall]) -> Iterator[tuple[int, DoneRow]]:
        """Rate items, all by one guideline; yields (place, row) as they end.

        Raises EngineDeadError where the engine is gone.
        """
        works = run_on(self.loop, self._ask(calls))
        for place, row in run_each_on(self.loop, [self._rate(work) for work in works]):
            yield place, DoneRow(row, self._name, self._scheduler.busy_s)

    def refuse(self, call: RatingCall, reason: str) -> DoneRow:
        """Make the row of an item that can't be rated."""
        (work,) = run_on(self.loop, self._ask([call], reason))
        return DoneRow(run_on(self.loop, self._rate(work)), self._name, self._scheduler.busy_s)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    async def _start(self) -> None:
        spec = self._spec
        self._engine = load_thinking_engine(
            spec.model,
            spec.engine,
            spec.endpoint,
            spec.thinking,
            spec.prompt.chat_template_args,
            beside=spec.beside,
        )
        max_tokens = spec.decider.sampling.max_tokens
        check_room(self._engine, max_tokens, f"decoding.max_tokens {max_tokens} of {spec.decider.rater_id}")
        slots = spec.engine.slots
        self._scheduler = DrawScheduler(slots + slots // QUEUED_SHARE, self._sample)
        watching = give_up_when_silent(
            self._engine,
            spec.engine.silent_s,
            lambda: (self._scheduler.in_flight, self._num_ended),
            self._scheduler.fail,
        )
        self._watching = asyncio.create_task(watching)

    async def _ask(self, calls: Sequence[RatingCall], refused: str | None = None) -> list[UnitWork]:
        """Make the prompts of items; `refused` is why none of them is to be asked about."""
        spec, decider = self._spec, self._spec.decider
        self._num_batches += 1
        engine = TaggedEngine(self._engine, str(self._num_batches))
        asker = UnitAsker(
            engine,
            spec.prompt,
            spec.template,
            Guideline(calls[0].guideline),
            spec.scale,
            max_output_tokens=decider.sampling.max_tokens,
            thinks=spec.thinking.format != "none",
        )
        sampler = DrawSampler(engine, spec.thinking, decider)
        units = await asyncio.to_thread(asker.ask, [call.row for call in calls])
        if refused is not None:
            units = [replace(unit, refused=refused) for unit in units]
        return [UnitWork(UnitSampling(decider.sampling), (unit, sampler), one_at_a_time=False) for unit in units]

    async def _rate(self, work: UnitWork) -> dict[str, Any]:
        if _find_unit(work).refused is None:
            await self._scheduler.submit(work)
        return self._spec.decider.decide(_find_unit(work), work.sampling)

    async def _sample(self, work: UnitWork, index: int, may_be_cancelled: bool) -> Draw:
        unit, sampler = work.payload
        try:
            draw: Draw = await sampler.sample(unit, index, may_be_cancelled)
        except PromptRefusedError as error:
            work.payload = (replace(unit, refused=str(error)), sampler)
            work.sampling.refuse()
            draw = Draw(index, 0, "failed", error=str(error))
        self._num_ended += 1
        return draw


def _find_unit(work: UnitWork) -> AskedUnit:
    unit: AskedUnit = work.payload[0]
    return unit
