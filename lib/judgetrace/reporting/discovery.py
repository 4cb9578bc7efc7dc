"""Find the runs in a study's folder by what lies in them, wherever the study keeps its stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from judgetrace.config import UserError
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.storage import Folder

MARKS = re.compile(
    r"^(?:(?P<folder>.*)/)?(?P<mark>manifest-00000\.json|manifest\.json|agreement\.json|drivers/driver-\d+\.json)$"
)
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


def fill_from_study(config: RenderReportConfig) -> RenderReportConfig:
    """Add a study's runs to a config where it gives none of a kind itself. Raises UserError for an empty study."""
    if config.study is None:
        return config
    found = find_runs(Folder(config.study))
    if not found:
        raise UserError(
            f"study = {config.study}: no run of any job in it\nexpected: a folder that run_study has written to"
        )
    given = {key: value for key, value in config.model_dump().items() if value}
    return config.model_copy(update={key: value for key, value in found.items() if key not in given})


def find_runs(study: Folder) -> dict[str, Any]:
    """Find a study's runs: key of the config -> URL, or URLs for those that take several."""
    found: dict[str, list[str]] = {}
    for folder, marks in sorted(_list_marks(study).items()):
        url = f"{study.url.rstrip('/')}/{folder}" if folder else study.url
        kind = _find_kind(Folder(url), marks)
        if kind is not None:
            found.setdefault(kind, []).append(url)
    several = ("traces", "training", "ratings", "verification")
    return {kind: urls if kind in several else urls[-1] for kind, urls in found.items()}


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
    return KINDS.get(about.get("job", ""))
