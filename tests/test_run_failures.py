"""What a run says of what its workers met."""

import pytest
from ray.exceptions import ActorDiedError, RayActorError

from judgetrace.config import UserError
from judgetrace.control import RunSnapshot
from judgetrace.run_failures import explain_broken, explain_failure, explain_starts


def died_in_its_start(told: str) -> ActorDiedError:
    died = ActorDiedError()
    RayActorError.__init__(died, "1", f"The actor died because of an error raised in its creation task, {told}", True)
    return died


def test_more_deaths_than_max_deaths_end_in_an_error_that_names_it_and_can_be_continued():
    ended = explain_failure(ActorDiedError(), max_deaths=30)
    assert isinstance(ended, UserError)
    assert "engine.max_deaths = 30" in str(ended)
    assert ended.exit_status == 3


def test_an_engine_that_cannot_start_at_all_ends_the_run_for_good():
    ended = explain_failure(died_in_its_start("UnitActor()\nEngineStartError: no such model"), max_deaths=30)
    assert str(ended).startswith("the engine could not start: no such model\n")
    assert ended.exit_status == 2


def test_an_engine_that_cannot_start_where_others_have_drawn_can_be_continued():
    ended = explain_failure(died_in_its_start("EngineStartError: no GPU"), max_deaths=30, has_begun=True)
    assert str(ended).startswith("no engine runs any more, and one could not start: no GPU\n")
    assert ended.exit_status == 3


def test_a_store_that_gives_no_model_is_a_store_that_failed():
    told = "EngineStartError: StoreError: s3://models/m: can't be read: OSError: SlowDown"
    ended = explain_failure(died_in_its_start(told), max_deaths=30)
    assert str(ended) == "s3://models/m: can't be read: OSError: SlowDown"
    assert ended.exit_status == 3


@pytest.mark.parametrize("fault", [RuntimeError("a fault of our own"), died_in_its_start("KeyError: 'x'")])
def test_a_fault_of_our_own_is_told_as_it_is(fault):
    assert explain_failure(fault, max_deaths=30) is fault


def test_engines_that_end_while_they_start_are_counted_with_the_last_reason():
    assert "31 engines in a row ended while they started, and none runs: they said no reason" in str(
        explain_starts(RunSnapshot(starts_in_row=31))
    )
    told = explain_starts(RunSnapshot(starts_in_row=31, failed_start="no GPU"))
    assert "and none runs: no GPU\nThe same command goes on" in str(told)
    assert told.exit_status == 3


def test_shards_that_cannot_be_read_are_named_at_most_five_with_their_number():
    ended = explain_broken({shard: f"shard-{shard} is cut off\nRestore it." for shard in range(7)})
    told = str(ended).splitlines()
    assert told[0] == "7 shard(s) can't be read; all others were worked on"
    assert told[1:7] == [*(f"  shard-{shard} is cut off" for shard in range(5)), "  ..."]
    assert ended.exit_status == 2
    assert explain_failure(ended, max_deaths=30) is ended


def test_a_file_that_two_shards_need_is_named_once():
    told = str(explain_broken({1: "shard-1 is gone", 3: "shard-1 is gone"})).splitlines()
    assert told[:2] == ["2 shard(s) can't be read; all others were worked on", "  shard-1 is gone"]
    assert len(told) == 3
