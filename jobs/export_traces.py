"""traces -> files for other tools: TRL, LLaMA-Factory, Hugging Face datasets, Argilla.

python -m jobs.export_traces CONFIG.toml [--section.key=value ...]

Goes shard by shard and starts no Ray. manifest.json is written last: its existence means complete. Of an earlier export
only the formats that are asked for are replaced; a folder that another job wrote is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from judgetrace.config import UserError, load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.exporting.config import ExportTracesConfig
from judgetrace.exporting.conversations import ConversationWriter, write_chats
from judgetrace.exporting.own_files import JOB, UNFINISHED, begin_export, check_output
from judgetrace.exporting.run import export_shard, write_descriptions
from judgetrace.exporting.selection import TraceFilter, make_filter
from judgetrace.guideline import parse_guideline
from judgetrace.prompts import PromptRenderer
from judgetrace.run_folder import name_runs
from judgetrace.run_inputs import RunInputs
from judgetrace.schema import TRACES
from judgetrace.storage import Folder
from judgetrace.teachable import check_verification
from judgetrace.tokenization import list_special_tokens, render_chats
from judgetrace.trace_shards import TraceShard, list_trace_shards
from judgetrace.traces import check_trace_corpus, read_traces
from judgetrace.training.encoding import load_tokenizer
from judgetrace.versions import list_versions


def main(arguments: list[str]) -> int:
    """Run the job; returns the exit status."""
    config = load_config(ExportTracesConfig, "export_traces", arguments)
    shards = list_trace_shards(config.traces)
    if not shards:
        raise UserError(f"traces = {config.traces}: no traces/shard-*.parquet there\nexpected: runs of infer_traces")
    inputs = RunInputs(config.corpus, config.guideline, config.prompt.template)
    check_trace_corpus("traces", config.traces, inputs.corpus_id)
    writer = make_writer(config, inputs)
    check_verification("selection.verification", config.selection.verification)
    chosen = make_filter(shards, config.selection, config.split)
    output = Folder(config.output)
    sources = [("corpus", config.corpus), *(("one of traces", run) for run in config.traces)]
    check_output(output, sources, config.formats)
    if config.dry_run:
        first = next(list_chats(shards, chosen, config, writer), None)
        print(json.dumps(first, indent=1, ensure_ascii=False))
        return 0
    begin_export(output, config.formats)
    names = dict(zip(config.traces, name_runs(config.traces), strict=True)) if len(config.traces) > 1 else {}
    counts: Counter[str] = Counter()
    for number, shard in enumerate(shards):
        traces = read(shard)
        faults = chosen.find_faults(traces, shard.number)
        run = names.get(shard.run, "")
        counts += export_shard(traces, number, config, writer, output, faults=faults, run=run)
    write_descriptions(config, writer, output, counts)
    output.write_json(
        "manifest.json",
        {
            "job": JOB,
            "config": config.model_dump(mode="json"),
            "counts": counts,
            "versions": list_versions(),
        },
    )
    output.delete([UNFINISHED])
    console = open_console()
    console.print(", ".join(f"{count:,} {what}" for what, count in counts.items()) or "nothing to export")
    if "pairs" not in counts and config.max_pairs and {"trl", "llamafactory"} & set(config.formats):
        console.print("No preference pairs: rejected texts are kept where ledger.keep_rejected_text = true.")
    if counts:
        print_place(console, "Export", config.output)
    return 0


def list_chats(
    shards: list[TraceShard], chosen: TraceFilter, config: ExportTracesConfig, writer: ConversationWriter
) -> Iterator[dict[str, Any]]:
    """List the conversations that would be exported."""
    for shard in shards:
        traces = read(shard)
        yield from write_chats(traces, config.split, writer, chosen.find_faults(traces, shard.number))


def read(shard: TraceShard) -> pa.Table:
    """Read a shard of traces."""
    return read_traces(Folder(shard.run), shard.name, TRACES.names)


def make_writer(config: ExportTracesConfig, inputs: RunInputs) -> ConversationWriter:
    """Make the writer of conversations as train_rater would write them."""
    form = config.thinking.format
    special: list[str] = []
    opens = False
    if config.model is not None:
        tokenizer = load_tokenizer(config.model.path, config.model.revision)
        special = list_special_tokens(tokenizer)
        (text,) = render_chats(tokenizer, [[{"role": "user", "content": "."}]], config.prompt.chat_template_args)
        opens = text.rstrip().endswith(config.thinking.marks[0])
    renderer = PromptRenderer(inputs.template, config.prompt.system, special, thinks=form != "none")
    guideline = parse_guideline(inputs.guideline, inputs.by_section)
    return ConversationWriter(renderer, guideline, inputs.scale, form, special, opens, config.thinking.marks)


if __name__ == "__main__":
    run_job(main)
