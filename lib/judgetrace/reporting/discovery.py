"""Find the runs in a study's folder: those of complete stages by study.json, others by what lies in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from judgetrace.config import UserError, describe_validation_error
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.storage import Folder
from judgetrace.study.records import FILE, FORMER
from judgetrace.study.sections import merge

MARKS = re.compile(
    r"^(?:(?P<folder>.*)/)?(?P<mark>manifest-00000\.json|manifest\.json|agreement\.json|drivers/driver-\d+\.json)$"
)
STUDY_REPORT = "configs/report.toml"
"""Where run_study keeps the config of its report."""
MAX_DEPTH = 4
"""Folders below the study's in which a mark can lie."""

KINDS = {
    "infer_traces": "traces",
    "train_rater": "training",
    "rate_items": "ratings",
    "recalibrate_rater": "ratings",
    "refine_guideline": "refinement",
    "verify_traces": "verification",
}
"""Job -> the config's key that takes its runs."""
SHOWN_BY = {"training": "metrics.parquet", "refinement": "refinement.json"}
"""Key -> the file without which a run has nothing to show yet."""
NOT_TAKEN = frozenset({"output", "study", "dry_run", "corpus", "agreement", *KINDS.values()})
"""Keys that are not taken of the config of a study's own report: where it went, and runs, which are looked for."""


def fill_from_study(config: RenderReportConfig) -> RenderReportConfig:
    """Add a study's runs, and what its own report says besides, to a config where it does not say so itself.

    Raises UserError for an empty study, or for a config of its report that can't be read.
    """
    if config.study is None:
        return config
    study = Folder(config.study)
    found = find_runs(study)
    if not found:
        raise UserError(
            f"study = {config.study}: no run of any job in it\nexpected: a folder that run_study has written to"
        )
    runs = {key: urls for key, urls in found.items() if not getattr(config, key)}
    values = merge(read_own_report(study), _list_given(config), runs)
    try:
        return RenderReportConfig.model_validate(values)
    except ValidationError as error:
        where = f"{study.url}/{STUDY_REPORT} and the config"
        raise UserError(describe_validation_error(error, RenderReportConfig, where)) from error


def _list_given(config: RenderReportConfig) -> dict[str, Any]:
    """List what a config says of its own; read from a file every key counts as set, but not those of its sections."""
    fields, given = type(config).model_fields, config.model_dump(exclude_unset=True)
    defaults = {key: fields[key].get_default(call_default_factory=True) for key in given}
    return {key: value for key, value in given.items() if isinstance(value, dict) or value != defaults[key]}


def find_runs(study: Folder) -> dict[str, Any]:
    """Find a study's runs: key of the config -> URL, or URLs for those that take several.

    Of several agreements, that of the most raters.
    """
    found: dict[str, list[str]] = {}
    complete = _list_complete(study)
    for folder, marks in sorted(_list_marks(study).items()):
        if complete is not None and folder not in complete:
            # Another call's folder, or what a stage left before it was done again.
            continue
        url = f"{study.url.rstrip('/')}/{folder}" if folder else study.url
        kind = _find_kind(Folder(url), marks)
        if kind is not None:
            found.setdefault(kind, []).append(url)
    found.get("agreement", []).sort(key=_count_raters)
    several = ("traces", "training", "ratings", "verification")
    return {kind: urls if kind in several else urls[-1] for kind, urls in found.items()}


def _list_complete(study: Folder) -> set[str] | None:
    """List the folders of a study's complete stages; None for a folder that run_study has not written to."""
    if not study.exists(FILE):
        return None
    stages = study.read_json(FILE)["stages"]
    return {stage["folder"] for stage in stages if stage["state"] == "complete" and stage["kind"] != FORMER}


def read_own_report(study: Folder) -> dict[str, Any]:
    """Read what run_study has its own report show, but for runs and output; nothing where it made no report."""
    if not study.exists(STUDY_REPORT):
        return {}
    given = tomllib.loads(study.read_bytes(STUDY_REPORT).decode())
    return {key: value for key, value in given.items() if key not in NOT_TAKEN}


def _count_raters(agreement: str) -> int:
    return len(Folder(agreement).read_json("agreement.json").get("config", {}).get("raters", []))


def _list_marks(study: Folder) -> Mapping[str, list[str]]:
    root = study.path() + "/"
    marks: dict[str, list[str]] = {}
    for path in study.filesystem.find(root, maxdepth=MAX_DEPTH):
        match = MARKS.match(path.removeprefix(root))
        if match:
            marks.setdefault(match["folder"] or "", []).append(match["mark"])
    return marks


def _find_kind(folder: Folder, marks: list[str]) -> str | None:
    if "manifest-00000.json" in marks:
        return "corpus"
    if "agreement.json" in marks:
        return "agreement"
    about = folder.read_json("manifest.json" if "manifest.json" in marks else max(marks))
    if "sampled_with" in about:
        return "traces"
    kind = KINDS.get(about.get("job", ""))
    return kind if kind not in SHOWN_BY or folder.exists(SHOWN_BY[kind]) else None
