"""How training went, as a section of the report. Pure; reads the table that train_rater keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.reporting import blocks
from judgetrace.reporting.blocks import Block, Cell, Cells, Section, Table
from judgetrace.reporting.charts import Line, draw_lines
from judgetrace.reporting.folding import group

MAX_POINTS = 400
MAX_LINES = 5
"""Runs in one plot: no two have one colour."""
_VALIDATION = {"tau": "Kendall's τ-b", "qwk": "quadratic κ", "mse": "MSE"}


@dataclass(frozen=True)
class TrainingRun:
    """A run of train_rater."""

    name: str
    metrics: Sequence[Mapping[str, Any]]
    """Rows of progress.METRICS."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Empty while the run is not complete."""

    @property
    def rating(self) -> str:
        """Which rating validation scores: sampled or expected."""
        config = self.manifest.get("config", {})
        return str(config.get("validation", {}).get("rating", "expected"))

    def validations(self) -> list[tuple[int, dict[str, Any]]]:
        """List (step, figures) of the validated steps."""
        return [(row["step"], json.loads(row["validation"])) for row in self.metrics if row.get("validation")]


def make_training(runs: Sequence[TrainingRun]) -> Section:
    """Make the section of training curves."""
    made: list[Block] = [_tabulate_runs(runs)]
    for number, own in enumerate(group(runs, MAX_LINES)):
        figures = blocks.Figures([_draw_loss(own, number), *_draw_validation(own, number)])
        made.append(blocks.Folded("Curves of " + ", ".join(run.name for run in own), [figures]) if number else figures)
    lead = (
        "Loss: mean nats of an answer's token. Validation: the rater asked for its rating of items that it was not "
        "trained on; step 0 is the untuned base."
    )
    return Section("training", "Training", lead, made)


def _tabulate_runs(runs: Sequence[TrainingRun]) -> Table:
    rows: list[Cells] = []
    for run in runs:
        training, data = run.manifest.get("training", {}), run.manifest.get("data", {})
        config = run.manifest.get("config", {})
        seconds = training.get("seconds") or sum(row.get("seconds") or 0.0 for row in run.metrics)
        skipped = ", ".join(f"{n:,} {reason}" for reason, n in data.get("skipped", {}).items())
        before = _score(training.get("untuned_validation"), run.rating)
        after = _score(training.get("best_validation"), run.rating)
        rows.append(
            [
                Cell(run.name, "" if run.manifest else "not complete"),
                str(config.get("data", {}).get("target", "")),
                Cell(f"{data['examples']:,}" if "examples" in data else "", skipped),
                f"{training.get('steps', max((row['step'] for row in run.metrics), default=0)):,}",
                f"{training['best_step']:,}" if "best_step" in training else "",
                before,
                after,
                f"{seconds / 60:,.1f} min",
            ]
        )
    columns = ["run", "learns", "examples", "steps", "best step", "τ-b untuned", "τ-b best", "time"]
    return Table(
        "Training runs",
        columns,
        rows,
        note="τ-b on a sample of the validation split, before training and at the best step.",
    )


def _score(figures: Mapping[str, Any] | None, rating: str) -> str:
    value = (figures or {}).get(f"{rating}_tau")
    return "undefined" if figures and value is None else "" if value is None else f"{value:.3f}"


Points = list[tuple[int, float | None]]


def thin_points(runs: Sequence[Points]) -> list[Points]:
    """Keep the first point of each of MAX_POINTS stretches of steps, the same for all runs, and each run's last.

    So a long run draws as fast as a short one, and runs of unequal lengths stand in the same rows of a table.
    """
    end = 1 + max((points[-1][0] for points in runs if points), default=0)
    thinned = []
    for points in runs:
        first: dict[int, tuple[int, float | None]] = {}
        for step, value in points[:-1]:
            first.setdefault(step * MAX_POINTS // end, (step, value))
        thinned.append([*first.values(), *points[-1:]])
    return thinned


def _draw_loss(runs: Sequence[TrainingRun], number: int) -> blocks.Figure:
    drawn = [[(row["step"], row["loss"]) for row in run.metrics if row.get("loss") is not None] for run in runs]
    lines = [
        Line(run.name, [x for x, _ in points], [y for _, y in points])
        for run, points in zip(runs, thin_points(drawn), strict=True)
    ]
    said = [f"{line.name}: from {line.y[0]:.3f} to {line.y[-1]:.3f}." for line in lines if line.y]
    alternative = "Training loss by step. " + " ".join(said)
    svg = draw_lines(f"loss{number}", lines, alternative, "step")
    return blocks.Figure(svg, "Loss on the training split.", alternative, _tabulate_lines(lines, "loss"))


def _draw_validation(runs: Sequence[TrainingRun], number: int) -> list[blocks.Figure]:
    figures = []
    for key, title in _VALIDATION.items():
        lines = []
        for run in runs:
            points = [(step, values.get(f"{run.rating}_{key}")) for step, values in run.validations()]
            lines.append(Line(run.name, [x for x, _ in points], [y for _, y in points]))
        if any(value is not None for line in lines for value in line.y):
            said = [
                f"{line.name}: " + ", ".join(f"{_show(y)} at {x:g}" for x, y in zip(line.x, line.y, strict=True)) + "."
                for line in lines
            ]
            alternative = f"Validation {title} by step. " + " ".join(said)
            svg = draw_lines(f"validation{number}-{key}", lines, alternative, "step")
            data = _tabulate_lines(lines, title)
            figures.append(blocks.Figure(svg, f"{title} on the validation split.", alternative, data))
    return figures


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _tabulate_lines(lines: Sequence[Line], what: str) -> Table:
    steps = sorted({x for line in lines for x in line.x})
    by_line = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = [[f"{step:g}", *(_show(own[step]) if step in own else "" for own in by_line)] for step in steps]
    return Table(what, ["step", *(line.name for line in lines)], rows)
