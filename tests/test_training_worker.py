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
from judgetrace.run_folder import FencedError, RunFolder
from judgetrace.storage import Folder
from judgetrace.training import worker
from judgetrace.training.build_lock import StaleBuildLockError
from judgetrace.training.checkpoints import STATE, check_parts, explain_load_failure, save_progress
from judgetrace.training.deepspeed_engine import share_step, warm_up
from judgetrace.training.faults import TrainingFaultError
from judgetrace.training.order import EpochOrder
from judgetrace.training.progress import Progress
from judgetrace.training.standing import Fault, read_fault, write_fault
from judgetrace.training.worker import TrainingWorker, share_cpus, train


def make_spec(run: str) -> Any:
    """As much of a TrainSpec as is read before the first component is made."""
    return SimpleNamespace(feed=SimpleNamespace(run=run), driver=3, model=ModelConfig(path="."), on_gpu=False)


def test_a_stale_build_lock_is_written_down_and_the_workers_that_come_after_end_at_once(tmp_path, monkeypatch):
    lock = tmp_path / "extensions/py311_cpu/cpu_adam/lock"
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
    assert f"Delete the folder {lock.parent}" in fault.text
    assert fault.status == 2
    assert train(config) is None
    assert read_fault(Folder(str(tmp_path / "run")), 4) is None


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 7), (2, 3), (9, 1)])
def test_the_workers_of_a_machine_share_its_cpus(monkeypatch, num_workers, threads):
    before = torch.get_num_threads()
    monkeypatch.setattr(worker, "count_cpus", lambda: 7)
    try:
        share_cpus(num_workers)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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


def test_what_a_full_disk_or_too_little_memory_did_is_not_put_on_the_number_of_workers():
    told = explain_load_failure(OSError(errno.ENOSPC, "no room"), 4, 2)
    assert told is not None
    assert "Make room" in told
    assert "num_workers" not in told
    # Of this its own message says what to do.
    assert explain_load_failure(MemoryError(), 4, 2) is None


def test_a_checkpoint_without_a_workers_part_is_not_loaded(tmp_path):
    # DeepSpeed would convert what there is, and leave out the values of the part that is lost.
    (tmp_path / STATE).mkdir()
    save_progress(Progress(), 2, tmp_path)
    (tmp_path / STATE / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    (tmp_path / STATE / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(UserError, match=r"damaged: it has the states of 1 worker\(s\); 2 saved it"):
        check_parts(tmp_path)


def make_engine_of(error: Exception, monkeypatch: pytest.MonkeyPatch, is_saved: bool) -> None:
    """Let a worker make its engine, which meets an error."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(worker, "make_engine", fail)
    one = object.__new__(TrainingWorker)
    one._spec = SimpleNamespace(model=ModelConfig(path="base"), adapter=None, training=None, on_gpu=False)
    one._is_saved = is_saved
    one._make_engine({}, ())


@pytest.mark.parametrize("is_saved", [False, True])
def test_an_engine_that_no_worker_can_make_is_not_tried_again(monkeypatch, is_saved):
    unknown = ValueError("1 validation error for DeepSpeedZeroConfig: stagee: Extra inputs are not permitted")
    with pytest.raises(TrainingFaultError, match="stagee: Extra inputs") as raised:
        make_engine_of(unknown, monkeypatch, is_saved)
    assert ("The last checkpoint is intact." in str(raised.value)) == is_saved


@pytest.mark.parametrize("passing", [RuntimeError("gloo: Connection closed by peer"), MemoryError(), UserError("own")])
def test_an_engine_whose_peers_are_lost_is_made_again_and_other_errors_speak_for_themselves(monkeypatch, passing):
    with pytest.raises(type(passing)) as raised:
        make_engine_of(passing, monkeypatch, True)
    assert raised.value is passing


def test_a_driver_that_was_replaced_ends_with_the_status_of_what_goes_on_by_itself(tmp_path):
    fenced = RunFolder(Folder(str(tmp_path)))
    first, _ = fenced.claim(0.0), fenced.claim(1.0)
    with pytest.raises(FencedError) as raised:
        fenced.check_newest(first)
    write_fault(fenced.folder, first, Fault.of(raised.value))
    fault = read_fault(fenced.folder, first)
    assert fault is not None
    assert fault.to_error().exit_status == 3
    assert "units" not in fault.text
    assert Fault.of(TrainingFaultError("diverged")).to_error().exit_status == 2
