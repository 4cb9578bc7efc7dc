"""The live line."""

from collections import Counter

import pytest

from judgetrace.accounting import name_level
from judgetrace.control import RunControl, RunSnapshot, WorkCounts, WorkerReport
from judgetrace.live import LiveLine, format_seconds
from judgetrace.metrics import RunView


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3000, "50 min"), (5400, "1.5 h"), (86400, "24.0 h")]
)
def test_durations_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_the_line_tells_units_tokens_and_time_left(capsys):
    clock = iter(range(1000, 2000, 10))
    line = LiveLine(
        RunView(400, WorkCounts(Counter(accepted=80, exhausted=20), prompt_tokens=30_000, output_tokens=20000)),
        clock=lambda: float(next(clock)),
    )
    for step in range(1, 7):
        line.show(
            RunSnapshot(
                states=Counter(running=2, starting=1),
                done=WorkCounts(
                    outcomes=Counter(accepted=20 * step, exhausted=4 * step, quarantined=step),
                    num_draws=100 * step,
                    prompt_tokens=10_000 * step,
                    output_tokens=5000 * step,
                ),
                draws_in_flight=128,
                num_restarts=step // 2,
            )
        )
    last = capsys.readouterr().err.splitlines()[-1]
    # 150 units in 50 s since the first draw, 150 to go; 5,000 tokens every 10 s; 80 + 120 accepted for 50,000 tokens.
    assert last == (
        "250/400 units  200 accepted (80.0%), 44 exhausted, 6 quarantined  about 50 s left  500 tokens/s  "
        "250 tokens per accepted  128 draws in flight, engines: 2 running, 1 starting  3 restart(s)  "
        "600 draws, 50,000 tokens, 90,000 of prompts"
    )


def test_shards_that_cannot_be_read_stand_in_the_line():
    line = LiveLine(RunView(10, WorkCounts()))
    seen = RunSnapshot(done=WorkCounts(num_draws=1))
    line.show(seen)
    assert "read" not in line.text(seen)
    seen.num_broken = 2
    assert "2 shard(s) can't be read" in line.text(seen)


def test_before_the_first_draw_the_line_tells_what_the_engines_do(capsys):
    LiveLine(RunView(10, WorkCounts())).show(RunSnapshot(states=Counter(starting=1)))
    assert capsys.readouterr().err.startswith("engines: 1 starting (")


def test_reports_of_replaced_workers_count_on_but_not_as_running():
    clock = [0.0]
    control = RunControl(clock=lambda: clock[0])
    decided = WorkCounts(
        Counter(accepted=3), output_tokens=30, levels=Counter({name_level(name_level("", "5"), "accepted"): 2})
    )
    control.report(WorkerReport("dead", "running", decided, draws_in_flight=9))
    assert control.snapshot().done.outcomes["accepted"] == 3
    control.report(WorkerReport("loading", "starting"))
    clock[0] = 60.0
    done = WorkCounts(Counter(accepted=1), output_tokens=5)
    control.report(WorkerReport("new", "running", done, draws_in_flight=2, is_restart=True))
    seen = control.snapshot()
    assert seen.states == {"running": 1, "starting": 1}
    # What it had not committed is decided again.
    assert (seen.done.outcomes["accepted"], seen.done.output_tokens, seen.draws_in_flight) == (2 + 1, 35, 2)
    assert seen.num_restarts == 1


def test_a_worker_that_loads_its_engine_on_a_lost_node_is_not_waited_for():
    control = RunControl(clock=lambda: 0.0)
    done = WorkCounts(Counter(accepted=3), levels=Counter({name_level(name_level("", "5"), "accepted"): 2}))
    control.report(WorkerReport("loading", "starting", done, node="lost"))
    control.report(WorkerReport("other", "starting", node="there"))
    assert control.snapshot({"there", "head"}).states == {"starting": 1}
    assert control.snapshot({"head"}).states == {}
    assert control.snapshot({"lost"}).done.outcomes["accepted"] == 3
    assert control.snapshot({"head"}).done.outcomes["accepted"] == 2
    assert control.snapshot().states == {"starting": 2}
