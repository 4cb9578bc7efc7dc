"""Turn what the workers of a run met into errors that say what to do, and whether the same command goes on."""

from __future__ import annotations

from collections.abc import Mapping

from judgetrace.config import UserError, make_early_error
from judgetrace.control import RunSnapshot
from judgetrace.engine import EngineStartError
from judgetrace.storage import CorruptFileError, StoreError

LOGS = "the workers' own logs are in Ray's session folder (--cluster.worker_logs shows them)."


def explain_failure(failure: BaseException, max_deaths: int, has_begun: bool = False) -> BaseException:
    """Turn Ray's account of what a worker met into its own words, where it has some; anything else stays as it is.

    `has_begun` says that engines of this call have drawn.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError

    for kind in (StoreError, CorruptFileError):
        _, marker, reason = str(failure).rpartition(f"{kind.__name__}: ")
        if marker:
            return kind(reason.strip())
    _, marker, reason = str(failure).rpartition(f"{EngineStartError.__name__}: ")
    if marker and has_begun:
        return make_early_error(
            f"no engine runs any more, and one could not start: {reason.strip()}\n"
            f"Others of this call could: look at the machines. The same command goes on; {LOGS}"
        )
    if marker:
        return UserError(f"the engine could not start: {reason.strip()}\nChange [model] or [engine]; {LOGS}")
    died = isinstance(failure, RayActorError) and not failure.actor_init_failed
    if died or isinstance(failure, OutOfMemoryError):
        told = str(failure).strip().partition("\n")[0]
        return make_early_error(
            f"engines died more often than engine.max_deaths = {max_deaths} over one shard; the last time: {told}\n"
            "The same command goes on. Often they need more memory than there is: lower engine.max_replicas or "
            f"engine.slots; {LOGS}"
        )
    return failure


def explain_lost_control(failure: BaseException) -> UserError:
    """Make the error of a run whose RunControl, which adds up the workers' counts, is gone."""
    told = str(failure).strip().partition("\n")[0]
    return make_early_error(
        f"the process that counts for the driver, on the driver's node, has ended: {told}\n"
        "The same command goes on from what was committed. Often that node has too little memory, or its Ray was ended."
    )


def explain_broken(broken: Mapping[int, str]) -> CorruptFileError:
    """Make the error of a run some of whose shards can't be read; `broken` has the reason by shard."""
    reasons = list(dict.fromkeys(reason.partition("\n")[0] for reason in broken.values()))
    told = "\n".join(f"  {reason}" for reason in reasons[:5]) + ("\n  ..." if len(reasons) > 5 else "")
    return CorruptFileError(
        f"{len(broken)} shard(s) can't be read; all others were worked on\n{told}\n"
        "Restore these files from a copy, or make them again; the same command then goes on with them."
    )


def explain_starts(seen: RunSnapshot) -> UserError:
    """Make the error of a run whose engines end again and again before they are up."""
    reason = seen.failed_start or "they said no reason; often they need more memory, or longer than engine.start_s"
    return make_early_error(
        f"{seen.starts_in_row} engines in a row ended while they started, and none runs: {reason}\n"
        f"The same command goes on; {LOGS}"
    )
