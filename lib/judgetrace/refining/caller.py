"""Ask calls that have no row yet, and keep the rows: a run that starts again makes only the calls that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from judgetrace.refining.calls import Answer, Call
from judgetrace.refining.driver_watch import DriverWatch, StoppedEarlyError
from judgetrace.refining.engine_pool import EnginePool
from judgetrace.refining.part_log import PartLog, PendingRows
from judgetrace.refining.pool_results import gather_results

CALL_KEY = ("call_id",)


class Caller:
    """Answers calls from the log, and from the pool what the log lacks. The log is up to date when it is handed over.

    `contract` is what answers depend on besides their calls.
    """

    def __init__(
        self,
        pool: EnginePool,
        log: PartLog,
        watch: DriverWatch,
        contract: Mapping[str, Any],
        *,
        commit_every_s: float,
        drain_s: float,
    ):
        self._pool, self._log, self._watch, self._contract = pool, log, watch, dict(contract)
        self._pending, self._drain_s = PendingRows(log, commit_every_s), drain_s

    def ask(self, stage: str, calls: Sequence[Call]) -> list[Answer]:
        """Answer calls, in their order.

        Raises StoppedEarlyError where the run is to end, and where calls failed that the next run may get.
        """
        ids = [call.identify(self._contract) for call in calls]
        missing = {key: call for key, call in zip(ids, calls, strict=True) if self._log.lacks(key)}
        if missing:
            self._watch.begin(stage, len(missing))
            self._watch.check()
            self._ask_pool(list(missing.items()))
        lost = [key for key in missing if self._log.lacks(key)]
        if lost:
            row = self._log.find(lost[0])
            error = "no answer" if row is None else row["error"]
            raise StoppedEarlyError(f"{stage}: {len(lost)} of {len(missing)} calls failed, one of them: {error}")
        return [self._read(key) for key in ids]

    def _read(self, key: str) -> Answer:
        row = self._log.find(key)
        assert row is not None, key
        return Answer(row["outcome"], row["text"], row["error"])

    def _ask_pool(self, missing: list[tuple[str, Call]]) -> None:
        size = self._pool.choose_batch_size(len(missing))
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        self._pool.warm_up()
        try:
            for _, _, done in gather_results([(self._pool, batches)], self._look, self._drain_s):
                self._watch.note(self._pool.name, [done.row])
                self._watch.note_engine(self._pool.name, done.worker, done.engine_s)
                self._pending.add([done.row])
        finally:
            self._pending.commit()
        self._watch.check()

    def _look(self) -> bool:
        self._pending.commit_when_due()
        return self._watch.look()
