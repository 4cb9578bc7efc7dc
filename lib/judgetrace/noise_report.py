"""The listing of suspected label noise as Markdown, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_TEXT = 200
HEAD = (
    "# Suspected label noise\n\n"
    "Units that no draw of any proposal reached, those whose draws agree most first. Each is hard or mislabelled; "
    "which of both only people can tell. Draws of proposals that were told the label don't count.\n"
)


def write_noise(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    """Write the first suspects (rows of label_noise.SUSPECTS, in order) as Markdown; `counts` as the job's manifest."""
    lines = [HEAD, f"{counts['suspects']:,} of {counts['units']:,} units are suspects; {len(rows):,} are shown.\n"]
    for row in rows:
        lines.append(_write_suspect(row))
    return "\n".join(lines)


def _write_suspect(row: Mapping[str, Any]) -> str:
    name = " / ".join(part for part in (row["item_id"], row["dimension"], row["target_source"]) if part)
    ratings = ", ".join(f"{entry['count']} x {entry['rating']}" for entry in row["ratings"])
    annotators = _escape(", ".join(row["annotator_labels"])) or "unknown"
    hint = "; accepted where the label was told" if row["reached_by_hint"] else ""
    return (
        f"## {_escape(name)}\n\n"
        f"- label {_escape(row['target_label'])}; annotators: {annotators}\n"
        f"- {row['num_rated']} draws with a rating ({', '.join(map(_escape, row['proposals']))}): {_escape(ratings)}\n"
        f"- {row['modal_share']:.0%} at {_escape(row['modal_rating'])}, {row['distance']:g} from the label; a draw "
        f"reaches it in at most {row['reach_at_most']:.0%} of cases (95%){hint}\n\n"
        f"{_escape(_shorten(row['fields']))}\n"
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."


def _escape(text: str) -> str:
    """Keep an item's text from acting as Markdown or HTML."""
    for mark in "\\`*_[]<>#|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
