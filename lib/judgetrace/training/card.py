"""Write the model card of a tuned rater. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def write_card(facts: Mapping[str, Any]) -> str:
    """Write README.md of a rater's folder.

    facts  base {path, license}, corpus {id, splits as RunInputs has them, validation_items}, config (as in the
           manifest), data {examples, skipped, labels, tokens}, training {steps, best_step, epochs}, untuned and best
           (validation metrics, or null), command (how to rate with it)
    """
    base, config, data, training = (facts[name] for name in ("base", "config", "data", "training"))
    corpus = facts["corpus"]
    licence = base["license"] or "not stated by the base's folder or hub; look at its origin"
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(data["skipped"].items())) or "none"
    return f"""---
license: {base["license"] or "other"}
base_model: {base["path"]}
tags: [judgetrace, rater]
---

# Rater tuned on thinking traces

Rates items by the guideline in `guideline.md`. Made by judgetrace from `{base["path"]}`.

- **Licence of the base:** {licence}
- **Learned:** `{config["data"]["target"]}`, split `{config["data"]["split"]}` of `{config["corpus"]}`,
  traces from {", ".join(f"`{run}`" for run in config["traces"])}
- **Corpus:** `{corpus["id"]}`; {_describe_splits(corpus["splits"])}
- **Examples:** {data["examples"]:,}; left out: {skipped}
- **By label:** {", ".join(f"{label}: {count:,}" for label, count in data["labels"].items())}
- **Training:** {training["steps"]:,} steps of {config["training"]["batch"]} examples ({training["epochs"]:.2f} epochs);
  the weights are those of step {training["best_step"]:,}
- **Adapter:** {_describe_adapter(config)}

## On the validation split

{_describe_validation(facts)}

## How to rate with it

Its prompt and its form of thinking are part of it:

```toml
{facts["command"]}
```

## Config

```json
{json.dumps(config, indent=1, ensure_ascii=False)}
```
"""


def _describe_splits(splits: Mapping[str, Any]) -> str:
    rule, group = splits["rule"], splits["group"]
    shares = ", ".join(f"{name} {rule[name]:g}" for name in ("train", "validation", "test") if name in rule)
    units = ", ".join(f"{name} {count:,}" for name, count in splits["units"].items())
    whole = "items" if group is None else f"groups (column `{group}`)"
    return f"{whole} split by a hash with seed {rule.get('seed', 0)} in shares of {shares}; units: {units}"


def _describe_adapter(config: Mapping[str, Any]) -> str:
    if config["full_weights"]:
        return "none, all weights were trained"
    lora = config["lora"]
    kept = "merged into the weights" if config["output"]["form"] == "merged" else "in this folder, without its base"
    return f"LoRA, r {lora['r']}, alpha {lora['alpha']}, on {lora['target_modules']}; {kept}"


def _describe_validation(facts: Mapping[str, Any]) -> str:
    advice = "Measure agreement on the test split."
    if facts["best"] is not None:
        table = _tabulate(facts["untuned"], facts["best"], facts["corpus"]["validation_items"])
        return f"{table}\n\nThe validation split chose the step, so these figures flatter. {advice}"
    if facts["config"]["data"]["split"] == "validation":
        return f"Not measured: the rater was trained on the validation split. {advice}"
    return f"Not measured: the corpus has no validation split, or validation was off. {advice}"


def _tabulate(untuned: Mapping[str, float | None] | None, best: Mapping[str, float | None], num_items: int) -> str:
    before = untuned or {}
    rows = [f"| {name} | {_write(before[name])} | {_write(value)} |" for name, value in best.items() if name in before]
    return "\n".join([f"Of {num_items:,} items:", "", "| metric | untuned | tuned |", "|---|---|---|", *rows])


def _write(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
