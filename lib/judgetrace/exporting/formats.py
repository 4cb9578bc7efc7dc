"""What other tools read: LLaMA-Factory's list of datasets, a Hugging Face dataset card, Argilla's records. Pure.

Sources: the documented formats of LLaMA-Factory (data/README.md), Hugging Face datasets (repository structure) and
Argilla 2 (records and settings).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from judgetrace.scale import ScaleConfig
from judgetrace.schema import FIRST_PROPOSAL

TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
DATASET_COLUMNS = (
    "item_id",
    "dimension",
    "target_source",
    "target_label",
    "annotator_labels",
    "label_sd",
    "group",
    "fields",
    "outcome",
    "trace",
    "rating",
    "draw_index",
    "accepted_by",
    "num_needed",
    "proposal",
    "hinted",
)
METADATA = ("dimension", "target_label", "split", "outcome", "target_source", "proposal", "hinted")
"""What records can be filtered by; `hinted` is there where it is true."""
VERDICTS = ("sound", "right label, wrong reasons", "wrong label", "unclear")


def describe_llamafactory() -> dict[str, Any]:
    """Return dataset_info.json: chat messages for SFT, pairs for DPO."""
    chats = {"file_name": "chats", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS}
    columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
    pairs = {"file_name": "pairs", "formatting": "sharegpt", "ranking": True, "columns": columns, "tags": TAGS}
    return {"judgetrace_chats": chats, "judgetrace_pairs": pairs}


def fit_llamafactory_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Fit a pair to LLaMA-Factory, which wants one message where TRL wants a list."""
    return {**pair, "chosen": pair["chosen"][0], "rejected": pair["rejected"][0]}


def write_card(splits: Sequence[str], counts: Mapping[str, int], runs: Sequence[str]) -> str:
    """Write the card of a dataset folder; its head tells `datasets` where each split lies."""
    head = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        head += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    said = ", ".join(f"{counts[split]:,} {split}" for split in splits)
    return "\n".join(
        [
            *head,
            "---",
            "",
            "# Thinking traces",
            "",
            f"Units with a human label ({said}) and, where `outcome` is `accepted`, the reasoning of the first sampled "
            "draw whose rating matched the label. `fields` is a JSON object: name -> text that the rater saw.",
            "",
            "Rejection selects by severity as well as by difficulty: look at the acceptance by label before you train.",
            "",
            "Made by judgetrace from:",
            "",
            *(f"- `{json.dumps(run)[1:-1]}`" for run in runs),
            "",
        ]
    )


def write_argilla_settings(scale: ScaleConfig) -> dict[str, Any]:
    """Write what a reviewer is asked, as argilla.Settings.from_json reads it."""
    levels = sorted({level for own in (scale.of(""), *scale.dimensions.values()) if own for level in own.values})
    return {
        "guidelines": "Read the item, its label and the trace. Does the reasoning support the label?",
        "fields": [_ask_argilla(name, {"type": "text", "use_markdown": False}) for name in ("item", "trace")],
        "questions": [
            _ask_argilla("verdict", _offer(VERDICTS)),
            _ask_argilla("own_label", _offer(levels), required=False),
            _ask_argilla("why", {"type": "text", "use_markdown": False}, required=False),
        ],
        "metadata": [{"name": name, "title": name, "settings": {"type": "terms"}} for name in METADATA],
        "allow_extra_metadata": False,
    }


def _ask_argilla(name: str, settings: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Describe a field or a question."""
    return {"name": name, "title": name.replace("_", " "), "required": required, "settings": settings}


def _offer(labels: Sequence[str]) -> dict[str, Any]:
    return {"type": "label_selection", "options": [{"value": label, "text": label} for label in labels]}


def write_argilla_records(traces: pa.Table, run: str = "") -> Iterator[dict[str, Any]]:
    """Write a record for each accepted trace, for a person to judge, as argilla.Record.from_dict reads it.

    The human label is a suggestion of `own_label`. `run` is what their run is called where several are exported: any of
    them may have accepted a unit, and of two records with one id Argilla keeps the second alone.
    """
    for row in traces.to_pylist():
        if row["outcome"] != "accepted":
            continue
        fields = json.loads(row["fields"])
        item = "\n\n".join(f"{name}: {text}" if len(fields) > 1 else str(text) for name, text in fields.items())
        # Half a surrogate pair, as JSON can escape it, is no text to other tools.
        item = item.encode("utf-8", "replace").decode()
        proposal = "" if row["proposal"] == FIRST_PROPOSAL else row["proposal"]
        further = filter(None, [proposal, run])
        yield {
            "id": "/".join([row["item_id"], row["dimension"], row["target_source"], *further]),
            "fields": {"item": item or " ", "trace": row["trace"] or " "},
            "metadata": {name: str(row[name]) for name in METADATA if row[name]},
            "suggestions": {"own_label": {"value": row["target_label"], "agent": "people"}},
        }
