"""A corpus and configs of refine_guideline for tests, with engines whose ratings depend on the guideline."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from jobs import infer_traces, prepare_corpus

GUIDELINE = "Rate the text from 1 to 5: 1, 2, 3, 4 or 5.\n"
"""Raters that follow it are right in .3 of the items."""


def prepare_labels(folder: Path, corpus: str, num: int = 400) -> str:
    """Prepare a corpus whose texts hold their labels; half of it is the validation split."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"item-{i:05d}", "text": f"This has label {i % 5 + 1}.", "label": i % 5 + 1} for i in range(num)]
    pd.DataFrame(rows).to_csv(folder / "source.csv", index=False)
    (folder / "guideline.md").write_text(GUIDELINE)
    config = folder / "corpus.toml"
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
[source]
paths = [{json.dumps(str(folder / "source.csv"))}]
[columns]
item_id = "id"
text = "text"
label = "label"
[scale]
values = [1, 2, 3, 4, 5]
[guideline]
path = {json.dumps(str(folder / "guideline.md"))}
[target]
rule = "single"
[split]
train = 0.25
validation = 0.5
test = 0.25
[shards]
units_per_shard = 150
buckets = 2
"""
    )
    assert prepare_corpus.main([str(config)]) == 0
    return corpus


def make_traces(folder: Path, corpus: str, run: str) -> str:
    """Let infer_traces make traces: an engine that is right in half of the items."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "right.md").write_text("Rate 1, 2, 3, 4 or 5 with quality 0.5.\n")
    config = folder / "traces.toml"
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
run = {json.dumps(run)}
guideline = {json.dumps(str(folder / "right.md"))}
[model]
path = "scripted/tracer"
[engine]
kind = "tests.guided_engine:GuidedEngine"
num_cpus = 0.5
[sampling]
max_draws = 1
max_tokens = 100
"""
    )
    assert infer_traces.main([str(config)]) == 0
    return run


def write_refine_config(folder: Path, corpus: str, traces: str, run: str, **script: object) -> str:
    """Two raters, the second a little worse; a script is for both, and its part `generator` for the generator."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = script.pop("generator", {})
    assert isinstance(writer, dict)

    def rater(name: str, shift: float) -> str:
        arguments = ", ".join(f"{key} = {json.dumps(value)}" for key, value in ({"shift": shift} | script).items())
        return f"""[[raters]]
rater_id = "{name}"
[raters.model]
path = "scripted/{name}"
[raters.engine]
kind = "tests.guided_engine:GuidedEngine"
num_cpus = 0.25
slots = 16
args = {{ {arguments} }}
[raters.decoding]
max_tokens = 100
"""

    config = folder / "refine.toml"
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
traces = {json.dumps(traces)}
run = {json.dumps(run)}
[generator.model]
path = "scripted/generator"
[generator.engine]
kind = "tests.guided_generator:GuidedGenerator"
num_cpus = 0.25
args = {{ {", ".join(f"{key} = {json.dumps(value)}" for key, value in writer.items())} }}
[intervals]
replicates = 200
[ledger]
commit_every_s = 0.5
drain_s = 2
{rater("steady", 0.0)}
{rater("shaky", 0.05)}
"""
    )
    return str(config)
