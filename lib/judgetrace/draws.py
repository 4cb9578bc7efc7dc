"""Sample one draw of a unit with an engine: think, rate, parse, accept. Knows no scheduling and no ledger."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from judgetrace.asking import AskedUnit
from judgetrace.decisions import Decider
from judgetrace.engine import (
    Completion,
    Engine,
    EngineDeadError,
    Prompt,
    PromptRefusedError,
    Request,
    RequestFailedError,
)
from judgetrace.parsing import (
    RATING_CLOSE,
    RATING_OPEN,
    THINK_CLOSE,
    ParsedOutput,
    ThinkingConfig,
    parse_answer,
    parse_output,
)
from judgetrace.sampling import Draw, DrawReason, draw_seed
from judgetrace.scale import Scale, expect_rating

CONSTRAINED_RATING_TOKENS = 16
ENGINE_TRIES = 3


def count_rating_tokens(scale: Scale) -> int:
    """Count what a rating under a constraint to the scale takes at most; no tokenizer makes more tokens than bytes."""
    longest = max(len(value.encode()) for value in scale.values)
    return max(CONSTRAINED_RATING_TOKENS, longest + 2)


class DrawSampler:
    """Samples draws by the config of a run."""

    def __init__(self, engine: Engine, thinking: ThinkingConfig, decider: Decider):
        self._engine, self._sampling, self._thinking, self._decider = engine, decider.sampling, thinking, decider

    async def sample(self, unit: AskedUnit, index: int, may_be_cancelled: bool) -> Draw:
        """Sample draw `index`. Errors of the engine's about this draw become a failed draw after some tries.

        Cancelling returns a cancelled draw. A draw counts the tokens of all its tries, whatever became of them.
        Raises EngineDeadError, PromptRefusedError.
        """
        seed = draw_seed(self._sampling.seed, unit.key, index)
        spent = _Spent(unit.prompt.num_tokens)
        for attempt in range(ENGINE_TRIES):
            request = self._thinking_request(unit, index, seed, attempt, spent.note if may_be_cancelled else None)
            try:
                return await self._ask(unit, index, request, spent)
            except asyncio.CancelledError:
                spent.end_try()
                return Draw(
                    index, seed, "cancelled", prompt_tokens=spent.prompt_tokens, output_tokens=spent.output_tokens
                )
            except (EngineDeadError, PromptRefusedError):
                raise
            except Exception as error:  # noqa: BLE001 - becomes the draw's reason
                spent.end_try()
                failure = f"{type(error).__name__}: {error}"[:500]
                if isinstance(error, RequestFailedError):
                    break
        return Draw(
            index,
            seed,
            "failed",
            prompt_tokens=spent.prompt_tokens,
            output_tokens=spent.output_tokens,
            error=failure,
        )

    async def _ask(self, unit: AskedUnit, index: int, request: Request, spent: _Spent) -> Draw:
        thought = None if self._skips_thinking else await self._engine.generate(request)
        answer = _Answer(unit, spent, thought, self._thinking.marks[1])
        parsed = self._read_thought(answer)
        found: dict[str, Any] = {}
        if self._wants_rating_apart(answer, parsed):
            if self._rated_while_thinking(answer):
                parsed = ParsedOutput(parsed.trace, None, "unparsed")
            else:
                parsed, found = await self._rate_apart(answer, request, parsed)
        elif self._rates_apart:
            # A rating of its own in a thinking that was cut off is no level's probability and under no constraint.
            parsed = ParsedOutput(parsed.trace, None, "truncated" if answer.was_cut else "unparsed")
        reason, accepted_by = self._judge(parsed, unit)
        return Draw(
            index=index,
            seed=request.seed,
            reason=reason,
            rating=parsed.rating,
            accepted_by=accepted_by,
            prompt_tokens=spent.prompt_tokens,
            output_tokens=spent.output_tokens,
            text=answer.text
            if not found
            else f"{answer.before_rating}{RATING_OPEN}{parsed.rating or ''}{RATING_CLOSE}",
            trace=parsed.trace,
            error=answer.error,
            **found,
        )

    def _thinking_request(
        self, unit: AskedUnit, index: int, seed: int, attempt: int, on_tokens: Callable[[int], None] | None
    ) -> Request:
        stop = self._thinking.stop
        if self._rates_apart:
            stop = (*stop, RATING_OPEN if self._is_plain else self._thinking.marks[1])
        elif self._thinking.stop_at_rating and self._is_plain:
            stop = (*stop, RATING_CLOSE)

        return Request(
            request_id="\x1f".join((*unit.key, str(index), str(attempt))),
            prompt=unit.prompt,
            seed=seed,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            max_tokens=self._count_thinking_tokens(unit.scale),
            stop=stop,
            on_tokens=on_tokens,
        )

    def _count_thinking_tokens(self, scale: Scale) -> int:
        """Count what is left of a draw's tokens beside a rating in a request of its own."""
        reserved = count_rating_tokens(scale) if self._may_rate_apart else 0
        return max(1, self._sampling.max_tokens - reserved)

    @property
    def _rates_apart(self) -> bool:
        """Whether the rating is always asked for in a request of its own."""
        return self._decider.scores_levels or self._thinking.constrained_rating == "always"

    @property
    def _may_rate_apart(self) -> bool:
        return self._rates_apart or self._thinking.constrained_rating == "fallback"

    @property
    def _skips_thinking(self) -> bool:
        return self._thinking.format == "none" and self._rates_apart

    def _read_thought(self, answer: _Answer) -> ParsedOutput:
        if answer.thought is None:
            return ParsedOutput(None, None, None)
        # What a filter stopped may hold a rating by chance; a refusal holds none.
        return ParsedOutput(None, None, "unparsed") if answer.error else self._parse(answer.thought, answer.unit.scale)

    def _parse(self, completion: Completion, scale: Scale) -> ParsedOutput:
        was_cut = completion.finish_reason == "length"
        if completion.reasoning is not None and completion.content is not None:
            return parse_answer(completion.reasoning, completion.content, was_cut, scale)
        if self._thinking.format != "parser":
            return parse_output(completion.text, was_cut, self._thinking, scale)
        if completion.content is None:
            return ParsedOutput(completion.reasoning, None, "truncated" if was_cut else "unparsed")
        if completion.reasoning is None and THINK_CLOSE in completion.content:
            # Whoever was to split it off has not: a server that runs without its parser.
            return parse_output(completion.content, was_cut, ThinkingConfig(format="tags"), scale)
        return parse_answer(completion.reasoning, completion.content, was_cut, scale)

    def _wants_rating_apart(self, answer: _Answer, parsed: ParsedOutput) -> bool:
        """Thinking that was cut off or refused is never given a rating: nothing says where it would have led."""
        if answer.was_cut or answer.error:
            return False
        return self._rates_apart or (self._thinking.constrained_rating == "fallback" and parsed.rating is None)

    @property
    def _is_plain(self) -> bool:
        """Whether nothing but the rating ends the thinking."""
        return self._thinking.format in ("plain", "none")

    def _rated_while_thinking(self, answer: _Answer) -> bool:
        """Whether the model gave a rating inside a thinking that it never closed.

        A further rating would follow that one, and repeat it rather than judge the item.
        """
        if self._is_plain or answer.is_closed or answer.text.endswith(self._thinking.stop):
            return False
        return RATING_OPEN in answer.text.lower()

    def _prompt_rating(self, answer: _Answer) -> Prompt:
        """Make the prompt that ends with an opened rating tag; the answer keeps what stands before the tag."""
        thinking = answer.text.partition(RATING_OPEN)[0] if self._is_plain else answer.text_before_own_rating
        thinking = thinking.rstrip()
        closing = "" if self._is_plain or answer.is_closed else f"\n{self._thinking.marks[1]}"
        answer.thinking, answer.before_rating = thinking, f"{thinking}{closing}\n" if thinking else ""
        return self._engine.continue_prompt(answer.unit.prompt, f"{answer.before_rating}{RATING_OPEN}")

    def _trace(self, answer: _Answer, parsed: ParsedOutput) -> str | None:
        return answer.thinking if self._thinking.format == "plain" else (parsed.trace or answer.thinking or None)

    async def _rate_apart(
        self, answer: _Answer, request: Request, parsed: ParsedOutput
    ) -> tuple[ParsedOutput, dict[str, Any]]:
        """Ask for the rating in a request of its own; returns also what else the draw records of it."""
        prompt = self._prompt_rating(answer)
        scores = self._decider.scores_levels
        try:
            if scores:
                return await self._score(answer, request, parsed, prompt)
            return await self._rate_constrained(answer, request, parsed, prompt), {"constrained": True}
        except PromptRefusedError:
            if self._skips_thinking:
                raise
            # The unit can be asked; this one thinking was too long to be followed by anything.
            return ParsedOutput(parsed.trace, None, "truncated"), {} if scores else {"constrained": True}

    async def _rate_constrained(
        self, answer: _Answer, request: Request, parsed: ParsedOutput, prompt: Prompt
    ) -> ParsedOutput:
        rating_request = replace(
            request,
            request_id=request.request_id + "\x1frating",
            prompt=prompt,
            max_tokens=count_rating_tokens(answer.unit.scale),
            stop=(),
            choices=answer.unit.scale.values,
            on_tokens=None,
        )
        rated = await self._engine.generate(rating_request)
        answer.spent.add(rated.prompt_tokens, rated.output_tokens)
        answer.error = rated.error
        level = None if rated.error else answer.unit.scale.find_level(rated.text)
        trace = self._trace(answer, parsed)
        if level is None:
            return ParsedOutput(trace, None, "unparsed")
        return ParsedOutput(trace, answer.unit.scale.values[level], None)

    async def _score(
        self, answer: _Answer, request: Request, parsed: ParsedOutput, prompt: Prompt
    ) -> tuple[ParsedOutput, dict[str, Any]]:
        """Read the rating off the probabilities of all levels: the most probable one, and their expectation."""
        scale = answer.unit.scale
        scores = await self._engine.score_levels(request.request_id + "\x1fscores", prompt, scale.values)
        answer.spent.add(scores.prompt_tokens, scores.output_tokens)
        answer.error = scores.error
        probabilities = tuple(math.exp(value) for value in scores.log_probabilities)
        trace = self._trace(answer, parsed)
        if not sum(probabilities):
            return ParsedOutput(trace, None, "unparsed"), {}
        likeliest = scale.values[max(range(len(probabilities)), key=probabilities.__getitem__)]
        found = {"level_probabilities": probabilities, "expected": expect_rating(probabilities, scale)}
        return ParsedOutput(trace, likeliest, None), found

    def _judge(self, parsed: ParsedOutput, unit: AskedUnit) -> tuple[DrawReason, str | None]:
        if parsed.rating is None:
            return parsed.reason or "unparsed", None
        return self._decider.judge(parsed.rating, unit)


class _Answer:
    """What the engine has said of a draw so far."""

    def __init__(self, unit: AskedUnit, spent: _Spent, thought: Completion | None, closing: str):
        self.unit, self.spent, self.thought, self._closing = unit, spent, thought, closing
        self.thinking = self.before_rating = ""
        self.error = None if thought is None else thought.error
        if thought is not None:
            spent.add(thought.prompt_tokens, thought.output_tokens)

    @property
    def was_cut(self) -> bool:
        """Whether the thinking ran into the token limit."""
        return self.thought is not None and self.thought.finish_reason == "length"

    @property
    def is_closed(self) -> bool:
        """Whether the thinking ended by a mark of its own: its closing tag, or where a parser split it off."""
        thought = self.thought
        is_split = thought is not None and thought.reasoning is not None and thought.content is not None
        return is_split or self._closing in self.text

    @property
    def text_before_own_rating(self) -> str:
        """The output up to the first rating behind its closed thinking, which may quote the tag."""
        content = None if self.thought is None else self.thought.content
        behind = self.text.partition(self._closing)[2] if content is None else content
        return self.text.rsplit(RATING_OPEN, behind.count(RATING_OPEN))[0]

    @property
    def text(self) -> str:
        """The whole output as it came."""
        return "" if self.thought is None else self.thought.text


class _Spent:
    """The tokens of a draw: of all requests, of all tries."""

    def __init__(self, prompt_tokens: int):
        self._prompt_tokens = prompt_tokens
        self._counted: int | None = None
        self.output_tokens = self._coming = 0

    @property
    def prompt_tokens(self) -> int:
        """As a server counted and bills them, for every request; else of the prompt, which our own engine caches."""
        return self._prompt_tokens if self._counted is None else self._counted

    def note(self, count: int) -> None:
        """Note how many output tokens the request that runs has given so far."""
        self._coming = count

    def add(self, prompt_tokens: int | None, output_tokens: int) -> None:
        """Add those of a request that ended."""
        if prompt_tokens is not None:
            self._counted = (self._counted or 0) + prompt_tokens
        self.output_tokens += output_tokens
        self._coming = 0

    def end_try(self) -> None:
        """Add what came of a request that was broken off."""
        self.add(None, self._coming)
