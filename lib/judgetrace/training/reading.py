"""Read the examples of a shard of traces, and index them: which rows teach something, how long they are, why not.

RUN/examples/shard-00012.parquet   schema INDEX, a row a unit of the split that is trained on
RUN/examples/index.parquet         schema USABLE, all usable examples as numbers: what the order of an epoch is made of

No text is copied: examples are read and tokenized again as they are learned.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from judgetrace.ledger import current_shard_files
from judgetrace.schema import TRACES, UNIT_KEY
from judgetrace.storage import Folder, encode_parquet
from judgetrace.training.config import Target
from judgetrace.training.encoding import Encoded, EncodingSpec, make_encoder
from judgetrace.training.examples import make_examples
from judgetrace.training.order import ExampleIndex

READ_COLUMNS = (
    "item_id",
    "dimension",
    "target_source",
    "target_label",
    "split",
    "fields",
    "outcome",
    "trace",
    "rating",
)
ENCODED_AT_ONCE = 256

INDEX = pa.schema(
    [
        ("row", pa.int32()),
        *(TRACES.field(name) for name in UNIT_KEY),
        ("target_label", pa.string()),
        ("rating", pa.string()),
        ("num_tokens", pa.int32()),  # of prompt and answer; null with a reason
        ("num_prompt_tokens", pa.int32()),
        ("reason", pa.string()),  # why the unit teaches nothing; null where it does
    ]
)
USABLE = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("num_tokens", pa.int32()),
        ("label", pa.int32()),  # position in the list of (dimension, rating)
    ]
)


@dataclass(frozen=True)
class TraceShard:
    """A published shard of a run of infer_traces."""

    run: str
    name: str


@dataclass(frozen=True)
class ReadingSpec:
    """How examples are read; can be pickled, and hashed so that one process keeps what it made."""

    target: Target
    split: str
    seed: int


def list_trace_shards(runs: Sequence[str]) -> list[TraceShard]:
    """List the published shards of runs, in the order of runs and shards."""
    return [
        TraceShard(run, name) for run in runs for _, name in sorted(current_shard_files(Folder(run) / "traces").items())
    ]


@lru_cache(maxsize=4)
def read_examples(shard: TraceShard, spec: ReadingSpec) -> pa.Table:
    """Read the examples (examples.EXAMPLES) of a shard; the last few are kept, since stretches share them."""
    columns = [*READ_COLUMNS, *(["draws"] if spec.target == "first_draw" else [])]
    traces = (Folder(shard.run) / "traces").read_table(shard.name, columns)
    return make_examples(traces, spec.target, spec.split, spec.seed)


def encode_examples(examples: pa.Table, encoding: EncodingSpec) -> list[Encoded]:
    """Encode usable examples."""
    encoder = make_encoder(encoding)
    rows = examples.to_pylist()
    return [
        encoded
        for start in range(0, len(rows), ENCODED_AT_ONCE)
        for encoded in encoder.encode(rows[start : start + ENCODED_AT_ONCE])
    ]


def index_shard(examples: pa.Table, encoding: EncodingSpec) -> pa.Table:
    """Index the examples of a shard (INDEX)."""
    usable = np.flatnonzero(np.array(examples.column("reason").is_null()))
    reasons = examples.column("reason").to_pylist()
    tokens: list[int | None] = [None] * len(examples)
    prompts: list[int | None] = [None] * len(examples)
    for n, encoded in zip(usable, encode_examples(examples.take(pa.array(usable)), encoding), strict=True):
        reasons[n] = encoded.reason
        if encoded.reason is None:
            tokens[n], prompts[n] = len(encoded.tokens), encoded.num_prompt
    found = {"num_tokens": tokens, "num_prompt_tokens": prompts, "reason": reasons}
    return pa.table(
        [pa.array(found[f.name], f.type) if f.name in found else examples.column(f.name) for f in INDEX], schema=INDEX
    )


@dataclass(frozen=True)
class IndexTask:
    """A shard to index; `number` is its position in the list of shards."""

    number: int
    shard: TraceShard
    run: str
    reading: ReadingSpec
    encoding: EncodingSpec


def run_index_task(_: int, task: IndexTask) -> int:
    """Index a shard unless an earlier call did; returns its number of usable examples."""
    folder = Folder(task.run) / "examples"
    name = name_index(task.number)
    if folder.exists(name):
        table = folder.read_table(name, ["reason"])
    else:
        table = index_shard(read_examples(task.shard, task.reading), task.encoding)
        folder.write_atomic(name, encode_parquet(table))
    return int(table.column("reason").null_count)


def name_index(number: int) -> str:
    """Name the index file of a shard."""
    return f"shard-{number:05d}.parquet"


@dataclass(frozen=True)
class ExampleSurvey:
    """What the index says of all shards."""

    usable: pa.Table
    """USABLE"""
    labels: list[tuple[str, str]]
    """(dimension, rating) by the label's number."""
    reasons: Counter[str]
    """Units that teach nothing, by the reason's name."""
    num_tokens: int
    num_answer_tokens: int
    accepted: Counter[tuple[str, str]]
    """Usable units by (dimension, target label)."""
    decided: Counter[tuple[str, str]]
    """All units likewise."""

    def index(self) -> ExampleIndex:
        """Return the usable examples as arrays."""
        return to_index(self.usable)


def to_index(usable: pa.Table) -> ExampleIndex:
    """Turn a table of USABLE into arrays."""
    return ExampleIndex(*(usable.column(name).to_numpy().astype(np.int64) for name in USABLE.names))


def survey_examples(folder: Folder, num_shards: int) -> ExampleSurvey:
    """Sum the index files up."""
    return sum_up(folder.read_table(name_index(number)) for number in range(num_shards))


def sum_up(indexes: Iterable[pa.Table]) -> ExampleSurvey:
    """Sum indexes (INDEX) of shards up; a shard's number is its place among them."""
    labels: dict[tuple[str, str], int] = {}
    reasons: Counter[str] = Counter()
    accepted: Counter[tuple[str, str]] = Counter()
    decided: Counter[tuple[str, str]] = Counter()
    tables, num_tokens, num_prompt = [USABLE.empty_table()], 0, 0
    for number, table in enumerate(indexes):
        decided.update(zip(table["dimension"].to_pylist(), table["target_label"].to_pylist(), strict=True))
        reasons.update(reason.partition(":")[0] for reason in table["reason"].drop_null().to_pylist())
        usable = table.filter(table["reason"].is_null())
        accepted.update(zip(usable["dimension"].to_pylist(), usable["target_label"].to_pylist(), strict=True))
        pairs = list(zip(usable["dimension"].to_pylist(), usable["rating"].to_pylist(), strict=True))
        codes = [labels.setdefault(pair, len(labels)) for pair in pairs]
        num_tokens += sum(usable["num_tokens"].to_pylist())
        num_prompt += sum(usable["num_prompt_tokens"].to_pylist())
        columns = [pa.array([number] * len(usable), pa.int32()), usable["row"], usable["num_tokens"]]
        tables.append(pa.table([*columns, pa.array(codes, pa.int32())], schema=USABLE))
    return ExampleSurvey(
        pa.concat_tables(tables), list(labels), reasons, num_tokens, num_tokens - num_prompt, accepted, decided
    )


def write_usable(folder: Folder, usable: pa.Table) -> None:
    """Write index.parquet, for the workers."""
    folder.write_atomic("index.parquet", encode_parquet(usable))


def read_usable(folder: Folder) -> ExampleIndex:
    """Read index.parquet."""
    return to_index(pq.read_table(io.BytesIO(folder.read_bytes("index.parquet"))))
