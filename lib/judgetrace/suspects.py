"""Find the unit that kills engines: who was in flight when one died is drawn alone, and who kills again is named.

The ledger's rows carry the suspicion, so that any later worker, driver or cluster knows of it: a row without outcome
and with SUSPECTED as its error, written by the worker whose engine died. A suspect is cleared when it ends. A death
while a suspect runs alone is its second, and no other unit can have caused it: it is quarantined. A death that came
from outside the engine (EngineDeadError.from_outside) makes no suspects. Of a worker whose own process crashed, its
successor on the node learns what was in flight (flight_recorder.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.asking import AskedUnit
from judgetrace.decisions import Decider
from judgetrace.engine import EngineDeadError
from judgetrace.ledger import table_keys
from judgetrace.sampling import Draw, UnitSampling, draw_seed
from judgetrace.scheduler import UnitWork
from judgetrace.schema import UnitKey

SUSPECTED = "in flight when the engine died"
KILLED_TWICE = "killed the engine twice"


def find_suspects(latest: pa.Table) -> set[UnitKey]:
    """Find the suspects among a shard's decisions, one row a unit (ShardLedger.latest)."""
    marked = pc.and_(pc.equal(latest["outcome"], "undecided"), pc.equal(latest["error"], SUSPECTED))
    return set(table_keys(latest.filter(pc.fill_null(marked, False))))


def blame_unit(work: UnitWork, failure: BaseException, decider: Decider) -> dict[str, Any] | None:
    """Make the row (schema `decider.product.decisions`) that a unit gets because its engine died.

    None where nothing new is to be said of it: it was not in flight, or no unit is to blame. The draws of a unit that
    killed the engine alone are recorded as failed, with the tokens of their prompts; what they gave is lost with it.
    """
    if not isinstance(failure, EngineDeadError) or failure.from_outside or not work.lost_draws:
        return None
    if not work.alone:
        return mark_suspect(decider.decide(work.payload, work.sampling))
    for index in sorted(work.lost_draws):
        seed = draw_seed(decider.sampling.seed, work.payload.key, index)
        tokens = work.payload.prompt.num_tokens
        work.sampling.finish(Draw(index, seed, "failed", prompt_tokens=tokens, error=str(failure)[:500]))
    return decider.decide(replace(work.payload, refused=f"{KILLED_TWICE}: {failure}"[:500]), work.sampling)


def accuse_unit(unit: AskedUnit, sampling: UnitSampling, was_alone: bool, decider: Decider) -> dict[str, Any]:
    """Make the row of a unit that was in flight when a worker's own process crashed."""
    if was_alone:
        unit = replace(unit, refused=f"{KILLED_TWICE}: its process crashed")
    return mark_suspect(decider.decide(unit, sampling))


def mark_suspect(row: dict[str, Any]) -> dict[str, Any]:
    """Mark a unit's row, if it has no outcome yet."""
    return row | {"error": SUSPECTED} if row["outcome"] == "undecided" else row
