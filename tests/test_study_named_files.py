"""What a stage's config names by path counts by what the file says, in whatever section it is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.storage import encode_parquet
from judgetrace.study.planning import list_changes
from judgetrace.study.records import name_folder
from judgetrace.study.resolving import count_config, resolve_stage
from judgetrace.study.stages import build_stages
from tests.study_files import make_config


def write_files(folder: Path) -> dict[str, Any]:
    """Write a file of each kind that a study can name; returns the sections that name them."""
    for name in ("merge.jinja", "critiques.jinja", "rater.jinja"):
        (folder / name).write_text("Rate by {{ guideline }}.")
    (folder / "zero.json").write_text("{}")
    for name in ("generator", "embedder", "other"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"size": 1}))
    (folder / "rationales.parquet").write_bytes(encode_parquet(pa.table({"item_id": ["a"]})))
    (folder / "people.parquet").write_bytes(encode_parquet(pa.table({"item_id": ["a"]})))
    templates = {name: str(folder / f"{name}.jinja") for name in ("merge", "critiques")}
    return {
        "train": {"deepspeed": str(folder / "zero.json")},
        "rate": {"others": ["other"], "other": {"model": {"path": str(folder / "other")}}},
        "refine": {
            "generator": {"model": {"path": str(folder / "generator")}},
            "embedding": {"model": str(folder / "embedder")},
            "candidates": {f"{name}_template": path for name, path in templates.items()},
            "rater": {"untuned": {"prompt": {"template": str(folder / "rater.jinja")}}},
        },
        "agreement": {"tables": [{"kind": "human", "paths": [str(folder / "people.parquet")]}]},
        "report": {"rationales": {"paths": [str(folder / "rationales.parquet")]}},
    }


def count(folder: Path, sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    stages = build_stages(make_config(folder, **sections))
    folders = {stage.name: f"study/{name_folder(stage.name)}" for stage in stages}
    return {stage.name: count_config(stage, resolve_stage(stage, folders).config) for stage in stages}


@pytest.mark.parametrize(
    ("file", "stage", "key"),
    [
        ("merge.jinja", "refine", "candidates.merge_template (its text)"),
        ("critiques.jinja", "refine", "candidates.critiques_template (its text)"),
        ("rater.jinja", "refine", "raters.0.prompt.template (its text)"),
        ("generator/config.json", "refine", "generator.model (its files)"),
        ("embedder/config.json", "refine", "embedding.model (its files)"),
        ("other/config.json", "refine", "raters.2.model (its files)"),
        ("zero.json", "train.tuned", "deepspeed (its text)"),
        ("people.parquet", "agreement.all", "tables.0.paths (their files)"),
        ("rationales.parquet", "report", "rationales.paths (their files)"),
    ],
)
def test_another_text_under_the_same_path_is_a_change(tmp_path: Path, file: str, stage: str, key: str) -> None:
    sections = write_files(tmp_path)
    before = count(tmp_path, sections)[stage]
    assert list_changes(before, count(tmp_path, sections)[stage]) == {}

    more = encode_parquet(pa.table({"item_id": ["a", "b", "c"]})) if file.endswith(".parquet") else b'{"size": 2}'
    (tmp_path / file).write_bytes(more)

    assert list(list_changes(before, count(tmp_path, sections)[stage])) == [key]


def test_a_model_that_another_stage_makes_is_spelled_by_its_name_and_not_read(tmp_path: Path) -> None:
    refine = count(tmp_path, {"refine": {}})["refine"]

    assert refine["raters.1.model.path"] == "<train.tuned>/rater"
    assert "raters.0.model (its files)" in refine
    assert "raters.1.model (its files)" not in refine


def test_how_fast_raters_and_generator_are_is_no_change(tmp_path: Path) -> None:
    fast = {"rater": {"engine": {"slots": 99}}, "generator": {"engine": {"slots": 99}}, "embedding": {"batch_size": 9}}

    assert list_changes(count(tmp_path, {"refine": {}})["refine"], count(tmp_path, {"refine": fast})["refine"]) == {}


@pytest.mark.parametrize(
    ("stage", "sections"),
    [
        ("infer", {"infer": {"gate": {"min_level_acceptance": 0.1, "on_breach": "stop", "min_units": 9}}}),
        ("train.tuned", {"train": {"validation": {"batch": 2}}}),
    ],
)
def test_a_setting_on_which_no_result_depends_is_no_change(tmp_path: Path, stage: str, sections: Any) -> None:
    assert list_changes(count(tmp_path, {})[stage], count(tmp_path, sections)[stage]) == {}


EXPECTED = {"decoding": {"rating": "expected"}}
"""What make_config says of [rate]."""


@pytest.mark.parametrize(
    ("stage", "sections", "key"),
    [
        ("infer", {"infer": {"splits": ["train"]}}, "splits"),
        ("infer", {"infer": {"quota": {"per_level": 9}}}, "quota.per_level"),
        # What is kept can be learned from, or read: it is a part of the result.
        ("infer", {"infer": {"ledger": {"keep_rejected_text": True}}}, "ledger.keep_rejected_text"),
        ("rate.untuned", {"rate": {**EXPECTED, "ledger": {"keep_text": True}}}, "ledger.keep_text"),
        ("train.tuned", {"train": {"validation": {"every_steps": 2}}}, "validation.every_steps"),
    ],
)
def test_a_setting_on_which_results_depend_is_a_change(tmp_path: Path, stage: str, sections: Any, key: str) -> None:
    assert list(list_changes(count(tmp_path, {})[stage], count(tmp_path, sections)[stage])) == [key]


def test_a_template_that_is_not_there_is_found_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"candidates\.rubric_template = nowhere\.jinja"):
        count(tmp_path, {"refine": {"candidates": {"rubric_template": "nowhere.jinja"}}})
    with pytest.raises(UserError, match=r"deepspeed = nowhere\.json: no such file"):
        count(tmp_path, {"train": {"deepspeed": "nowhere.json"}})
