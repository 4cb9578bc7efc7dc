"""A synthetic trace store, and the config of a training run over it. Knows none of the benchmarks.

The store is what infer_traces would leave: shards of schema.TRACES, encoded as the ledger does it. Every unit is in the
split train and accepted. Traces are words of the embedded lexicon; their lengths in tokens are lognormal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.bench import harness

LEVELS = [str(level) for level in range(-4, 5)]
PROMPT = "jobs/demo_prompt.jinja"


def write_store(run: Path, num_traces: int, *, per_shard: int, median_tokens: int, sigma: float, seed: int = 0) -> None:
    """Write RUN/traces: `num_traces` units, their traces of about exp(Normal(log median, sigma)) tokens."""
    from judgetrace.accounting import tally_traces
    from judgetrace.ledger import encode_shard
    from judgetrace.storage import Folder

    words, tokens_a_word = read_words()
    folder = Folder(str(run)) / "traces"
    for shard, start in enumerate(range(0, num_traces, per_shard)):
        chance = np.random.default_rng([seed, shard])
        count = min(per_shard, num_traces - start)
        num_words = chance.lognormal(np.log(median_tokens / tokens_a_word), sigma, count).astype(int) + 1
        rows = [_make_row(start + n, int(length), words, chance) for n, length in enumerate(num_words)]
        table = _make_table(rows)
        folder.write_atomic(f"shard-{shard:05d}.parquet", encode_shard(table, tally_traces(table)))


def read_words() -> tuple[list[str], float]:
    """Read the lexicon's words, and how many tokens one of them takes on average."""
    from judgetrace.embedded import find_lexicon_file, read_lexicon
    from judgetrace.tokenization import encode_texts
    from judgetrace.training.encoding import load_tokenizer

    words = [text for text in read_lexicon(find_lexicon_file())["text"] if text.isalpha()]
    encoded = encode_texts(load_tokenizer(str(harness.MODEL), None), [" ".join(words)])
    return words, len(encoded[0]) / len(words)


def _make_row(number: int, num_words: int, words: Sequence[str], chance: np.random.Generator) -> dict[str, Any]:
    item_id, level = f"item-{number:07d}", LEVELS[int(chance.integers(len(LEVELS)))]
    trace = " ".join(words[n] for n in chance.integers(len(words), size=num_words)) + "."
    draw = {
        "index": 0,
        "seed": number,
        "reason": "accepted",
        "rating": level,
        "accepted_by": "exact",
        "constrained": False,
        "prompt_tokens": 150,
        "output_tokens": num_words,
        "text": f"{trace}\n<rating>{level}</rating>",
        "trace": trace,
    }
    return {
        "item_id": item_id,
        "dimension": "",
        "target_source": "aggregate",
        "target_label": level,
        "accepted_labels": [level],
        "annotator_labels": [level] * 3,
        "label_sd": 0.0,
        "group": item_id,
        "split": "train",
        "fields": json.dumps({"text": words[number % len(words)]}),
        "extra": "{}",
        "outcome": "accepted",
        "trace": trace,
        "rating": level,
        "draw_index": 0,
        "accepted_by": "exact",
        "num_needed": 1,
        "shortened": False,
        "draws": [draw],
    }


def _make_table(rows: list[dict[str, Any]]) -> pa.Table:
    from judgetrace.schema import TRACES

    return pa.Table.from_pylist(rows, schema=TRACES)


def prepare_corpus(folder: Path) -> Path:
    """Prepare the embedded human ratings as FOLDER/corpus: their scale and guideline are what the store is about."""
    config = harness.demo_corpus_config(folder, units_per_shard=500)
    harness.run_job("prepare_corpus", harness.write_config(folder / "prepare.toml", config), folder / "prepare.log")
    return folder / "corpus"


def training_config(folder: Path, run: str, **sections: Any) -> dict[str, Any]:
    """Configure train_rater over FOLDER/corpus and the store FOLDER/store; `sections` are added."""
    return {
        "corpus": str(folder / "corpus"),
        "traces": [str(folder / "store")],
        "run": str(folder / run),
        "deepspeed": str(harness.ROOT / "cluster/deepspeed/zero1.json"),
        "model": {"path": str(harness.MODEL)},
        "prompt": {"template": PROMPT},
        "cluster": {"address": "local", "num_cpus": 2},
        **sections,
    }
