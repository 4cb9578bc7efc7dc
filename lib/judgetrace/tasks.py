"""Run a stage as one Ray Data task for each of its descriptors; only counts and names come back.

Knows nothing of what a task does.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from judgetrace.config import UserError
from judgetrace.session import StageWatch, wait_for_room

MAX_RETRIES = 3
PROGRESS_S = 10.0
NOTICE_S = 55.0
NEEDS = {"CPU": 1.0}

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    stage: str, run: Callable[[int, Task], Result], tasks: Sequence[Task], *, wait_s: float
) -> Iterator[Result]:
    """Run `run(number, task)` for each task and yield results as they come; prints now and then how far the stage is.

    `run` and its tasks are pickled. A UserError of a task is raised here as it is. A task whose worker dies runs again,
    so it must bear a replay. Raises UserError where the cluster has no CPU for the first task within `wait_s` seconds.
    """
    import ray
    from ray import cloudpickle

    quieten_ray_data()
    wait_for_room(stage, NEEDS, 1, wait_s)

    def call(batch: dict[str, Any]) -> dict[str, Any]:
        number, task = cloudpickle.loads(batch["task"][0])
        try:
            result: Any = run(number, task)
        except UserError as error:
            result = error
        return {"result": np.array([cloudpickle.dumps(result)], dtype=object)}

    rows = [{"task": cloudpickle.dumps(pair)} for pair in enumerate(tasks)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Ray Data replays a task whose worker died for ever (max_retries -1), and has no other way to say otherwise.
        warnings.simplefilter("ignore")
        results = dataset.map_batches(call, batch_size=1, num_cpus=1, max_retries=MAX_RETRIES)
    told = started = time.monotonic()
    # No limit: a task may take as long as it needs, and Ray Data does not tell whether one runs.
    with StageWatch(stage, NEEDS, limit_s=math.inf, notice_s=NOTICE_S) as watch:
        for done, row in enumerate(results.iter_rows(), start=1):
            watch.progress()
            result = cloudpickle.loads(row["result"])
            if isinstance(result, UserError):
                raise result
            yield result
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                print(f"{stage}: {done} of {len(tasks)} tasks, {told - started:.0f} s", flush=True)


def quieten_ray_data() -> None:
    """Leave out what Ray Data says of every execution; its warnings stay."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
