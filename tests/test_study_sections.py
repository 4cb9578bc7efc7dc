import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from judgetrace.config import UserError
from judgetrace.study.sections import merge, read_sections, wrap_lists, write_toml


def test_later_layers_win_key_by_key_and_leave_the_rest() -> None:
    below = {"engine": {"slots": 64, "args": {"a": 1}}, "limit": 3}

    merged = merge(below, {"engine": {"args": {"b": 2}}, "limit": 4})

    assert merged == {"engine": {"slots": 64, "args": {"a": 1, "b": 2}}, "limit": 4}
    assert below == {"engine": {"slots": 64, "args": {"a": 1}}, "limit": 3}


def test_false_drops_a_shared_section_and_stays_the_value_of_a_plain_key() -> None:
    assert merge({"engine": {"slots": 1}, "dropped": True}, {"engine": False, "dropped": False}) == {"dropped": False}


def test_null_drops_a_key_of_any_kind_and_leaves_the_rest() -> None:
    below = {"limit": 3, "prompt": {"system": "Rate.", "severity": "strict"}, "engine": {"slots": 1}}

    assert merge(below, {"limit": None, "prompt": {"system": None}, "engine": None, "nothing": None}) == {
        "prompt": {"severity": "strict"}
    }


def test_the_command_line_wins_over_the_file_and_spells_values_as_toml_or_as_text(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('study = "here"\n[infer]\nlimit = 3\n')

    found = read_sections(file, ["--infer.limit=7", "--prepare.source.paths=s3://bucket/a.parquet", '--x.y=["a", "b"]'])

    assert found == {
        "study": "here",
        "infer": {"limit": 7},
        "prepare": {"source": {"paths": "s3://bucket/a.parquet"}},
        "x": {"y": ["a", "b"]},
    }
    with pytest.raises(UserError, match="expected: --section"):
        read_sections(file, ["infer.limit=7"])


def test_what_is_written_as_toml_reads_back_the_same() -> None:
    sections = {
        "text": 'quote " backslash \\ newline \n é \x7f',
        "numbers": [1, 2.5, True],
        "empty": {},
        "deep": {"odd key": {"a.b": 1}, "raters": [{"model": {"path": "m"}, "n": None}]},
        "nothing": None,
    }

    assert tomllib.loads(write_toml(sections)) == {
        "text": 'quote " backslash \\ newline \n é \x7f',
        "numbers": [1, 2.5, True],
        "empty": {},
        "deep": {"odd key": {"a.b": 1}, "raters": [{"model": {"path": "m"}}]},
    }


def test_a_text_becomes_a_list_of_one_where_the_config_wants_a_list() -> None:
    class Inner(BaseModel):
        paths: list[str]
        name: str

    class Outer(BaseModel):
        inner: Inner
        runs: tuple[str, ...]

    assert wrap_lists({"inner": {"paths": "a", "name": "b"}, "runs": "c", "more": "d"}, Outer) == {
        "inner": {"paths": ["a"], "name": "b"},
        "runs": ["c"],
        "more": "d",
    }
