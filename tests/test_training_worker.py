"""What a training worker does before and around its work, without Ray."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.storage import Folder
from judgetrace.training import worker
from judgetrace.training.build_lock import StaleBuildLockError
from judgetrace.training.checkpoints import STATE, convert_state, explain_load_failure, save_progress
from judgetrace.training.deepspeed_engine import share_step, warm_up
from judgetrace.training.order import EpochOrder
from judgetrace.training.progress import Progress
from judgetrace.training.standing import read_fault
from judgetrace.training.worker import is_disk_full, train


def make_spec(run: str) -> Any:
    """As much of a TrainSpec as is read before the first component is made."""
    return SimpleNamespace(feed=SimpleNamespace(run=run), driver=3, model=ModelConfig(path="."), on_gpu=False)


def test_a_stale_build_lock_is_written_down_and_the_workers_that_come_after_end_at_once(tmp_path, monkeypatch):
    lock = tmp_path / "extensions/py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    for name in ("TORCH_EXTENSIONS_DIR", "DS_ACCELERATOR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, str(tmp_path / "extensions"))
    config = {"spec": make_spec(str(tmp_path / "run")), "board": None}
    with pytest.raises(StaleBuildLockError):
        train(config)
    fault = read_fault(Folder(str(tmp_path / "run")), 3)
    assert fault is not None
    assert f"Delete the folder {lock.parent}" in fault
    assert train(config) is None
    assert read_fault(Folder(str(tmp_path / "run")), 4) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_error_or_by_what_caused_it(tmp_path, code):
    full = OSError(code, "no room")
    assert is_disk_full(full, tmp_path)
    outer = RuntimeError("unexpected pos")
    outer.__cause__ = full
    assert is_disk_full(outer, tmp_path)


def test_a_store_that_fails_for_a_while_is_no_full_disk(tmp_path, monkeypatch):
    assert not is_disk_full(OSError(errno.ECONNRESET, "reset"), tmp_path)
    # torch's own error says nothing of the disk, so the disk is asked.
    monkeypatch.setattr(worker, "ROOM_BYTES", 1 << 60)
    assert is_disk_full(RuntimeError("unexpected pos 64 vs 0"), tmp_path)
    assert not is_disk_full(RuntimeError("unexpected pos 64 vs 0"), tmp_path / "gone")


@pytest.mark.parametrize(
    ("batch", "lanes", "workers", "micro_batch", "expected"),
    [
        (128, 32, 8, 4, (4, 4)),  # 16 examples a worker
        (128, 32, 3, 4, (4, 11)),  # 11, 11 and 10 lanes of 4 examples: 44 examples at most
        (8, 4, 2, 16, (4, 1)),  # a pass holds no more than there is
        (8, 8, 8, 4, (1, 1)),
    ],
)
def test_all_workers_accumulate_as_many_passes_as_the_largest_share_needs(batch, lanes, workers, micro_batch, expected):
    passes = share_step(EpochOrder(batch, lanes, seed=0), workers, micro_batch)
    assert (passes.micro_batch, passes.accumulated) == expected


def test_the_learning_rate_rises_evenly_and_stays():
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_a_checkpoint_that_cannot_be_loaded_is_explained_by_the_number_of_workers_where_that_may_be_why():
    broken = ValueError("a part is missing")
    told = explain_load_failure(broken, 4, 2)
    assert told is not None
    assert told.startswith("the last checkpoint was saved by 4 worker(s), and 2 can't load it: ValueError: a part is")
    assert "workers.num_workers = 4" in told
    assert explain_load_failure(broken, 2, 2) is None
    # A lost worker is replaced; the next attempt may well load.
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    assert explain_load_failure(lost, 4, 2) is None
    assert explain_load_failure(torch.distributed.DistNetworkError("peer gone"), 4, 2) is None


def test_a_checkpoint_without_a_workers_part_is_not_converted(tmp_path):
    # DeepSpeed would convert what there is, and leave out the values of the part that is lost.
    (tmp_path / STATE).mkdir()
    save_progress(Progress(), 2, tmp_path)
    (tmp_path / STATE / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    (tmp_path / STATE / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(UserError, match=r"damaged: it has the states of 1 worker\(s\); 2 saved it"):
        convert_state(tmp_path, STATE)
