"""Wait until the cluster has room for all workers of a stage at once. Ray Train and Ray Data would wait in silence."""

from __future__ import annotations

from collections.abc import Mapping

from judgetrace.config import UserError
from judgetrace.session import StageWatch
from judgetrace.training.config import WorkersConfig


def needs_of(workers: WorkersConfig) -> dict[str, float]:
    """Return the Ray resources of one training worker."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return {name: amount for name, amount in needs.items() if amount}


def wait_for_room(stage: str, needs: Mapping[str, float], count: int, wait_s: float) -> None:
    """Wait for room for `count` workers that need so much each; an autoscaler sees what is wanted.

    The room is given back at once, for the stage to take. Raises UserError where there is none after `wait_s` seconds.
    """
    from ray.util import placement_group, remove_placement_group

    if not needs:
        return
    group = placement_group([dict(needs)] * count)
    try:
        with StageWatch(stage, needs, wait_s) as watch:
            while not group.wait(1):
                if watch.expired:
                    raise UserError(f"gave up: {watch.describe()}\nGive it resources, or raise cluster.wait_s.")
    finally:
        remove_placement_group(group)
