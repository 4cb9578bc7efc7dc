import os
import signal
import subprocess
import sys

import pytest

from judgetrace.process_exit import count_memory_kills, were_killed_from_outside

ENDS = {
    "import time; time.sleep(60)": True,
    "import os; os.abort()": False,
    "import ctypes; ctypes.string_at(0)": False,
    "raise SystemExit(1)": False,
}


@pytest.mark.parametrize("program", ENDS)
def test_a_kill_from_outside_is_told_from_a_crash(program):
    before = count_memory_kills()
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    if ENDS[program]:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert were_killed_from_outside([process.returncode], count_memory_kills() - before) == ENDS[program]


def test_one_crash_among_kills_is_a_crash_and_those_that_run_do_not_count():
    assert were_killed_from_outside([-signal.SIGKILL, None, -signal.SIGTERM], 0)
    assert not were_killed_from_outside([-signal.SIGKILL, -signal.SIGSEGV], 0)
    assert not were_killed_from_outside([None], 0)


def test_where_memory_ran_out_a_kill_may_be_the_units_own_doing():
    assert not were_killed_from_outside([-signal.SIGKILL], 1)
