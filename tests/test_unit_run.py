"""What the driver decides before any work: which shards, how many at once."""

from judgetrace.engine import EngineConfig
from judgetrace.unit_run import ShardTask, plan_shards, shards_at_once, share_shards


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
