"""STUDY/study.json: what there is of a study and where, a record a stage; and the stages' folders. Pure but for files.

study.json is replaced atomically at every change, by the one driver that is not fenced. Everything else is found
through it. manifest.json is written last: every stage is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from judgetrace.storage import Folder
from judgetrace.study.stages import Stage

FILE = "study.json"
FORMAT_VERSION = 1
FORMER = "former"
"""The kind of a stage that the study has no more."""
State = Literal["to do", "running", "complete", "stopped", "failed", "blocked", "not needed"]


@dataclass(frozen=True)
class Record:
    """What became of a stage at its last call."""

    state: State = "to do"
    folder: str = ""
    """Relative to the study's own."""
    why: str | None = None
    seconds: float | None = None
    counted: dict[str, Any] = field(default_factory=dict)
    """The config that its outcome depends on."""
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Stage -> the output (outputs.Output) that it read."""
    output: dict[str, str] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it ended well, or was found to be needless."""
        return self.state in ("complete", "not needed")


def name_folder(stage: str, attempt: int = 1) -> str:
    """Name a stage's folder in the study: infer, rate/untuned, rate/untuned.2 for the second one."""
    head, _, rest = stage.partition(".")
    name = f"{head}/{rest}" if rest else head
    return name if attempt == 1 else f"{name}.{attempt}"


def name_next_folder(stage: str, folder: str) -> str:
    """Name the folder after `folder`, for a stage that is done again."""
    return name_folder(stage, read_attempt(stage, folder) + 1)


def read_attempt(stage: str, folder: str) -> int:
    """Read off a stage's folder how many it has had."""
    attempt = folder.removeprefix(f"{name_folder(stage)}.")
    return int(attempt) if attempt.isdigit() else 1


def read_records(study: Folder) -> dict[str, Record]:
    """Read the records of all stages that a study ever had; none where there is no study."""
    if not study.exists(FILE):
        return {}
    known = {own.name for own in fields(Record)}
    rows = study.read_json(FILE)["stages"]
    return {row["stage"]: Record(**{key: value for key, value in row.items() if key in known}) for row in rows}


def describe_study(config: Mapping[str, Any], stages: list[Stage], records: Mapping[str, Record]) -> dict[str, Any]:
    """Make the document study.json: stages in their order, then those that the study has no more."""
    rows = [
        {"stage": stage.name, "kind": stage.kind, "needs": list(stage.needs), **stage.about}
        | asdict(records.get(stage.name, Record(folder=name_folder(stage.name))))
        for stage in stages
    ]
    former = sorted(set(records) - {stage.name for stage in stages})
    rows += [{"stage": name, "kind": FORMER, "needs": [], **asdict(records[name])} for name in former]
    return {"format_version": FORMAT_VERSION, "config": dict(config), "stages": rows}


def mend_record(record: Record) -> Record:
    """Call what a killed driver left as running stopped."""
    return replace(record, state="stopped", why="its driver was killed") if record.state == "running" else record
