"""Sample one draw of a unit with an engine: think, rate, parse, accept. Knows no scheduling and no ledger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from judgetrace.acceptance import AcceptanceConfig, accept_rating
from judgetrace.asking import AskedUnit
from judgetrace.engine import Completion, Engine, EngineDeadError, PromptRefusedError, Request
from judgetrace.parsing import (
    RATING_CLOSE,
    RATING_OPEN,
    THINK_CLOSE,
    ParsedOutput,
    ThinkingConfig,
    parse_answer,
    parse_output,
)
from judgetrace.sampling import Draw, SamplingConfig, draw_seed
from judgetrace.scale import Scale

CONSTRAINED_RATING_TOKENS = 16
ENGINE_TRIES = 3


class DrawSampler:
    """Samples draws by the config of a run."""

    def __init__(
        self, engine: Engine, sampling: SamplingConfig, thinking: ThinkingConfig, acceptance: AcceptanceConfig
    ):
        self._engine, self._sampling, self._thinking, self._acceptance = engine, sampling, thinking, acceptance

    async def sample(self, unit: AskedUnit, index: int, may_be_cancelled: bool) -> Draw:
        """Sample draw `index`. Errors of the engine's about this draw become a failed draw after some tries.

        Cancelling returns a cancelled draw with the tokens that came. Raises EngineDeadError, PromptRefusedError.
        """
        seed = draw_seed(self._sampling.seed, unit.key, index)
        tokens = [0]
        for attempt in range(ENGINE_TRIES):
            try:
                return await self._ask(unit, index, seed, attempt, tokens if may_be_cancelled else None)
            except asyncio.CancelledError:
                return Draw(index, seed, "cancelled", prompt_tokens=unit.prompt.num_tokens, output_tokens=tokens[0])
            except (EngineDeadError, PromptRefusedError):
                raise
            except Exception as error:  # noqa: BLE001 - becomes the draw's reason
                failure = f"{type(error).__name__}: {error}"[:500]
        return Draw(index, seed, "failed", prompt_tokens=unit.prompt.num_tokens, error=failure)

    async def _ask(self, unit: AskedUnit, index: int, seed: int, attempt: int, tokens: list[int] | None) -> Draw:
        request = self._thinking_request(unit, index, seed, attempt, tokens)
        completion = await self._engine.generate(request)
        parsed = self._parse(completion, unit.scale)
        prompt_tokens = unit.prompt.num_tokens if completion.prompt_tokens is None else completion.prompt_tokens
        output_tokens, constrained, text = completion.output_tokens, False, completion.text
        if self._needs_constrained_rating(parsed, completion):
            parsed, rated = await self._rate_constrained(unit, request, parsed, completion)
            if rated is not None:
                # What a server counts it bills; an engine of our own has the prompt cached.
                prompt_tokens, output_tokens = (
                    prompt_tokens + (rated.prompt_tokens or 0),
                    output_tokens + rated.output_tokens,
                )
            constrained = True
            text = f"{text.removesuffix(RATING_OPEN)}{RATING_OPEN}{parsed.rating or ''}{RATING_CLOSE}"
        reason, accepted_by = self._judge(parsed, unit)
        return Draw(
            index=index,
            seed=seed,
            reason=reason,
            rating=parsed.rating,
            accepted_by=accepted_by,
            constrained=constrained,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            text=text,
            trace=parsed.trace,
        )

    def _thinking_request(
        self, unit: AskedUnit, index: int, seed: int, attempt: int, tokens: list[int] | None
    ) -> Request:
        always = self._thinking.constrained_rating == "always"
        plain = self._thinking.format == "plain"
        stop = self._thinking.stop
        if always:
            stop = (*stop, RATING_OPEN if plain else THINK_CLOSE)
        elif self._thinking.stop_at_rating and plain:
            stop = (*stop, RATING_CLOSE)

        def note(count: int) -> None:
            if tokens is not None:
                tokens[0] = count

        return Request(
            request_id="\x1f".join((*unit.key, str(index), str(attempt))),
            prompt=unit.prompt,
            seed=seed,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            max_tokens=self._sampling.max_tokens - (CONSTRAINED_RATING_TOKENS if self._may_constrain else 0),
            stop=stop,
            on_tokens=None if tokens is None else note,
        )

    @property
    def _may_constrain(self) -> bool:
        return self._thinking.constrained_rating != "never"

    def _parse(self, completion: Completion, scale: Scale) -> ParsedOutput:
        was_cut = completion.finish_reason == "length"
        if self._thinking.format != "parser":
            return parse_output(completion.text, was_cut, self._thinking, scale)
        if completion.content is None:
            return ParsedOutput(completion.reasoning, None, "truncated" if was_cut else "unparsed")
        return parse_answer(completion.reasoning or "", completion.content, was_cut, scale)

    def _needs_constrained_rating(self, parsed: ParsedOutput, completion: Completion) -> bool:
        """Thinking that was cut off is never given a rating: nothing says where it would have led."""
        if completion.finish_reason == "length":
            return False
        mode = self._thinking.constrained_rating
        return mode == "always" or (mode == "fallback" and parsed.rating is None)

    async def _rate_constrained(
        self, unit: AskedUnit, request: Request, parsed: ParsedOutput, completion: Completion
    ) -> tuple[ParsedOutput, Completion | None]:
        plain = self._thinking.format == "plain"
        thinking = (completion.text.partition(RATING_OPEN)[0] if plain else completion.text).rstrip()
        close = "" if plain or THINK_CLOSE in thinking else f"\n{THINK_CLOSE}"
        rating_request = replace(
            request,
            request_id=request.request_id + "\x1frating",
            prompt=self._engine.continue_prompt(unit.prompt, f"{thinking}{close}\n{RATING_OPEN}"),
            max_tokens=CONSTRAINED_RATING_TOKENS,
            stop=(),
            choices=unit.scale.values,
            on_tokens=None,
        )
        try:
            rated = await self._engine.generate(rating_request)
        except PromptRefusedError:
            # The unit can be asked; this one thinking was too long to be followed by anything.
            return ParsedOutput(parsed.trace, None, "truncated"), None
        level = unit.scale.find_level(rated.text)
        trace = thinking if self._thinking.format == "plain" else (parsed.trace or thinking)
        if level is None:
            return ParsedOutput(trace, None, "unparsed"), rated
        return ParsedOutput(trace, unit.scale.values[level], None), rated

    def _judge(self, parsed: ParsedOutput, unit: AskedUnit) -> tuple[Any, str | None]:
        if parsed.rating is None:
            return parsed.reason or "unparsed", None
        accepted_by = accept_rating(
            parsed.rating, unit.accepted_labels, unit.annotator_labels, unit.scale, self._acceptance
        )
        return ("accepted" if accepted_by else "disagrees"), accepted_by
