"""Show what a job that asks units would do, without a cluster: its resolved config and one rendered prompt."""

from __future__ import annotations

import json

from rich.console import Console

from judgetrace.config import UserError
from judgetrace.corpus import name_shard
from judgetrace.guideline import parse_guideline
from judgetrace.prompts import PromptRenderer
from judgetrace.rating_config import RateItemsConfig
from judgetrace.run_inputs import RunInputs
from judgetrace.trace_config import InferTracesConfig


def print_dry_run(console: Console, config: InferTracesConfig | RateItemsConfig, inputs: RunInputs) -> None:
    """Print the resolved config and one rendered prompt. Raises UserError where no prompt can be made."""
    console.print_json(config.model_dump_json())
    number, _ = inputs.shards[0]
    row = inputs.corpus.read_table(f"items/{name_shard(number)}").slice(0, 1).to_pylist()[0]
    scale = inputs.scale.of(row["dimension"])
    guideline = parse_guideline(inputs.guideline, inputs.by_section).guideline_for(row["dimension"])
    if scale is None or guideline is None:
        raise UserError(f"guideline: no section for the dimension {row['dimension']!r}")
    renderer = PromptRenderer(inputs.template, config.prompt.system, thinks=config.thinking.format != "none")
    messages = renderer.render(json.loads(row["fields"]), guideline, row["dimension"], scale)
    console.print(f"\n[bold]Prompt of {row['item_id']}[/] (target label {row['target_label']}, which it must not hold)")
    for message in messages:
        console.print(f"--- {message['role']}\n{message['content']}", markup=False)
    console.print(f"---\n{inputs.num_units:,} units in {len(inputs.shards):,} shards")
