"""Small corpora, traces, models and configs to train on in tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from jobs import prepare_corpus
from judgetrace import embedded
from judgetrace.accounting import tally_traces
from judgetrace.corpus import FORMAT_VERSION
from judgetrace.ledger import encode_shard, join_decisions
from judgetrace.schema import TRACES
from judgetrace.storage import Folder, encode_parquet
from judgetrace.training.progress import Progress
from tests.trace_tables import make_decision, make_draw, table_of

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / ".cache/judgetrace/smollm2-135m"
LONG_STEPS = 25
WORDS = {"1": "awful", "2": "bad", "3": "plain", "4": "good", "5": "great"}


def prepare_model() -> Path:
    """Convert the embedded model, once."""
    embedded.prepare_model(embedded.find_model_file(), EMBEDDED)
    return EMBEDDED


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a model of two small layers with random weights and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(prepare_model())
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prepare_words(folder: Path, corpus: str, num: int = 120) -> str:
    """Prepare a corpus of sentences whose word tells their level, 1 to 5, in two buckets."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [str(n % 5 + 1) for n in range(num)]
    texts = [f"a {WORDS[label]} thing" + " indeed" * (n % 7) for n, label in enumerate(labels)]
    frame = pd.DataFrame({"id": [f"item-{n:05d}" for n in range(num)], "text": texts, "label": labels})
    frame.to_csv(folder / "source.csv", index=False)
    (folder / "guideline.md").write_text("Rate the text from 1 to 5.\n")
    (folder / "corpus.toml").write_text(
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
train = 0.7
validation = 0.15
test = 0.15
[shards]
units_per_shard = 25
buckets = 2
"""
    )
    assert prepare_corpus.main([str(folder / "corpus.toml")]) == 0
    return corpus


def write_corpus(folder: Folder, shards: Sequence[pa.Table]) -> str:
    """Write a corpus of these shards (schema.ITEMS), labels 1 to 5, without preparing it."""
    names = [f"shard-{n:05d}.parquet" for n in range(len(shards))]
    for name, items in zip(names, shards, strict=True):
        folder.write_atomic(f"items/{name}", encode_parquet(items))
    scale = {"values": [1, 2, 3, 4, 5], "type": "ordinal"}
    config = {"scale": scale, "guideline": {"by_section": False}}
    config |= {name: {} for name in ("columns", "target", "split", "shards")}
    listed = [{"name": name, "units": len(items)} for name, items in zip(names, shards, strict=True)]
    manifest = {"generation": 0, "format_version": FORMAT_VERSION, "config": config, "buckets": 1, "shards": listed}
    folder.write_json("manifest-00000.json", manifest | {"files": [], "input": []})
    folder.write_atomic("guideline.md", b"Rate the text from 1 to 5.\n")
    return folder.url


def write_traces(corpus: str, run: str, outcome: str = "accepted", **more: Any) -> str:
    """Write a run's traces: each unit of the corpus decided alike, with a trace that names its word."""
    source, target = Folder(corpus), Folder(run) / "traces"
    for name in (source / "items").list_files(".parquet"):
        items = source.read_table(f"items/{name}")
        rows = []
        for n, row in enumerate(items.to_pylist()):
            label = row["target_label"]
            trace = f"The text says {WORDS.get(label, label)}."
            reason = "accepted" if outcome == "accepted" else "disagrees"
            draw = make_draw(0, reason, label if outcome == "accepted" else "3", trace=trace, text=trace)
            rows.append(make_decision(items, n, outcome, [draw], **({"trace": trace} | more)))
        joined = join_decisions(items, table_of(*rows), TRACES)
        target.write_atomic(name, encode_shard(joined, tally_traces(joined)))
    return run


def write_train_config(folder: Path, corpus: str, traces: str, run: str, model: Path, **sections: str) -> str:
    """Write a config for two workers; `sections` are further lines of a section, by its name."""
    lines = {
        "model": f"path = {json.dumps(str(model))}\n",
        "data": "max_tokens = 256\nlanes = 4\n",
        "training": "batch = 8\nmicro_batch = 2\nlearning_rate = 1e-3\nwarmup_steps = 2\nmax_steps = 6\n",
        "validation": "every_steps = 2\nmax_items = 8\nmax_new_tokens = 24\n",
        "workers": "num_workers = 2\nnum_cpus = 0.5\n",
    }
    for name, text in sections.items():
        lines[name] = lines.get(name, "") + text
    head = {"corpus": corpus, "traces": traces, "run": run, "deepspeed": str(ROOT / "cluster/deepspeed/zero1.json")}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in head.items())
    text += "".join(f"[{name}]\n{body}" for name, body in lines.items())
    config = folder / "train.toml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    return str(config)


@dataclass(frozen=True)
class WordRuns:
    """What runs of train_rater need."""

    corpus: str
    traces: str
    model: Path

    def write_config(self, folder: Path, run: str, traces: str | None = None, **sections: str) -> str:
        """Write a config of 6 steps, validated every 2."""
        return write_train_config(folder, self.corpus, traces or self.traces, run, self.model, **sections)

    def write_long_config(self, folder: Path, run: str, traces: str | None = None) -> str:
        """Write a config of 25 steps, validated and saved every 5."""
        config = Path(self.write_config(folder, run, traces))
        text = config.read_text().replace("max_steps = 6", f"max_steps = {LONG_STEPS}")
        config.write_text(text.replace("every_steps = 2", "every_steps = 5"))
        return str(config)


def read_losses(run: str, num: int | None = None) -> dict[int, float]:
    """Read the loss curve of a run, or of its first `num` steps."""
    rows = Folder(run).read_table("metrics.parquet").to_pylist()
    losses = {row["step"]: row["loss"] for row in rows if row["loss"] is not None}
    return losses if num is None else {step: losses[step] for step in range(1, num + 1)}


def list_checkpoints(run: str) -> list[Path]:
    """List the complete checkpoints of a run on local disk, the oldest first."""
    snapshot = Folder(run).read_json("checkpoints/checkpoint_manager_snapshot.json")
    names = {found["checkpoint_dir_name"] for found in snapshot["checkpoint_results"]}
    return sorted((Path(run) / "checkpoints" / name for name in names), key=lambda path: Progress.load(path).step)
