"""What a run with a scripted engine comes to, without running it: a draw is a function of unit and index."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from judgetrace.engine import Engine, Prompt, Request
from judgetrace.schema import unit_key


def foretell_units(engine: Engine, items: Sequence[Mapping[str, Any]], max_draws: int) -> set[tuple[Any, ...]]:
    """Foretell what oracle.accepted_set says of these units; `engine` is a scripted one that answers at once."""
    return asyncio.run(_foretell_all(engine, items, max_draws))


async def _foretell_all(engine: Engine, items: Sequence[Mapping[str, Any]], max_draws: int) -> set[tuple[Any, ...]]:
    return {(*unit_key(item), *await _foretell(engine, item, max_draws)) for item in items}


async def _foretell(engine: Engine, item: Mapping[str, Any], max_draws: int) -> tuple[Any, ...]:
    label = item["target_label"]
    for index in range(max_draws):
        text = (await engine.generate(ask_scripted(item, index))).text
        trace, _, rating = text.removesuffix("</rating>").rpartition(" <rating>")
        if rating == label:
            return "accepted", index, label, trace
    return "exhausted", None, None, None


def ask_scripted(item: Mapping[str, Any], index: int) -> Request:
    """Ask for a unit's draw, as a scripted engine needs to be asked."""
    request_id = "\x1f".join((*unit_key(item), str(index)))
    return Request(request_id, Prompt(1), seed=0, temperature=1.0, top_p=1.0, top_k=-1, max_tokens=100)
