"""Find the unit that ends a worker's process and leaves nothing that says so, as where a whole container ends.

To the driver that is like a lost machine, and of one of those nobody is suspected. But a shard that two such deaths had
in hand is watched: before a draw of one of its units begins, the worker tells the control, so that a further death
leaves a list of what was in flight. From there it goes as with a crash (suspects.py); but a unit must have been alone
at two deaths before it is convicted, since one may always be a machine's own. So it takes five deaths in all. What is
known is lost with the driver; the suspicion is not, it is in the ledger.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from judgetrace.flight_recorder import Crash
from judgetrace.scheduler import Suspicion
from judgetrace.schema import UnitKey

WATCHED_AFTER_DEATHS = 2
LONE_DEATHS = 2

Flights = Mapping[tuple[UnitKey, int], Suspicion | None]
"""Draws in flight, by unit and index: why the unit is alone; null where it is not."""


class ShardDeaths:
    """Counts unexplained deaths by shard, and keeps what the watched ones say."""

    def __init__(self) -> None:
        self._num_deaths: Counter[int] = Counter()
        self._num_lone_deaths: Counter[UnitKey] = Counter()
        self._crashes: dict[int, list[Crash]] = defaultdict(list)
        self._began: dict[str, dict[tuple[UnitKey, int], float]] = {}
        """By worker, when its draws were first heard of."""

    def hear(self, worker: str, flights: Flights, now: float) -> None:
        """Note which draws of watched shards a worker has in flight, at `now` seconds of a clock that only goes up."""
        before = self._began.pop(worker, {})
        if flights:
            self._began[worker] = {draw: before.get(draw, now) for draw in flights}

    def note_death(self, worker: str, shards: Iterable[int], flights: Flights, heard_at: float) -> None:
        """Note that a worker has died with these shards in hand, and these flights when it was last heard."""
        self._num_deaths.update(set(shards))
        began = self._began.pop(worker, {})
        lost: dict[UnitKey, dict[int, float]] = defaultdict(dict)
        for key, index in flights:
            lost[key][index] = heard_at - began.get((key, index), heard_at)
        alone = next((suspicion for suspicion in flights.values() if suspicion is not None), None)
        if alone is not None:
            self._num_lone_deaths.update(lost.keys())
            lost = {key: draws for key, draws in lost.items() if self._num_lone_deaths[key] >= LONE_DEATHS}
        if lost:
            for shard in set(shards):
                self._crashes[shard].append(Crash(worker, dict(lost), alone))

    def tell(self, shards: Iterable[int]) -> dict[int, list[Crash]]:
        """Say which of these shards are watched, and what the deaths of their workers left."""
        watched = (shard for shard in shards if self._num_deaths[shard] >= WATCHED_AFTER_DEATHS)
        return {shard: list(self._crashes.get(shard, [])) for shard in watched}
