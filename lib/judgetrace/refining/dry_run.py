"""Show what refine_guideline would do, without a cluster: config, calls, tokens, a prompt of each kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from judgetrace.guideline import Guideline
from judgetrace.prompts import PromptRenderer
from judgetrace.refining.generation_plan import plan_generation, show_prompt
from judgetrace.refining.inputs import RefineInputs

CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class RatingPlan:
    """How many ratings a run asks, by all raters together."""

    at_least: int
    """Where no candidate is sound: the test split by the original."""
    at_most: int
    """Where the race goes through all items, with all candidates."""


def plan_ratings(inputs: RefineInputs, num_candidates: int) -> RatingPlan:
    """Plan the ratings of so many sound candidates, the original included."""
    raters = len(inputs.config.raters)
    items = {part: len(rows) for part, rows in inputs.items.rows.items()}
    at_least = at_most = items["test"]
    if num_candidates > 1 and items["race"]:
        at_most = num_candidates * items["race"] + 2 * items["confirm"] + 2 * items["test"]
    return RatingPlan(raters * at_least, raters * at_most)


def print_dry_run(console: Console, inputs: RefineInputs) -> None:
    """Print it all."""
    config = inputs.config
    console.print_json(config.model_dump_json())
    for line in (*describe_generation(inputs), *describe_ratings(inputs)):
        console.print(line, markup=False, soft_wrap=True)


def describe_generation(inputs: RefineInputs) -> Iterator[str]:
    """Describe what is written from, and the generator's calls, with the first prompt of each kind."""
    plan = plan_generation(inputs)
    available = ", ".join(f"{number:,} of {level}" for level, number in plan.traces.available.items())
    yield f"\nTraces that may teach: {available}"
    yield from (f"Traces: {line}" for line in plan.traces.describe())
    for kind, call in plan.first.items():
        made_up = "" if kind in ("critiques", "instructions") else " (with made-up answers to earlier ones)"
        yield f"\nPrompt of the generator: {kind}{made_up}"
        yield from show_prompt(call)
        yield "---"
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in plan.num_calls.items())
    yield (
        f"\nCalls of the generator: {plan.num_calls.total():,} at most ({kinds}), but for answers asked for again; "
        f"about {plan.prompt_tokens:,} prompt tokens, {plan.output_tokens:,} output tokens at most"
    )


def describe_ratings(inputs: RefineInputs) -> Iterator[str]:
    """Describe the ratings, and render what the first rater is asked."""
    config = inputs.config
    written = len(config.candidates.kinds) * len(config.candidates.seeds)
    num_candidates = 1 + len(inputs.given) + written
    plan = plan_ratings(inputs, num_candidates)
    parts = ", ".join(
        f"{part} {len(rows):,} in {inputs.items.count_groups(part):,} groups"
        for part, rows in inputs.items.rows.items()
    )
    yield f"\nItems: {parts}"
    yield from inputs.list_shortages()
    yield (
        f"Ratings: {plan.at_least:,} at least, {plan.at_most:,} at most, of {num_candidates} candidates by "
        f"{len(config.raters)} raters"
    )
    rows = next((rows for rows in inputs.items.rows.values() if rows), ())
    if not rows:
        return
    for place, rater in enumerate(config.raters):
        renderer = PromptRenderer(inputs.templates[place], rater.prompt.system, thinks=rater.thinking.format != "none")
        guideline = Guideline(inputs.shown).text
        messages = renderer.render(json.loads(rows[0]["fields"]), guideline, inputs.dimension, inputs.scale)
        tokens = sum(len(message["content"]) for message in messages) / CHARS_PER_TOKEN * rater.decoding.samples
        num_each = plan.at_most // len(config.raters)
        yield (
            f"{rater.rater}: about {tokens * num_each:,.0f} prompt tokens at most (of {tokens:,.0f} a rating, at "
            f"{CHARS_PER_TOKEN} characters a token), {num_each * rater.decoding.samples * rater.decoding.max_tokens:,} "
            "output tokens at most"
        )
        if place == 0:
            yield f"\nPrompt of {rater.rater} for {rows[0]['item_id']}"
            yield from (f"--- {message['role']}\n{message['content']}" for message in messages)
            yield "---"
