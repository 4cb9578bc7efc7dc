"""Training workers whose validation scores are written in advance; everything else is the real thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from judgetrace.training import worker

SCORES = {0: 0.1, 2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4}
"""By step: of the two best the newer one is kept, and the newest is another."""


class ScriptedWorker(worker.TrainingWorker):
    """Measures what is written."""

    def _validate(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = {"expected_tau": SCORES[self._progress.step]}
        metrics["score"] = metrics["expected_tau"]
        self._progress.note_validation(metrics)
        self._tell()
        return metrics


def train(config: Mapping[str, Any]) -> None:
    """Stands in for worker.train."""
    worker.TrainingWorker = ScriptedWorker  # type: ignore[misc]
    worker.train(config)
