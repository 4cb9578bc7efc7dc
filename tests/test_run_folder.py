"""Who drives a run, and with what."""

import pytest

from judgetrace.config import UserError
from judgetrace.run_folder import Fence, FencedError, RunFolder
from judgetrace.storage import Folder


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(Folder(str(tmp_path)))


def test_the_newest_driver_fences_the_older_ones(run):
    first = run.claim(0.0)
    fence = Fence(run, first, every_s=0.0)
    fence.check()
    second = run.claim(1.0)
    assert (first, second) == (0, 1)
    with pytest.raises(FencedError, match="replaced by a newer one"):
        fence.check()
    Fence(run, second, every_s=0.0).check()


def test_a_fence_looks_only_now_and_then_but_never_forgets(run):
    first = run.claim(0.0)
    fence = Fence(run, first, every_s=3600.0)
    fence.check()
    run.claim(1.0)
    fence.check()
    closed = Fence(run, first, every_s=0.0)
    with pytest.raises(FencedError):
        closed.check()
    with pytest.raises(FencedError):
        closed.check()


def test_a_changed_contract_is_refused_by_the_names_of_its_fields(run):
    run.check_contract({"model.path": "a", "sampling.seed": 0})
    run.check_contract({"model.path": "a", "sampling.seed": 0})
    with pytest.raises(UserError, match=r"model\.path: was 'a', is now 'b'") as caught:
        run.check_contract({"model.path": "b", "sampling.seed": 0})
    assert "sampling.seed" not in str(caught.value)
    with pytest.raises(UserError, match=r"sampling\.top_k: was None, is now 5"):
        run.check_contract({"model.path": "a", "sampling.seed": 0, "sampling.top_k": 5})


def test_a_local_disk_lets_only_the_first_writer_through(run):
    run.check_store()
    assert (run.folder / "drivers").list_files() == []
