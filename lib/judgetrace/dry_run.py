"""Show what a job that asks units would do, without a cluster: its resolved config and one rendered prompt."""

from __future__ import annotations

import json

from rich.console import Console

from judgetrace.config import UserError
from judgetrace.guideline import parse_guideline
from judgetrace.prompts import PromptRenderer
from judgetrace.rating_config import RateItemsConfig
from judgetrace.run_inputs import RunInputs
from judgetrace.trace_config import InferTracesConfig
from judgetrace.verification_config import VerifyTracesConfig

UnitConfig = InferTracesConfig | RateItemsConfig | VerifyTracesConfig
"""The config of a job that asks units."""


def print_dry_run(console: Console, config: UnitConfig, inputs: RunInputs) -> None:
    """Print the resolved config and the prompt of the first unit that the job would ask.

    Raises UserError where it would ask none, and where no prompt can be made.
    """
    console.print_json(config.model_dump_json())
    row = inputs.read_first_unit(config.decider())
    if row is None:
        raise UserError(_explain_nothing(config, inputs))
    scale = inputs.scale.of(row["dimension"])
    guideline = parse_guideline(inputs.guideline, inputs.by_section).guideline_for(row["dimension"])
    if scale is None or guideline is None:
        raise UserError(f"guideline: no section for the dimension {row['dimension']!r}")
    renderer = PromptRenderer(
        inputs.template,
        config.prompt.system,
        thinks=config.thinking.format != "none",
        severity=config.prompt.severity,
    )
    about = config.decider().tell(row, scale)
    messages = renderer.render(json.loads(row["fields"]), guideline, row["dimension"], scale, about.variables)
    label = row["target_label"]
    tells = isinstance(config, VerifyTracesConfig) or "hint" in about.variables
    holds = "which it tells or argues for" if tells else "which it must not hold"
    told = "no target label" if label is None else f"target label {label}, {holds}"
    console.print(f"\nPrompt of {row['item_id']} ({told})", style="bold", markup=False)
    for message in messages:
        console.print(f"--- {message['role']}\n{message['content']}", markup=False)
    console.print(f"---\nThe corpus has {inputs.num_units:,} units in {len(inputs.shards):,} shards")


def _explain_nothing(config: UnitConfig, inputs: RunInputs) -> str:
    if isinstance(config, VerifyTracesConfig):
        return f"traces = {config.traces}: no unit was accepted there; nothing is to be verified"
    splits = f"splits: {list(config.splits) or 'all'}"
    if isinstance(config, InferTracesConfig) and config.after:
        return (
            f"after = {list(config.after)}: these runs left no unit without an accepted draw; nothing is to be "
            f"sampled\n{splits}"
        )
    return (
        f"corpus = {config.corpus}: none of its {inputs.num_units:,} units would be asked\n"
        f"{splits}; the corpus's manifests tell how many units each split has"
    )
