"""How far training is: what a checkpoint remembers beside the weights, and when to stop. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

PROGRESS_FILE = "progress.json"
UNDEFINED_SCORE = -1.0
"""Of a validation that has no statistic to score; no score is lower."""

MIN_COVERAGE = 0.5
"""A validation with a rating of fewer items says little."""

METRICS = pa.schema(
    [
        ("step", pa.int64()),  # optimizer steps done
        ("epoch", pa.float64()),
        ("loss", pa.float64()),  # mean nats of an answer's token, weighted, over the step's examples
        ("squared_error", pa.float64()),  # of the expected rating in level positions; null without ordinal_loss
        ("learning_rate", pa.float64()),
        ("grad_norm", pa.float64()),  # before clipping
        ("num_tokens", pa.int64()),  # of the step, padding apart
        ("padding_share", pa.float64()),  # of the tokens computed
        ("seconds", pa.float64()),
        ("at", pa.float64()),  # seconds since 1970
        ("validation", pa.string()),  # JSON object: metric -> value; null where the step was not validated
    ]
)
"""One row an optimizer step."""


def read_coverage(metrics: Mapping[str, float | None], rating: str) -> float | None:
    """Read the share of items that have the `rating` (sampled, expected) that is scored; None where nobody counted."""
    return metrics.get(f"{rating}_coverage", metrics.get("sampled_coverage"))


@dataclass
class Progress:
    """What training has come to."""

    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    """Of equals the first, from which early stopping counts; the rater is the newest, which Ray Train keeps."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Rows of METRICS; validation as a mapping."""

    def note_validation(self, metrics: dict[str, float | None]) -> bool:
        """Note a validation after the newest step; returns whether it is the best so far."""
        if self.history:
            self.history[-1]["validation"] = metrics
        score = metrics["score"]
        assert score is not None
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_score, self.best_step = score, self.step
        return True

    @property
    def has_score(self) -> bool:
        """Whether some validation had a score."""
        return self.best_score is not None and self.best_score > UNDEFINED_SCORE

    def find_validation(self, step: int) -> dict[str, float | None] | None:
        """Find what the validation after a step measured; None where there was none."""
        return next((row["validation"] for row in self.history if row["step"] == step), None)

    def has_stalled(self, patience_steps: int, warmup_steps: int) -> bool:
        """Whether the score has not risen for so many steps, from the first one that is defined on.

        A rater that can't be read yet has nothing to fall behind; one that still warms up has hardly begun to learn.
        """
        return self.has_score and self.step - max(self.best_step, warmup_steps) >= patience_steps

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint."""
        (folder / PROGRESS_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Progress:
        """Read it from a checkpoint."""
        return cls(**json.loads((folder / PROGRESS_FILE).read_text()))

    def tabulate(self) -> pa.Table:
        """Return the history as a table of METRICS."""
        rows = [
            {**row, "validation": None if row["validation"] is None else json.dumps(row["validation"])}
            for row in self.history
        ]
        return pa.Table.from_pylist(rows, schema=METRICS)
