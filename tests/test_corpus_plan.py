"""What a plan of prepare_corpus says before a cluster is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from judgetrace import readers, text_files
from judgetrace.config import UserError
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.corpus_plan import CorpusPlan, make_plan


def plan_corpus(tmp_path: Path, source: str, columns: dict[str, Any], **more: Any) -> CorpusPlan:
    (tmp_path / "guideline.md").write_text("Rate it from 1 to 5.\n")
    given = {
        "corpus": str(tmp_path / "corpus"),
        "source": {"paths": [str(tmp_path / source)], "layout": "wide" if "labels" in columns else "long"},
        "columns": {"item_id": "item", "text": "text", **columns},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(tmp_path / "guideline.md")},
    }
    return make_plan(PrepareCorpusConfig.model_validate(given | more))


def write_lines(path: Path, *objects: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in objects))


def test_annotators_of_few_items_need_not_be_in_every_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"item": "i", "text": "t", "ann": 1}, {"item": "j", "text": "t", "bob": 2})
    write_lines(tmp_path / "b.jsonl", {"item": "k", "text": "t", "cat": 1})

    assert plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob", "cat"]}).warnings == ()
    with pytest.raises(UserError, match=r"columns\.labels: \['dan'\] \(1\) occur in no source file; found: "):
        plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob", "cat", "dan"]})
    with pytest.raises(UserError, match=r"b\.jsonl: no column 'ann'"):
        plan_corpus(tmp_path, "*.jsonl", {"labels": ["ann", "bob"]})


def test_an_annotator_who_may_come_later_in_a_file_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (readers, text_files):
        monkeypatch.setattr(room, "HEADER_BYTES", 60)
    lines = [{"item": f"i{n}", "text": "t", "ann": 1} for n in range(5)]
    write_lines(tmp_path / "a.jsonl", *lines, {"item": "j", "text": "t", "bob": 2})

    (warning,) = plan_corpus(tmp_path, "a.jsonl", {"labels": ["ann", "bob"]}).warnings

    assert warning.startswith("columns.labels: ['bob'] (1) occur in no source file, as far as their first bytes tell")
