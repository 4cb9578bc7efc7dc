"""Which files of an output folder are an earlier export's, that a new one may replace; whatever else is there stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from judgetrace.config import UserError
from judgetrace.exporting.config import Format
from judgetrace.storage import Folder

JOB = "export_traces"
UNFINISHED = "unfinished.json"
"""Stands in for the manifest while an export is written: after a kill the next one knows whose files these are."""
_MANIFEST = re.compile(r"manifest(-\d+)?\.json|contract\.json")
_OWN: dict[Format, re.Pattern[str]] = {
    "trl": re.compile(r"trl/(chats|pairs)/shard-\d{5,}\.jsonl"),
    "llamafactory": re.compile(r"llamafactory/((chats|pairs)/shard-\d{5,}\.jsonl|dataset_info\.json)"),
    "datasets": re.compile(r"datasets/(data/(train|validation|test)-\d{5,}\.parquet|README\.md)"),
    "argilla": re.compile(r"argilla/(records-\d{5,}|settings)\.json"),
}


def check_output(output: Folder, sources: Iterable[tuple[str, str]], formats: Sequence[Format]) -> None:
    """Raise UserError where an output can't be written without spoiling what is there.

    `sources` are (name in the config, folder): what is exported. A folder that another job wrote is refused, and so are
    files of the formats' names that no export wrote.
    """
    for name, url in sources:
        if Folder(url).path() == output.path():
            raise UserError(f"output = {output.url}: is {name} itself; give a folder of its own")
    for found in output.list_files(".json"):
        if _MANIFEST.fullmatch(found) and not _is_ours(output, found):
            raise UserError(f"output = {output.url}: {found} there is of another job; give a folder of its own")
    own = [] if _was_exported(output) else list_own_files(output, formats)
    if own:
        raise UserError(
            f"output = {output.url}: {len(own)} files there would be replaced, and no earlier export wrote them (no "
            f"manifest.json): {own[:5]}\ngive a folder of its own, or move them away"
        )


def begin_export(output: Folder, formats: Sequence[Format]) -> None:
    """Delete an earlier export of these formats: its shards may have been more. Needs `check_output` first."""
    output.write_json(UNFINISHED, {"job": JOB})
    output.delete(["manifest.json"])
    output.delete(list_own_files(output, formats))


def list_own_files(output: Folder, formats: Sequence[Format]) -> list[str]:
    """List the files of an output that are named as exports of these formats are."""
    names = [f"{form}/{name}" for form in formats for name in (output / form).list_files(recursive=True)]
    return [name for name in names if any(_OWN[form].fullmatch(name) for form in formats)]


def _was_exported(output: Folder) -> bool:
    return _is_ours(output, "manifest.json") or _is_ours(output, UNFINISHED)


def _is_ours(output: Folder, name: str) -> bool:
    try:
        found = output.read_json(name)
    except FileNotFoundError:
        return False
    return isinstance(found, dict) and found.get("job") == JOB
