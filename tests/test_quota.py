"""When a level has enough accepted traces, as one worker knows it."""

from collections import Counter

import pytest

from judgetrace.accounting import Tally, name_level
from judgetrace.control import RunControl, WorkCounts, WorkerReport
from judgetrace.ledger import ShardLedger
from judgetrace.products import TRACE_PRODUCT
from judgetrace.quota import LevelQuota
from judgetrace.run_inputs import RunInputs
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig
from judgetrace.unit_job import UnitJob
from tests.test_dry_run import write_corpus
from tests.trace_tables import make_decision, make_draw, table_of


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


@pytest.mark.parametrize(
    ("splits", "labels"), [((), "12345"), (("train",), "1234"), (("test",), "5"), (("train", "test"), "12345")]
)
def test_of_earlier_runs_a_quota_counts_the_traces_of_the_splits_that_are_sampled(tmp_path, splits, labels):
    """Four units of the corpus are to train on, and that of label 5 to test on; an earlier run accepted all five."""
    corpus, earlier = write_corpus(tmp_path), Folder(str(tmp_path / "earlier"))
    for shard in (1, 2):
        items = Folder(corpus).read_table(f"items/shard-{shard:05d}.parquet")
        hits = (make_decision(items, row, "accepted", [make_draw(0, "accepted", "1")]) for row in range(items.num_rows))
        ShardLedger(earlier, shard, TRACE_PRODUCT).publish(items, table_of(*hits))
    sections = {"model": {"path": "m"}, "after": earlier.url, "quota": {"per_level": 2}, "splits": splits}
    config = InferTracesConfig.model_validate({"corpus": corpus, "run": str(tmp_path / "run")} | sections)
    job = UnitJob("infer_traces", config, RunInputs(corpus, None, None), config.decider(), "f", "accepted")

    own = Tally(units=Counter({name_level(name_level("", "1"), "accepted"): 1}))
    expected = Counter(name_level("", label) for label in labels) + own.count_accepted()
    assert job.level_goals(own).accepted == expected
