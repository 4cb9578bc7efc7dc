"""What a run of train_rater begins with and came to, for card, manifest and people. Imports neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from judgetrace.console import print_place
from judgetrace.storage import Folder
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.inputs import TrainInputs, TrainPlan
from judgetrace.training.progress import MIN_COVERAGE, Progress, read_coverage
from judgetrace.training.reading import ExampleSurvey


@dataclass(frozen=True)
class Trained:
    """What training ended with."""

    progress: Progress
    best: Any
    """Ray Train's checkpoint."""
    best_metrics: dict[str, float | None]


def describe_corpus(inputs: TrainInputs) -> dict[str, Any]:
    """Collect what the rater was taught and held against, for its card."""
    return {
        "id": inputs.corpus.corpus_id,
        "splits": inputs.corpus.splits,
        "validation_items": len(inputs.validation_items()),
    }


def describe_data(survey: ExampleSurvey) -> dict[str, Any]:
    """Collect what was learned, for manifest and card."""
    names = [f"{dimension}/{rating}" if dimension else rating for dimension, rating in survey.labels]
    counts = survey.usable.column("label").value_counts().to_pylist()
    labels = {names[count["values"]]: count["counts"] for count in counts}
    return {
        "examples": survey.usable.num_rows,
        "skipped": dict(survey.reasons),
        "labels": dict(sorted(labels.items())),
        "tokens": survey.num_tokens,
        "answer_tokens": survey.num_answer_tokens,
    }


def describe_training(trained: Trained, plan: TrainPlan) -> dict[str, Any]:
    """Collect how training went, likewise."""
    progress = trained.progress
    padded = [row["padding_share"] for row in progress.history if row["padding_share"] is not None]
    return {
        "steps": progress.step,
        "epochs": progress.step / plan.steps_per_epoch,
        "best_step": int(trained.best_metrics["step"] or 0),
        "best_validation": trained.best_metrics,
        "untuned_validation": progress.find_validation(0),
        "untuned_is_best": progress.has_score and progress.best_step == 0,
        "padding_share": sum(padded) / max(1, len(padded)),
        "tokens": sum(row["num_tokens"] for row in progress.history),
        "seconds": sum(row["seconds"] for row in progress.history),
    }


def print_start(
    console: Console, inputs: TrainInputs, survey: ExampleSurvey, plan: TrainPlan, items: Sequence[Mapping[str, Any]]
) -> None:
    """Show what is learned, for how long, and what the rater is held against meanwhile: the validation `items`."""
    config = inputs.config
    console.print(
        f"{survey.usable.num_rows:,} examples, {plan.steps_per_epoch:,} steps an epoch, {plan.num_steps:,} steps at "
        f"most; {len(items):,} validation items\nUnits left out: {survey.describe_left_out()}",
        soft_wrap=True,
        markup=False,
    )
    num_partial = sum(not shard.is_finished for shard in inputs.shards)
    if num_partial:
        console.print(
            f"{num_partial:,} of {len(inputs.shards):,} shards of traces are not finished: let infer_traces go on in "
            "their runs only after the rater is made.",
            soft_wrap=True,
        )
    warn_of_warmup(console, plan.num_steps, config.training.warmup_steps)
    if not items and config.validation.max_items:
        console.print(explain_no_items(config.data.split), soft_wrap=True)
    unasked = inputs.count_unasked(items)
    if unasked:
        console.print(
            f"{unasked:,} of the validation items lack what the prompt template needs: they have no rating, which "
            "counts against the score.",
            soft_wrap=True,
        )


def warn_of_warmup(console: Console, num_steps: int, warmup_steps: int) -> None:
    """Say so where a run is shorter than its own warm-up."""
    if num_steps < warmup_steps:
        console.print(
            f"Warning: the warm-up has {warmup_steps:,} steps and the run {num_steps:,}: the learning rate ends at "
            f"{num_steps / warmup_steps:.0%} of training.learning_rate. Lower training.warmup_steps or training.batch, "
            "or raise training.max_epochs.",
            soft_wrap=True,
            markup=False,
        )


def explain_no_items(split: str) -> str:
    """Say why there is no item to hold the rater against, and what follows; `split` is what is trained on."""
    why = (
        "The validation split is what is trained on, so that the rater can't be held against it"
        if split == "validation"
        else "No item of the validation split has an aggregated label"
    )
    return f"{why}: nothing stops training early, and the newest checkpoint becomes the rater."


def print_outcome(console: Console, config: TrainRaterConfig, trained: Trained) -> None:
    """Show what training came to on the validation split."""
    untuned, best = trained.progress.find_validation(0), trained.best_metrics
    if untuned is not None:
        console.print(f"\nOn the validation split, untuned and after step {best['step']}:")
        for name, value in untuned.items():
            if name != "score":
                before, after = (("undefined" if v is None else f"{v:.3f}") for v in (value, best.get(name)))
                console.print(f"  {name:<18} {before:>9} {after:>9}")
    if trained.progress.has_score and trained.progress.best_step == 0:
        console.print("No checkpoint scored better than the untuned base; the best of them became the rater.")
    elif untuned is not None and not trained.progress.has_score:
        why = _explain_no_score(read_coverage(best, config.validation.rating))
        console.print(f"No validation had a score, {why}; the newest became the rater.", soft_wrap=True)
    console.print()
    print_place(console, "Rater", f"{config.run}/rater")


def _explain_no_score(coverage: float | None) -> str:
    """Say why a validation has no statistic to score."""
    if coverage is None or coverage < MIN_COVERAGE:
        return "since too few answers had a rating"
    return "since all of the ratings, or all of the labels, were the same"


def list_ignored(earlier: Mapping[str, Any], config: TrainRaterConfig) -> list[str]:
    """List the settings that a complete run, with the config `earlier`, was not made with and could have been."""
    now = config.model_dump(mode="json")
    return [
        f"{section}.{key}: was {earlier[section][key]!r}, is now {value!r}"
        for section in ("training", "validation", "output")
        for key, value in now[section].items()
        if earlier.get(section, {}).get(key, value) != value
    ]


def print_complete(console: Console, config: TrainRaterConfig) -> None:
    """Say that a run is complete, and which settings come too late."""
    console.print(f"run {config.run} is complete; its rater: {config.run}/rater", soft_wrap=True, markup=False)
    ignored = list_ignored(Folder(config.run).read_json("manifest.json")["config"], config)
    if ignored:
        console.print(
            "Ignored, since the rater is made:\n  " + "\n  ".join(ignored) + f"\nTo have it made so, delete "
            f"{config.run}/manifest.json and run the same command again: it goes on from the checkpoints.",
            soft_wrap=True,
            markup=False,
        )
