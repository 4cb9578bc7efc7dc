"""What the driver decides before any work: which shards, how many at once."""

import threading

import pytest
from ray.exceptions import ActorDiedError

from judgetrace.config import UserError
from judgetrace.control import RunSnapshot, WorkCounts
from judgetrace.engine import EngineConfig
from judgetrace.limits import LimitsConfig, RunLimits
from judgetrace.metrics import RunView
from judgetrace.run_folder import RunFolder
from judgetrace.session import StageWatch
from judgetrace.storage import CorruptFileError, Folder
from judgetrace.unit_run import ShardTask, UnitRun, plan_shards, shards_at_once, share_shards


def test_a_limit_cuts_the_last_shard_and_leaves_out_the_rest():
    shards = [(0, 100), (2, 0), (3, 100), (4, 100)]
    assert plan_shards(shards, 150) == [ShardTask(0, 100), ShardTask(3, 50)]
    assert plan_shards(shards, None) == [ShardTask(0, 100), ShardTask(3, 100), ShardTask(4, 100)]


def test_enough_shards_are_open_that_stragglers_leave_no_slot_idle():
    # A shard stays open for its slowest unit: two of 100 units left engines of 32 slots idle a fifth of the time.
    def at_once(slots: int, units: int) -> int:
        return shards_at_once(EngineConfig(slots=slots), units)

    assert at_once(slots=32, units=100) == 4
    assert at_once(slots=256, units=1000) == 4
    assert at_once(slots=64, units=1) == 64
    assert shards_at_once(EngineConfig(slots=32, shards_at_once=1), 100) == 1


def test_no_engine_holds_more_than_its_share_of_the_shards():
    def share(num_tasks: int, **engine: int) -> tuple[int, int]:
        return share_shards(EngineConfig(slots=64, **engine), num_tasks, 20)

    # 2 + 8 x 64 // 20 feed an engine at once, where there are enough.
    assert share(1000, max_replicas=4) == (27, 29)
    assert share(111, max_replicas=4) == (27, 28)
    assert share(40, max_replicas=4) == (10, 10)
    assert share(41, max_replicas=4) == (11, 11)
    assert share(3, max_replicas=8) == (2, 2)
    assert share(40, max_replicas=4, shards_at_once=16) == (16, 16)


@pytest.fixture
def run(tmp_path) -> UnitRun:
    """A call of a job that has not begun."""
    folder = RunFolder(Folder(str(tmp_path / "run")))
    return UnitRun("infer_traces", folder, folder.claim(0.0), RunLimits(LimitsConfig(), None), RunView(9, WorkCounts()))


def test_a_shard_that_cannot_be_read_ends_the_run_after_the_others_and_is_warned_of_at_once(run, monkeypatch, capsys):
    told, done = [], []

    def start_pool(spec, tasks, control):
        for task in tasks:
            given_back = task.number == 3 and task.number not in done
            broken = "shard-1 is cut off\nRestore it." if task.number == 1 else ""
            done.append(task.number)
            yield {"shard": task.number, "given_back": given_back, "broken": broken}
            run._warn_of_broken()
            told.append(capsys.readouterr().err)

    monkeypatch.setattr("judgetrace.unit_run.start_pool", start_pool)
    run._consume(None, [ShardTask(number, 1) for number in (1, 2, 3)], None)
    assert done == [1, 2, 3, 3]
    assert told == ["\nwarning: shard-1 is cut off; the other shards are worked on\n", "", "", ""]
    assert isinstance(run._failure, CorruptFileError)
    seen = RunSnapshot()
    run._show(seen)
    assert seen.num_broken == 1


def test_a_control_that_dies_ends_the_run_early_with_a_state_and_no_traceback(run, tmp_path, monkeypatch):
    answers = [RunSnapshot(done=WorkCounts(num_draws=7)), ActorDiedError()]

    def ask_control(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("judgetrace.unit_run.ask_control", ask_control)
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    try:
        seen = run._watch(thread, None, StageWatch("infer_traces", {}, 60.0))
    finally:
        is_over.set()
    with pytest.raises(UserError, match="process that counts for the driver") as caught:
        run._end(seen, max_deaths=30)
    assert caught.value.exit_status == 3
    assert "The same command goes on" in str(caught.value)
    (state,) = RunFolder(Folder(str(tmp_path / "run"))).read_states().values()
    assert state["state"] == str(caught.value)
    assert state["num_draws"] == 7
