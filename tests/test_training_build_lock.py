from __future__ import annotations

import os
from pathlib import Path

import pytest

from judgetrace.training.build_lock import (
    LEFT_OUT,
    StaleBuildLockError,
    extensions_root,
    list_extensions,
    wait_for_build_locks,
)

NOW = 1_000_000.0
EXTENSIONS = list_extensions()


def lock(root: Path, extension: str, age_s: float) -> Path:
    file = root / "py311_cpu" / extension / "lock"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (NOW - age_s, NOW - age_s))
    return file


def test_the_extensions_are_those_that_deepspeed_compiles() -> None:
    # DeepSpeed 0.19: the NAME of each builder in ops/op_builder, on a machine without a GPU.
    assert {"cpu_adam", "fused_adam", "async_io"} <= set(EXTENSIONS)
    assert LEFT_OUT not in EXTENSIONS


def test_an_old_lock_is_named_with_the_folder_to_delete(tmp_path: Path) -> None:
    file = lock(tmp_path, "cpu_adam", 3600)

    with pytest.raises(StaleBuildLockError, match="60 minutes old") as caught:
        wait_for_build_locks(tmp_path, EXTENSIONS, lambda: NOW)

    assert f"Delete the folder {file.parent} on this machine" in str(caught.value)


def test_a_compilation_that_goes_on_is_waited_for_and_locks_of_others_are_left_alone(tmp_path: Path) -> None:
    file = lock(tmp_path, "cpu_adam", 60)
    lock(tmp_path, "somebody_elses", 3600)
    lock(tmp_path, LEFT_OUT, 3600)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= 20:
            file.unlink(missing_ok=True)

    wait_for_build_locks(tmp_path, EXTENSIONS, lambda: NOW + sum(slept), sleep)
    assert sum(slept) == 20


def test_a_compilation_that_was_killed_just_now_is_told_once_its_lock_is_too_old(tmp_path: Path) -> None:
    lock(tmp_path, "cpu_adam", 60)
    slept: list[float] = []

    with pytest.raises(StaleBuildLockError, match="5 minutes old"):
        wait_for_build_locks(tmp_path, EXTENSIONS, lambda: NOW + sum(slept), slept.append)
    assert sum(slept) == pytest.approx(241)


def test_a_machine_that_compiled_nothing_has_no_locks(tmp_path: Path) -> None:
    wait_for_build_locks(tmp_path / "none", EXTENSIONS)


def test_extensions_lie_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert extensions_root() == Path("/cache/torch_extensions")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/own")
    assert extensions_root() == Path("/own")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert extensions_root() == Path.home() / ".cache" / "torch_extensions"
