"""Write exports shard by shard: a file of each format for every shard of traces, so that nothing is held whole.

OUTPUT/trl/{chats,pairs}/shard-00000.jsonl
OUTPUT/llamafactory/{chats,pairs}/shard-00000.jsonl, dataset_info.json
OUTPUT/datasets/data/train-00000.parquet, README.md
OUTPUT/argilla/records-00000.json, settings.json
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.exporting.config import ExportTracesConfig
from judgetrace.exporting.conversations import ConversationWriter, Faults, write_chats, write_pairs
from judgetrace.exporting.formats import (
    DATASET_COLUMNS,
    describe_llamafactory,
    fit_llamafactory_pair,
    write_argilla_records,
    write_argilla_settings,
    write_card,
)
from judgetrace.splits import SPLITS
from judgetrace.storage import Folder, encode_parquet


def encode_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Encode rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def export_shard(
    traces: pa.Table,
    number: int,
    config: ExportTracesConfig,
    writer: ConversationWriter,
    output: Folder,
    *,
    faults: Faults | None = None,
    run: str = "",
) -> Counter[str]:
    """Write all formats of one shard; returns how many rows each got. A format without rows gets no file.

    `faults` of the traces keep them out of chats and pairs; people's records and the dataset hold them all. `run` is
    what the shard's run is called where several are exported.
    """
    counts: Counter[str] = Counter()
    name = f"shard-{number:05d}.jsonl"
    if {"trl", "llamafactory"} & set(config.formats):
        chats = list(write_chats(traces, config.split, writer, faults))
        pairs = list(write_pairs(traces, config.split, writer, config.max_pairs, faults))
        counts.update(chats=len(chats), pairs=len(pairs))
        splits = zip(faults or [None] * len(traces), traces["split"].to_pylist(), strict=True)
        counts.update(f"left out: {fault}" for fault, split in splits if fault and split == config.split)
        for tool in ("trl", "llamafactory"):
            if tool in config.formats:
                fitted = pairs if tool == "trl" else [fit_llamafactory_pair(pair) for pair in pairs]
                _write_lines(output, f"{tool}/chats/{name}", chats)
                _write_lines(output, f"{tool}/pairs/{name}", fitted)
    if "argilla" in config.formats:
        records = list(write_argilla_records(traces, run))
        counts["records"] += len(records)
        if records:
            output.write_atomic(f"argilla/records-{number:05d}.json", json.dumps(records).encode())
    if "datasets" in config.formats:
        for split in SPLITS:
            own = traces.filter(pc.equal(traces.column("split"), split)).select(list(DATASET_COLUMNS))
            counts[split] += own.num_rows
            if own.num_rows:
                output.write_atomic(f"datasets/data/{split}-{number:05d}.parquet", encode_parquet(own))
    return counts


def _write_lines(output: Folder, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        output.write_atomic(name, encode_lines(rows))


def write_descriptions(
    config: ExportTracesConfig, writer: ConversationWriter, output: Folder, counts: Counter[str]
) -> None:
    """Write what tells each tool how its files are to be read; after the files themselves."""
    if "llamafactory" in config.formats:
        described = describe_llamafactory()
        kept = {name: about for name, about in described.items() if counts[about["file_name"]]}
        output.write_json("llamafactory/dataset_info.json", kept)
    if "datasets" in config.formats:
        splits = [split for split in SPLITS if counts[split]]
        output.write_atomic("datasets/README.md", write_card(splits, counts, config.traces).encode())
    if "argilla" in config.formats:
        output.write_json("argilla/settings.json", write_argilla_settings(writer.scale))
