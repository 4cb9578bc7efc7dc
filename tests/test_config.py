from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from judgetrace.config import STRICT, JobStatus, UserError, load_config, run_job


class Inner(BaseModel):
    model_config = STRICT

    rate: float = Field(default=0.5, le=1, description="A share of something.")
    names: list[str] = []


class Config(BaseModel):
    model_config = STRICT

    folder: str = Field(description="Where it goes.")
    inner: Inner = Inner()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "c.toml"
    path.write_text('folder = "here"\n[inner]\nrate = 0.25\n')
    return str(path)


def test_the_command_line_wins_over_the_file(file: str) -> None:
    assert load_config(Config, "job", [file]).inner.rate == 0.25
    config = load_config(Config, "job", [file, "--inner.rate=0.75", "--folder=there"])

    assert (config.folder, config.inner.rate) == ("there", 0.75)
    assert type(config) is Config


def test_an_unknown_key_names_the_known_ones(file: str) -> None:
    Path(file).write_text('folder = "here"\n[inner]\nrat = 0.25\n')

    with pytest.raises(UserError, match=r"inner\.rat: unknown key; known here: names, rate"):
        load_config(Config, "job", [file])


def test_every_fault_is_told_at_once_with_what_was_found(file: str) -> None:
    Path(file).write_text("[inner]\nrate = 2\n")

    with pytest.raises(UserError) as raised:
        load_config(Config, "job", [file])
    assert "2 fault(s)" in str(raised.value)
    assert "folder: missing; add it to the file or give --folder=VALUE" in str(raised.value)
    assert "inner.rate: Input should be less than or equal to 1 (found 2)" in str(raised.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(Config, "job", [str(tmp_path / "none.toml")])
    (tmp_path / "bad.toml").write_text("folder = ")
    with pytest.raises(UserError, match=r"bad\.toml: not valid TOML"):
        load_config(Config, "job", [str(tmp_path / "bad.toml")])
    with pytest.raises(UserError, match="no config file"):
        load_config(Config, "job", [])


def test_help_explains_every_field_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        load_config(Config, "job", ["--help"])

    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "A share of something." in told
    assert "--inner.rate" in told


def test_a_fault_of_the_user_is_printed_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> int:
        raise UserError(f"no {arguments[0]}")

    with pytest.raises(SystemExit) as left:
        run_job(main, ["x"])

    assert left.value.code == 2
    assert capsys.readouterr().err == "error: no x\n"


def test_a_process_ends_with_the_status_that_its_job_keeps_for_it() -> None:
    for status, expected in ((3, 3), (JobStatus(3, of_process=0), 0)):
        with pytest.raises(SystemExit) as left:
            run_job(lambda _, status=status: status, [])
        assert left.value.code == expected
