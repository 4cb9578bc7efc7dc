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

from judgetrace.spot_notice import Cloud, read_spot_notice

LOOK_EVERY_S = 1.0
ASK_CLOUD_EVERY_S = 5.0
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


def watch_node(node_id: str, cloud: Cloud | None, leave: Callable[[float], None]) -> None:
    """Watch a node from a thread of its own; `leave` is called once, with the seconds left."""

    def watch() -> None:
        asked_at, seconds = float("-inf"), None
        while seconds is None:
            time.sleep(LOOK_EVERY_S)
            try:
                if cloud is not None and time.monotonic() - asked_at > ASK_CLOUD_EVERY_S:
                    asked_at = time.monotonic()
                    notice = read_spot_notice(cloud, time.time())
                    if notice is not None:
                        announce(node_id, notice)
                seconds = read_drain(node_id)
            except Exception:  # noqa: BLE001 - a head that does not answer gives no notice; it is asked again
                continue
        leave(seconds)

    threading.Thread(target=watch, name="node-notice", daemon=True).start()
