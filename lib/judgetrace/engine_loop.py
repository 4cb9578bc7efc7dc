"""Where an engine lives in its worker: an event loop on a thread of its own, and what every worker does to start one.

Knows no Ray, and nothing of what the engine is asked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from typing import Any, TypeVar

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import (
    Engine,
    EngineConfig,
    EngineDeadError,
    EngineSpec,
    EngineStartError,
    ModelConfig,
    load_engine,
)
from judgetrace.loop_guard import guard_block
from judgetrace.parsing import ThinkingConfig
from judgetrace.watchdog import wait_for_silence

Result = TypeVar("Result")


def start_loop() -> asyncio.AbstractEventLoop:
    """Start an event loop on a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="engine-loop", daemon=True).start()
    return loop


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on another thread's loop; returns its result."""
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def run_each_on(
    loop: asyncio.AbstractEventLoop, works: Sequence[Coroutine[Any, Any, Result]]
) -> Iterator[tuple[int, Result]]:
    """Run coroutines at once on another thread's loop; yields (place, result) as they end.

    An error, or whoever stops to iterate, cancels the others; it is raised once the results of those that had ended by
    then are out.
    """
    left = {asyncio.run_coroutine_threadsafe(work, loop): place for place, work in enumerate(works)}
    try:
        for future in as_completed(list(left)):
            if future.exception() is not None:
                ended = [other for other in left if other.done() and other.exception() is None]
                yield from [(left.pop(other), other.result()) for other in ended]
            place = left.pop(future)
            yield place, future.result()
    finally:
        for future in left:
            future.cancel()


def load_thinking_engine(
    model: ModelConfig,
    engine: EngineConfig,
    endpoint: EndpointConfig | None,
    thinking: ThinkingConfig,
    chat_template_args: Mapping[str, object],
    *,
    beside: int = 0,
) -> Engine:
    """Make an engine that splits thinking off as `thinking` says; on the loop it lives on. Raises EngineStartError.

    So many engines of other pools run `beside` those of this one.
    The process is ended where that takes longer than engine.start_s: nothing else could end an engine that hangs.
    """
    # An endpoint splits off the thinking by a parser of its own.
    parser = thinking.parser or ("endpoint" if thinking.format == "parser" else None)
    marks = thinking.marks if thinking.format == "tags" else ()
    with guard_block(engine.start_s):
        return load_engine(EngineSpec(model, engine, parser, chat_template_args, endpoint, marks, beside))


def check_room(engine: Engine, max_tokens: int, name: str) -> None:
    """Raise EngineStartError where outputs of `max_tokens`, called `name` in the config, leave none for a prompt."""
    limit = engine.max_model_tokens
    if limit is not None and limit <= max_tokens:
        raise EngineStartError(
            f"{name} leaves no room for a prompt: the model takes {limit} tokens; lower it, or raise "
            "engine.args.max_model_len (an endpoint's: its server's)"
        )


async def give_up_when_silent(
    engine: Engine, limit_s: float, count: Callable[[], tuple[int, int]], give_up: Callable[[EngineDeadError], None]
) -> None:
    """Wait until an engine has been silent for too long while requests waited, then give it up.

    `count` tells how many requests wait, and how many have ended so far. Returns at once for an engine that shows no
    sign of life before an answer: its requests have timeouts of their own.
    """
    if engine.num_beats is None:
        return

    def look() -> tuple[int, object]:
        waiting, ended = count()
        return waiting, (engine.num_beats, ended)

    silent_s = await wait_for_silence(limit_s, asyncio.get_running_loop().time, look)
    give_up(EngineDeadError(f"no sign of life for {silent_s:.0f} s"))
