"""When a level has enough accepted traces, as one worker knows it."""

from collections import Counter

from judgetrace.accounting import name_level
from judgetrace.control import RunControl, WorkCounts, WorkerReport
from judgetrace.quota import LevelQuota


def test_a_level_is_full_by_what_was_accepted_here_and_elsewhere():
    quota = LevelQuota(3)
    quota.note_accepted("a")
    quota.hear({"a": 1, "b": 3})
    assert (quota.is_full("a"), quota.is_full("b"), quota.is_full("c")) == (False, True, False)
    quota.note_accepted("a")
    assert quota.is_full("a")


def test_without_a_quota_no_level_is_ever_full():
    quota = LevelQuota(None)
    quota.hear({"a": 1_000_000})
    assert not quota.is_full("a")


def test_a_worker_hears_what_all_others_committed_and_never_its_own():
    level = name_level("", "5")
    done = WorkCounts(levels=Counter({name_level(level, "accepted"): 2, name_level(level, "exhausted"): 7}))
    control = RunControl(accepted_before={level: 10})
    control.report(WorkerReport("dead", "running", done))
    assert control.report(WorkerReport("one", "running", done)).accepted_elsewhere == {level: 12}
    assert control.report(WorkerReport("two", "running")).accepted_elsewhere == {level: 14}


def test_where_nobody_asks_for_a_quota_nothing_is_added_up():
    assert RunControl().report(WorkerReport("one", "running")).accepted_elsewhere == {}
