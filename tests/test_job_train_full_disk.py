"""train_rater whose run folder is on a disk that fills up: it says so, and goes on from the last checkpoint.

Small disks are tmpfs mounts, which only root may make; elsewhere this test is skipped.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jobs import train_rater
from judgetrace.config import UserError
from judgetrace.training.progress import Progress
from tests.test_full_disks import fill, small_disk  # noqa: F401 - a fixture
from tests.test_job_train_faults import after_first_checkpoint, undisturbed, write_config  # noqa: F401 - fixtures
from tests.train_runs import list_checkpoints, read_losses

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]


@pytest.mark.parametrize("left", [0, 64 << 10])
def test_a_disk_that_fills_up_is_told_and_the_same_command_goes_on_from_the_last_checkpoint(
    write_config,  # noqa: F811
    undisturbed,  # noqa: F811
    tmp_path,
    small_disk,  # noqa: F811
    left,
):
    # Room for the checkpoints and the rater.
    subprocess.run(["mount", "-o", f"remount,size={32 << 20}", str(small_disk)], check=True)
    run, ballast = str(small_disk / "run"), list[Path]()
    config = write_config(tmp_path, run)
    thread = after_first_checkpoint(run, lambda: ballast.append(fill(small_disk, left)))
    with pytest.raises(UserError, match=r"could not be saved: .*(.|\n)*Make room") as raised:
        train_rater.main([config])
    thread.join()
    print(raised.value)
    newest = list_checkpoints(run)[-1]
    assert Progress.load(newest).step >= 5
    ballast[0].unlink()
    assert train_rater.main([config]) == 0
    assert read_losses(run) == pytest.approx(undisturbed, abs=1e-4)
    left_over = {path.name for path in (small_disk / "run/checkpoints").iterdir() if path.is_dir()}
    # What the full disk left half-written would fill it again.
    assert left_over == {path.name for path in list_checkpoints(run)}
