"""One engine that answers calls. Knows no Ray and no store: a batch of calls goes in, rows come out as they end."""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from judgetrace.engine import (
    Completion,
    Engine,
    EngineDeadError,
    Prompt,
    PromptRefusedError,
    Request,
    RequestFailedError,
)
from judgetrace.engine_loop import give_up_when_silent, load_thinking_engine, run_each_on, run_on, start_loop
from judgetrace.parsing import THINK_CLOSE
from judgetrace.refining.calls import Call
from judgetrace.refining.candidate_config import GeneratorConfig
from judgetrace.refining.engine_pool import DoneRow

ENGINE_TRIES = 3
_THINK_OPEN = re.compile(r"^\s*<think>\s*", re.IGNORECASE)


class GeneratorWorker:
    """Takes calls with their ids, yields rows of calls.CALLS. `work` may be called from several threads."""

    def __init__(self, config: GeneratorConfig):
        self._config = config
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._in_flight, self._busy_since, self._busy_s, self._num_requests = 0, 0.0, 0.0, 0
        self.loop = start_loop()
        self._engine: Engine = run_on(self.loop, self._start())

    def work(self, calls: Sequence[tuple[str, Call]]) -> Iterator[tuple[int, DoneRow]]:
        """Answer calls; yields (place, row) as they end. Raises EngineDeadError where the engine is gone."""
        prompts = self._engine.make_prompts([call.conversation() for _, call in calls])
        answers = [self._answer_or_die(*pair, prompt) for pair, prompt in zip(calls, prompts, strict=True)]
        for place, row in run_each_on(self.loop, answers):
            yield place, DoneRow(row, self._name, self._count_busy())

    def refuse(self, call: tuple[str, Call], reason: str) -> DoneRow:
        """Make the row of a call that can't be asked."""
        row = _make_row(*call) | {"outcome": "quarantined", "error": reason}
        return DoneRow(row, self._name, self._count_busy())

    def _count_busy(self) -> float:
        """Count the seconds that the engine has had something to do."""
        return self._busy_s + (time.monotonic() - self._busy_since if self._in_flight else 0.0)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    async def _start(self) -> Engine:
        config = self._config
        engine = load_thinking_engine(
            config.model, config.engine, config.endpoint, config.stops_apart, config.chat_template_args
        )
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watching = give_up_when_silent(
            engine,
            config.engine.silent_s,
            lambda: (self._in_flight, self._num_requests - self._in_flight),
            self._gone.set_exception,
        )
        self._watching = asyncio.create_task(watching)
        return engine

    async def _answer_or_die(self, call_id: str, call: Call, prompt: Prompt) -> dict[str, Any]:
        """Answer a call, unless the engine is given up before."""
        answer = asyncio.ensure_future(self._answer(call_id, call, prompt))
        try:
            await asyncio.wait((answer, self._gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self._gone.result()
            return answer.result()
        finally:
            answer.cancel()

    async def _answer(self, call_id: str, call: Call, prompt: Prompt) -> dict[str, Any]:
        row = _make_row(call_id, call)
        if call.begun:
            prompt = self._engine.continue_prompt(prompt, call.begun)
        limit = self._engine.max_model_tokens
        if limit is not None and not prompt.is_estimated and prompt.num_tokens + call.max_tokens > limit:
            wanted = f"{prompt.num_tokens} tokens of prompt and {call.max_tokens} of output"
            return row | {"outcome": "quarantined", "error": f"{wanted}, the model takes {limit}"}
        try:
            answer = await self._generate(call_id, call, prompt)
        except PromptRefusedError as error:
            return row | {"outcome": "quarantined", "error": str(error)[:500]}
        except EngineDeadError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes the row's reason
            return row | {"outcome": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
        return row | self._read(call, answer, prompt)

    async def _generate(self, call_id: str, call: Call, prompt: Prompt) -> Completion:
        """Ask until the engine answers; what is final is raised at once, anything else after some tries."""
        for attempt in range(ENGINE_TRIES):
            try:
                return await self._note_busy(call_id, call, prompt)
            except (EngineDeadError, PromptRefusedError, RequestFailedError):
                raise
            except Exception:
                if attempt == ENGINE_TRIES - 1:
                    raise
        raise AssertionError("the last try returned or raised")

    async def _note_busy(self, call_id: str, call: Call, prompt: Prompt) -> Completion:
        config = self._config
        self._num_requests += 1
        if not self._in_flight:
            self._busy_since = time.monotonic()
        self._in_flight += 1
        try:
            return await self._engine.generate(
                Request(
                    request_id=f"{call_id}\x1f{self._num_requests}",
                    prompt=prompt,
                    seed=call.seed,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    top_k=config.top_k,
                    max_tokens=call.max_tokens,
                    stop=call.stop,
                )
            )
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._busy_s += time.monotonic() - self._busy_since

    def _read(self, call: Call, found: Completion, prompt: Prompt) -> dict[str, Any]:
        thinking, text = split_thinking(found, self._config.thinking)
        told = prompt.num_tokens if found.prompt_tokens is None else found.prompt_tokens
        row = {"prompt_tokens": told, "output_tokens": found.output_tokens, "thinking": thinking, "error": found.error}
        if found.error is not None or text is None:
            # A refusal, or thinking that was cut off: another seed may be answered.
            return row | {"outcome": "truncated" if found.finish_reason == "length" else "answered", "text": ""}
        outcome = "truncated" if found.finish_reason == "length" else "answered"
        return row | {"outcome": outcome, "text": call.begun + text}


def _make_row(call_id: str, call: Call) -> dict[str, Any]:
    row = {"call_id": call_id, "kind": call.kind, "prompt_tokens": 0, "output_tokens": 0}
    return row | dict.fromkeys(("text", "thinking", "error"))


def split_thinking(found: Completion, form: str) -> tuple[str | None, str | None]:
    """Split a completion into thinking and answer; the answer is None where the thinking never ends.

    A model that thinks unasked is understood as well.
    """
    if form == "parser" and found.content is not None:
        return found.reasoning, found.content
    head, closed, tail = found.text.partition(THINK_CLOSE)
    if closed:
        return _THINK_OPEN.sub("", head).strip() or None, tail
    if form == "none" and not _THINK_OPEN.match(found.text):
        return found.reasoning, found.text
    return _THINK_OPEN.sub("", found.text).strip() or None, None
