"""Find the unit that kills engines: what was in flight when one died is drawn alone, and who kills again is named.

The ledger's rows carry the suspicion, so that any later worker, driver or cluster knows of it: a row without outcome
and with SUSPECTED in its error, written by the worker whose engine died. A suspect is cleared when the draws that were
lost have ended alone. A death while a suspect runs alone is its second, and no other unit can have caused it: it is
quarantined, and explains the first death if alone it took no longer to kill than it had been in flight then. The other
suspects of that death are then cleared at once, since there may be hundreds. A death that came from outside the engine
(EngineDeadError.from_outside) makes no suspects. Of a worker whose own process crashed, its successor on the node
learns what was in flight (flight_recorder.py); of one that vanished with its machine or container, from the driver, if
it happens again over the same shard (shard_deaths.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.asking import AskedUnit
from judgetrace.decisions import Decider
from judgetrace.engine import EngineDeadError
from judgetrace.flight_recorder import Crash
from judgetrace.sampling import Draw, UnitSampling, draw_seed
from judgetrace.scheduler import Suspicion, UnitWork
from judgetrace.schema import UNIT_KEY, UnitKey, unit_key

SUSPECTED = "in flight when the engine died"
KILLED_TWICE = "killed the engine twice"


_MARK = re.compile(rf"{SUSPECTED} \((\S+), draws below (\d+), after ([0-9.]+) s\)")


@dataclass
class CrashVerdict:
    """What the crashes of workers say of units."""

    accused: dict[UnitKey, Suspicion] = field(default_factory=dict)
    convicted: set[UnitKey] = field(default_factory=set)
    explained: set[str] = field(default_factory=set)
    """Earlier deaths that the convicted explain."""

    def join(self, other: CrashVerdict) -> None:
        """Take what other crashes say to what these do, whose own word of a unit stands."""
        self.accused = other.accused | self.accused
        self.convicted |= other.convicted
        self.explained |= other.explained


def find_suspects(latest: pa.Table) -> dict[UnitKey, Suspicion]:
    """Find the suspects among a shard's decisions, one row a unit (ShardLedger.latest)."""
    found = {}
    undecided = latest.filter(pc.equal(latest["outcome"], "undecided"))
    for row in undecided.select([*UNIT_KEY, "error"]).to_pylist():
        mark = _MARK.fullmatch(row["error"] or "")
        if mark is not None:
            found[unit_key(row)] = Suspicion(mark[1], int(mark[2]), float(mark[3]))
    return found


def blame_unit(
    work: UnitWork, failure: BaseException, decider: Decider, death: str, culprit: UnitWork | None
) -> dict[str, Any] | None:
    """Make the row (schema `decider.product.decisions`) that a unit gets because its engine died.

    `death` names the death, `culprit` is the unit that was alone, if one was. None where nothing new is to be said of
    the unit. The draws of a unit that killed the engine alone are recorded as failed, with the tokens of their prompts;
    what they gave is lost with it.
    """
    if not isinstance(failure, EngineDeadError):
        return None
    if failure.from_outside:
        # Nobody is to blame, and what was drawn is not drawn again.
        return note_unit(work, decider) if work.sampling.draws else None
    if not work.lost_draws:
        if _is_cleared(work, culprit):
            return decider.decide(work.payload, work.sampling)
        # While others are alone many units wait for their next draw: what they have is kept.
        return note_unit(work, decider) if work.began else None
    if work.suspicion is None:
        work.suspicion = suspect(death, work.lost_draws)
        # Unless its draws ended in the engine's last moment.
        return note_unit(work, decider)
    for index in sorted(work.lost_draws):
        seed = draw_seed(decider.sampling.seed, work.payload.key, index)
        tokens = work.payload.prompt.num_tokens
        work.sampling.finish(Draw(index, seed, "failed", prompt_tokens=tokens, error=str(failure)[:500]))
    return decider.decide(replace(work.payload, refused=f"{KILLED_TWICE}: {failure}"[:500]), work.sampling)


def note_unit(work: UnitWork, decider: Decider) -> dict[str, Any]:
    """Make the row of a unit as it stands: one that has not been alone for all that it must be stays a suspect."""
    row = decider.decide(work.payload, work.sampling)
    return mark_suspect(row, work.suspicion) if work.suspicion is not None and work.must_be_alone else row


def _is_cleared(work: UnitWork, culprit: UnitWork | None) -> bool:
    """Whether the death that a unit is suspected of was the culprit's."""
    if work.suspicion is None or culprit is None or culprit.suspicion is None:
        return False
    return work.suspicion.death == culprit.suspicion.death and is_repetition(culprit.suspicion, culprit.lost_draws)


def is_repetition(first: Suspicion, lost_draws: Mapping[int, float]) -> bool:
    """Whether a unit that killed alone must have killed the first time, too: then it had had the time for it.

    A unit that takes longer alone than it had been in flight was still harmless at the first death, which is another's.
    """
    return max(lost_draws.values()) <= first.seconds


def suspect(death: str, lost_draws: Mapping[int, float]) -> Suspicion:
    """Suspect a unit that had these draws in flight, each for so many seconds."""
    return Suspicion(death, max(lost_draws) + 1, max(lost_draws.values()))


def judge_crashes(crashes: Iterable[Crash]) -> CrashVerdict:
    """Say who is to blame that workers' own processes crashed."""
    verdict = CrashVerdict()
    for crash in crashes:
        for key, lost_draws in crash.lost_draws.items():
            if crash.alone is None:
                verdict.accused[key] = suspect(crash.death, lost_draws)
                continue
            verdict.convicted.add(key)
            if is_repetition(crash.alone, lost_draws):
                verdict.explained.add(crash.alone.death)
    return verdict


def convict_unit(unit: AskedUnit, sampling: UnitSampling, decider: Decider) -> dict[str, Any]:
    """Make the row of a unit that was alone in flight when a worker's own process crashed."""
    return decider.decide(replace(unit, refused=f"{KILLED_TWICE}: its process crashed"), sampling)


def mark_suspect(row: dict[str, Any], suspicion: Suspicion) -> dict[str, Any]:
    """Mark a unit's row, if it has no outcome yet."""
    if row["outcome"] != "undecided":
        return row
    told = f"{suspicion.death}, draws below {suspicion.num_draws}, after {suspicion.seconds:.6f} s"
    return row | {"error": f"{SUSPECTED} ({told})"}
