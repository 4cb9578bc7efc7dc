"""Read the examples of a shard of traces, and index them: which rows teach something, how long they are, why not.

RUN/examples/shard-00012.parquet   schema INDEX, a row a unit of the split that is trained on
RUN/examples/index.parquet         schema USABLE, all usable examples as numbers: what the order of an epoch is made of

No text is copied: examples are read and tokenized again as they are learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.ledger import table_keys
from judgetrace.schema import TRACES, UNIT_KEY, UnitKey, fit_table
from judgetrace.storage import Folder, encode_parquet
from judgetrace.teachable import OVER_SHARE, find_faults, read_verdicts
from judgetrace.trace_shards import TraceShard
from judgetrace.traces import read_traces
from judgetrace.training.config import Target
from judgetrace.training.encoding import NOT_RENDERED, Encoded, EncodingSpec, make_encoder
from judgetrace.training.examples import make_examples
from judgetrace.training.hinted import choose_dropped
from judgetrace.training.order import ExampleIndex
from judgetrace.training.unit_tally import OVER_QUOTA, UnitTally, hash_keys

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
    "hinted",
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
        ("hinted", pa.bool_()),  # null in an index of before there were any: false
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
_COUNTED = pa.schema(
    [
        *USABLE,
        ("hinted", pa.bool_()),
        ("num_prompt_tokens", pa.int32()),
        ("dimension", pa.string()),
        ("target_label", pa.string()),
    ]
)


@dataclass(frozen=True)
class ReadingSpec:
    """How examples are read; can be pickled, and hashed so that one process keeps what it made."""

    target: Target
    split: str
    seed: int
    verification: tuple[str, ...] = ()
    """Runs of verify_traces."""
    verified: bool = False
    """Whether only traces whose rating was recovered teach."""
    max_hinted_share: float = 1.0
    """Of all examples; those beyond it are left out when the indexes are summed up."""


@lru_cache(maxsize=4)
def read_examples(shard: TraceShard, spec: ReadingSpec) -> pa.Table:
    """Read the examples (examples.EXAMPLES) of a shard; the last few are kept, since stretches share them."""
    columns = [*READ_COLUMNS, *(["draws"] if spec.target == "first_draw" else [])]
    try:
        traces = read_traces(Folder(shard.run), shard.name, columns)
    except FileNotFoundError as error:
        raise shard.make_gone_error() from error
    verdicts = read_verdicts(spec.verification, shard.number)
    faults = find_faults(traces, verdicts, wants_verified=spec.verified)
    return make_examples(traces, spec.target, spec.split, spec.seed, faults)


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
    """Units that teach nothing, by the reason's name; one that several runs hold counts once."""
    num_tokens: int
    num_answer_tokens: int
    accepted: Counter[tuple[str, str]]
    """Usable units by (dimension, target label)."""
    decided: Counter[tuple[str, str]]
    """All units likewise."""
    targets: Counter[tuple[int, str]]
    """Usable units by (label's number, target label): a rating may have been accepted for several."""
    unrendered: str | None = None
    """Why the template can't be rendered with the first item that lacks what it needs; None where there is none."""

    def describe_left_out(self) -> str:
        """Write how many units teach nothing, by reason, the most common first; "none" where all do.

        What the template lacks only the template's own message tells.
        """
        told = {NOT_RENDERED: f" ({self.unrendered})"} if self.unrendered else {}
        counts = self.reasons.most_common()
        return ", ".join(f"{count:,} {reason}{told.get(reason, '')}" for reason, count in counts) or "none"

    def index(self) -> ExampleIndex:
        """Return the usable examples as arrays."""
        return to_index(self.usable)


def to_index(usable: pa.Table) -> ExampleIndex:
    """Turn a table of USABLE into arrays."""
    return ExampleIndex(*(usable.column(name).to_numpy().astype(np.int64) for name in USABLE.names))


def survey_examples(folder: Folder, num_shards: int, reading: ReadingSpec) -> ExampleSurvey:
    """Sum the index files up."""
    indexes = (fit_table(folder.read_table(name_index(number)), INDEX) for number in range(num_shards))
    return sum_up(indexes, reading)


def sum_up(indexes: Iterable[pa.Table], reading: ReadingSpec) -> ExampleSurvey:
    """Sum indexes (INDEX) of shards up; a shard's number is its place among them.

    Hinted examples beyond their share are left out, and of first draws those of units that an earlier run drew. A unit
    that several runs hold was decided once, and is left out once, where it teaches in none of them.
    """
    drawn: set[int] | None = set() if reading.target == "first_draw" else None
    tally = UnitTally()
    unrendered: str | None = None
    labels: dict[tuple[str, str], int] = {}
    tables, hinted = [_COUNTED.empty_table()], []
    for number, read in enumerate(indexes):
        table = read if drawn is None else _drop_drawn_before(read, drawn)
        tally.add(table)
        unrendered = unrendered or _find_unrendered(table)
        usable = _take_usable(table, number, labels)
        tables.append(usable)
        hinted += table_keys(table.filter(table["reason"].is_null()).filter(usable["hinted"]))
    usable = _drop_hinted(pa.concat_tables(tables), hinted, reading, tally)
    num_tokens, num_prompt = (int(pc.sum(usable[name]).as_py() or 0) for name in ("num_tokens", "num_prompt_tokens"))
    return ExampleSurvey(
        usable.select(USABLE.names),
        list(labels),
        tally.count_left_out(),
        num_tokens,
        num_tokens - num_prompt,
        Counter(_pairs(usable, "target_label")),
        tally.count_decided(),
        Counter(zip(usable["label"].to_pylist(), usable["target_label"].to_pylist(), strict=True)),
        unrendered,
    )


def _drop_drawn_before(index: pa.Table, drawn: set[int]) -> pa.Table:
    """Drop the units in `drawn`, whose first draw an earlier run made, and add to it those that this run drew."""
    units = hash_keys(table_keys(index)).tolist()
    is_new = [unit not in drawn for unit in units]
    drawn.update(n for n, reason in zip(units, index["reason"].to_pylist(), strict=True) if reason != OVER_QUOTA)
    return index.filter(pa.array(is_new, pa.bool_()))


def _find_unrendered(index: pa.Table) -> str | None:
    """Find what the template said of the first item that it can't be rendered with."""
    reasons = (reason.partition(": ") for reason in index["reason"].drop_null().to_pylist())
    return next((said for name, _, said in reasons if name == NOT_RENDERED), None)


def _take_usable(index: pa.Table, number: int, labels: dict[tuple[str, str], int]) -> pa.Table:
    """Take the usable examples of a shard (_COUNTED); labels that are new are added to `labels`."""
    usable = index.filter(index["reason"].is_null())
    codes = [labels.setdefault(pair, len(labels)) for pair in _pairs(usable, "rating")]
    columns = [pa.array([number] * len(usable), pa.int32()), usable["row"], usable["num_tokens"]]
    columns += [pa.array(codes, pa.int32()), pc.fill_null(usable["hinted"], False)]
    return pa.table([*columns, *(usable[name] for name in _COUNTED.names[5:])], schema=_COUNTED)


def _drop_hinted(usable: pa.Table, hinted: list[UnitKey], reading: ReadingSpec, tally: UnitTally) -> pa.Table:
    """Drop the hinted examples (in the order of their rows) beyond their share, and tell the tally of it."""
    dropped = choose_dropped(hinted, len(usable) - len(hinted), reading.max_hinted_share, reading.seed)
    if not dropped:
        return usable
    positions = np.flatnonzero(usable["hinted"].to_numpy())[dropped]
    tally.leave_out(positions.tolist(), OVER_SHARE)
    keeps = np.ones(len(usable), dtype=bool)
    keeps[positions] = False
    return usable.filter(pa.array(keeps))


def _pairs(table: pa.Table, name: str) -> list[tuple[str, str]]:
    return list(zip(table["dimension"].to_pylist(), table[name].to_pylist(), strict=True))


def write_usable(folder: Folder, usable: pa.Table) -> None:
    """Write index.parquet, for the workers."""
    folder.write_atomic("index.parquet", encode_parquet(usable))


def read_usable(folder: Folder) -> ExampleIndex:
    """Read index.parquet."""
    return to_index(folder.read_table("index.parquet"))
