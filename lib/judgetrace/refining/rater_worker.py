"""One engine that rates items by one guideline after another: what rate_items would give, asked by the same parts.

Knows no Ray and no store: a batch goes in, its rows come out.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
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
from judgetrace.engine_loop import check_room, give_up_when_silent, load_thinking_engine, run_on, start_loop
from judgetrace.guideline import Guideline
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig
from judgetrace.ratings import RatingDecider
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
class RatingBatch:
    """Items to rate by one guideline."""

    text: str
    """Fingerprint of the guideline."""
    guideline: str
    """What the rater is told."""
    rows: Sequence[Mapping[str, Any]]
    """Rows of schema.ITEMS."""

    def split(self) -> list[RatingBatch]:
        """Make batches of one item each."""
        return [replace(self, rows=[row]) for row in self.rows]


@dataclass(frozen=True)
class RatedBatch:
    """Rows of schema.RATINGS, one an item, in their order; how long the engine has been busy since its start."""

    rows: list[dict[str, Any]]
    worker: str
    engine_s: float


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
    """Takes batches, returns ratings. One instance is one engine; `work` may be called from several threads."""

    def __init__(self, spec: RaterSpec):
        self._spec = spec
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._num_batches = self._num_ended = 0
        self.loop = start_loop()
        run_on(self.loop, self._start())

    def work(self, batch: RatingBatch) -> RatedBatch:
        """Rate a batch. Raises EngineDeadError where the engine is gone."""
        rows = run_on(self.loop, self._rate(batch))
        return RatedBatch(rows, self._name, self._scheduler.busy_s)

    def refuse(self, batch: RatingBatch, reason: str) -> RatedBatch:
        """Make the rows of items that can't be rated."""
        rows = run_on(self.loop, self._rate(batch, reason))
        return RatedBatch(rows, self._name, self._scheduler.busy_s)

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

    async def _rate(self, batch: RatingBatch, refused: str | None = None) -> list[dict[str, Any]]:
        """Rate a batch; `refused` is why none of its items is to be asked about."""
        spec, decider = self._spec, self._spec.decider
        self._num_batches += 1
        engine = TaggedEngine(self._engine, str(self._num_batches))
        asker = UnitAsker(
            engine,
            spec.prompt,
            spec.template,
            Guideline(batch.guideline),
            spec.scale,
            max_output_tokens=decider.sampling.max_tokens,
            thinks=spec.thinking.format != "none",
        )
        sampler = DrawSampler(engine, spec.thinking, decider)
        units = await asyncio.to_thread(asker.ask, batch.rows)
        if refused is not None:
            units = [replace(unit, refused=refused) for unit in units]
        works = [UnitWork(UnitSampling(decider.sampling), (unit, sampler), one_at_a_time=False) for unit in units]
        await asyncio.gather(*(self._scheduler.submit(work) for work in works if _find_unit(work).refused is None))
        return [decider.decide(_find_unit(work), work.sampling) for work in works]

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
