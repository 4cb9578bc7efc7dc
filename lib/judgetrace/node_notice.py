"""Notice that the node a worker runs on is about to be taken away.

Ray's own draining of nodes is the one notice that workers act on: Ray places nothing more on a node that drains, and
Ray Data gives its actors no further calls. `ray start --block` drains its node when it gets SIGTERM (a pod that is
deleted, a machine that shuts down), the autoscaler before it ends a node, and `announce` where a cloud's metadata says
so. Source: ray 2.60.0, Node._drain_node_before_shutdown, _NodeAwareActorPool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from judgetrace.console import say
from judgetrace.spot_notice import Cloud, read_spot_notice

LOOK_EVERY_S = 1.0
ASK_CLOUD_EVERY_S = 5.0
ANNOUNCE_TRIES = 3
"""After so many the worker leaves by itself."""
DEFAULT_WARNING_S = 30.0
"""Taken for a drain without deadline."""


def seconds_until(deadline_ms: int, now: float) -> float:
    """Compute the seconds from `now` (since the epoch) to Ray's deadline, 0 being none."""
    return DEFAULT_WARNING_S if deadline_ms == 0 else max(0.0, deadline_ms / 1000 - now)


def read_drain(node_id: str) -> float | None:
    """Return the seconds until a node that drains is ended; None where it does not drain."""
    import ray

    deadline_ms = ray._private.state.state.get_draining_nodes().get(node_id)
    return None if deadline_ms is None else seconds_until(deadline_ms, time.time())


def announce(node_id: str, seconds: float) -> None:
    """Have Ray drain a node that will be gone in so many seconds."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + seconds) * 1000)
    ray._private.worker.global_worker.gcs_client.drain_node(node_id, reason, "spot notice of the cloud", deadline_ms)


class CloudWatch:
    """Asks a cloud now and then, and has its notice announced."""

    def __init__(self, cloud: Cloud, announce: Callable[[float], None], clock: Callable[[], float] = time.monotonic):
        self._cloud, self._announce, self._clock = cloud, announce, clock
        self._asked_at = float("-inf")
        self._has_warned = False
        self._num_failed = 0

    def look(self) -> float | None:
        """Ask, if it is time; returns the seconds left where a notice came that nobody can be told of."""
        if self._clock() - self._asked_at < ASK_CLOUD_EVERY_S:
            return None
        self._asked_at = self._clock()
        try:
            notice = read_spot_notice(self._cloud, time.time())
        except Exception as error:  # noqa: BLE001 - told once, and asked on
            self._warn(error)
            return None
        return None if notice is None else self._pass_on(notice)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            say(
                f"engine.spot_notice = {self._cloud}: the machine's metadata can't be read ({error}); a notice would "
                "be missed. It is asked on."
            )
        self._has_warned = True

    def _pass_on(self, notice: float) -> float | None:
        try:
            self._announce(notice)
        except Exception:  # noqa: BLE001 - a head that does not answer; the machine goes all the same
            self._num_failed += 1
            self._asked_at = float("-inf")
            return notice if self._num_failed >= ANNOUNCE_TRIES else None
        return None


def watch_node(node_id: str, cloud: Cloud | None, leave: Callable[[float], None]) -> None:
    """Watch a node from a thread of its own; `leave` is called once, with the seconds left."""
    asking = None if cloud is None else CloudWatch(cloud, lambda seconds: announce(node_id, seconds))

    def watch() -> None:
        seconds = None
        while seconds is None:
            time.sleep(LOOK_EVERY_S)
            seconds = None if asking is None else asking.look()
            try:
                seconds = read_drain(node_id) if seconds is None else seconds
            except Exception:  # noqa: BLE001 - a head that does not answer gives no notice; it is asked again
                continue
        leave(seconds)

    threading.Thread(target=watch, name="node-notice", daemon=True).start()
