"""What the config of refine_guideline can say in the words that a TOML file has."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from judgetrace.config import UserError, load_config
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.study.sections import write_toml

BASE = """corpus = "c"
traces = "t"
run = "r"
allow_one_rater = true
[generator.model]
path = "g"
[[raters]]
rater_id = "a"
[raters.model]
path = "m"
"""


def load(folder: Path, text: str, *arguments: str) -> RefineGuidelineConfig:
    file = folder / "refine.toml"
    file.write_text(text)
    return load_config(RefineGuidelineConfig, "refine_guideline", [str(file), *arguments])


def list_limits(config: RefineGuidelineConfig) -> list[int | None]:
    rule = config.item_rule("")
    return [rule.limit(part) for part in ("race", "confirm", "test")]


def test_all_items_can_be_asked_for_in_a_file_on_the_command_line_and_through_a_study(tmp_path: Path) -> None:
    all_items = '[scoring]\nmax_items = "all"\n[test]\nmax_items = "all"\n'

    assert list_limits(load(tmp_path, BASE)) == [1000, 1000, 1000]
    assert list_limits(load(tmp_path, BASE + all_items)) == [None, None, None]
    assert list_limits(load(tmp_path, BASE, "--scoring.max_items=all")) == [None, None, 1000]
    assert list_limits(load(tmp_path, BASE, "--scoring.max_items=20", "--test.max_items=7")) == [20, 20, 7]
    # A study writes a stage's values to a TOML file, which the job reads.
    assert list_limits(load(tmp_path, write_toml(tomllib.loads(BASE + all_items)))) == [None, None, None]


def test_no_items_and_other_words_are_refused(tmp_path: Path) -> None:
    for value in ("0", "nothing"):
        with pytest.raises(UserError, match=r"scoring\.max_items"):
            load(tmp_path, BASE, f"--scoring.max_items={value}")
