"""Which errors end training, and what they say to do."""

from __future__ import annotations

import errno

import pytest
import torch

from judgetrace.training import faults
from judgetrace.training.faults import (
    TrainingFaultError,
    explaining_memory,
    is_disk_full,
    is_lost_peer,
    is_out_of_memory,
)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_error_or_by_what_caused_it(tmp_path, code):
    full = OSError(code, "no room")
    assert is_disk_full(full, tmp_path)
    outer = RuntimeError("unexpected pos")
    outer.__cause__ = full
    assert is_disk_full(outer, tmp_path)


def test_the_error_of_safetensors_is_no_oserror_and_tells_a_full_disk_by_its_words(tmp_path):
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert is_disk_full(Exception(said), tmp_path)


def test_a_store_that_fails_for_a_while_is_no_full_disk(tmp_path, monkeypatch):
    assert not is_disk_full(OSError(errno.ECONNRESET, "reset"), tmp_path)
    # torch's own error says nothing of the disk, so the disk is asked.
    monkeypatch.setattr(faults, "ROOM_BYTES", 1 << 60)
    assert is_disk_full(RuntimeError("unexpected pos 64 vs 0"), tmp_path)
    assert not is_disk_full(RuntimeError("unexpected pos 64 vs 0"), tmp_path / "gone")


def test_a_peer_that_is_lost_is_told_from_what_each_try_would_meet():
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    assert is_lost_peer(lost)
    assert is_lost_peer(torch.distributed.DistNetworkError("peer gone"))
    assert not is_lost_peer(ValueError("Target modules {'q'} not found in the base model."))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_is_a_fault_that_names_what_needs_less(error):
    assert is_out_of_memory(error)
    less = r"Lower training\.micro_batch(.|\n)*activation_checkpointing"
    with pytest.raises(TrainingFaultError, match=less) as raised, explaining_memory():
        raise error
    # ZeRO 3 shares the base out only once each worker holds it.
    assert "room for the whole base at its start" in str(raised.value)
    with pytest.raises(ValueError, match="another"), explaining_memory():
        raise ValueError("another")
