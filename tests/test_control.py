"""What a worker does whose engine could not start: fail, wait for the others, or start again, and how often."""

from judgetrace.control import RunControl, WorkCounts, WorkerReport


def starts(control: RunControl, worker: str, *, is_restart: bool = False) -> None:
    control.report(WorkerReport(worker, "starting", is_restart=is_restart))


def fails(control: RunControl, worker: str, *, is_restart: bool = False) -> str:
    starts(control, worker, is_restart=is_restart)
    report = WorkerReport(worker, "starting", is_restart=is_restart, failed_start="no GPU")
    return control.report(report).after_failed_start


def test_where_no_engine_can_start_the_last_one_fails():
    control = RunControl()
    starts(control, "one")
    assert fails(control, "two") == "wait"
    assert fails(control, "one") == "fail"
    assert control.snapshot().failed_start == "no GPU"


def test_who_waited_starts_again_once_another_could():
    control = RunControl()
    starts(control, "one")
    assert fails(control, "two") == "wait"
    control.report(WorkerReport("one", "running"))
    assert fails(control, "two") == "again"


def test_who_may_still_load_a_large_model_is_waited_for_and_nobody_longer():
    now = [0.0]
    control = RunControl(clock=lambda: now[0])
    starts(control, "slow")
    for now[0] in (0.0, 121.0, 1799.0):
        assert fails(control, "two") == "wait"
    now[0] = 1801.0
    assert fails(control, "two") == "fail"


def test_a_start_that_may_take_longer_is_waited_for_as_long():
    now = [0.0]
    control = RunControl(clock=lambda: now[0], start_s=7200.0)
    starts(control, "slow")
    now[0] = 7199.0
    assert fails(control, "two") == "wait"
    assert control.snapshot().states == {"starting": 2}
    now[0] = 7201.0
    assert fails(control, "two") == "fail"


def test_while_another_engine_runs_one_may_fail_as_often_as_it_likes():
    control = RunControl(max_starts=2)
    control.report(WorkerReport("one", "running"))
    assert {fails(control, f"two-{number}", is_restart=number > 0) for number in range(9)} == {"again"}
    assert control.snapshot().starts_in_row == 8


def test_where_none_runs_any_more_so_many_may_fail_in_a_row():
    now = [0.0]
    control = RunControl(clock=lambda: now[0], max_starts=2)
    control.report(WorkerReport("one", "running"))
    now[0] = 60.0  # it has not been heard of for a minute
    assert fails(control, "two", is_restart=True) == "again"
    assert fails(control, "three", is_restart=True) == "fail"


def test_an_engine_that_is_up_begins_the_count_anew():
    control = RunControl()
    for number in range(3):
        starts(control, f"dies-{number}", is_restart=True)
    assert control.snapshot().starts_in_row == 3
    control.report(WorkerReport("dies-2", "running", is_restart=True))
    control.report(WorkerReport("dies-2", "running", is_restart=True))
    assert control.snapshot().starts_in_row == 0


def test_engines_that_join_are_no_restarts():
    control = RunControl()
    for number in range(64):
        starts(control, f"node-{number}")
    assert control.snapshot().starts_in_row == 0


def test_where_none_runs_and_more_die_in_their_start_than_may_the_run_cannot_start():
    control = RunControl(max_starts=2)
    for number in range(3):
        assert not control.snapshot().cannot_start
        starts(control, f"dies-{number}", is_restart=True)
    assert control.snapshot().cannot_start
    control.report(WorkerReport("other", "running"))
    assert not control.snapshot().cannot_start


def test_who_replaces_a_dead_worker_stands_for_its_engine_alone():
    control = RunControl()
    drawn = WorkCounts(num_draws=4, engine_s=2.0)
    control.report(WorkerReport("first", "running", drawn, draws_in_flight=3, actor="a"))
    for number in range(10):
        worker = WorkerReport(f"again-{number}", "starting", is_restart=True, actor="a")
        control.report(worker)
    control.report(WorkerReport("idle", "running", actor="b"))
    seen = control.snapshot()
    assert seen.states == {"starting": 1, "running": 1}
    assert (seen.draws_in_flight, seen.done.num_draws) == (0, 4)
    assert (seen.num_restarts, seen.num_engines) == (10, 1)


def test_an_engine_whose_process_is_gone_is_not_waited_for():
    control = RunControl()
    control.report(WorkerReport("one", "starting", actor="a"))
    control.report(WorkerReport("two", "starting", actor="b"))
    failed = WorkerReport("one", "starting", actor="a", failed_start="no GPU")
    assert control.report(failed).after_failed_start == "wait"
    # The other's process is replaced by one that fails as well: nobody is left to be waited for.
    again = WorkerReport("three", "starting", is_restart=True, actor="b", failed_start="no GPU")
    assert control.report(again).after_failed_start == "fail"


def test_many_workers_report_less_often_together_so_many_a_second():
    """Up to 32 each once a second, 64 every two, and however many there are none is silent for longer than five."""
    control = RunControl()
    waits = [control.report(WorkerReport(f"worker-{number}", "running")).report_in_s for number in range(400)]
    assert [waits[number - 1] for number in (1, 32, 64, 96, 160, 161, 400)] == [1.0, 1.0, 2.0, 3.0, 5.0, 5.0, 5.0]
    assert control.report(WorkerReport("worker-0", "running")).report_in_s == 5.0
