"""Who is suspected of killing engines, and who is convicted; without Ray. A worker's end is an exception here."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from judgetrace.engine import EngineConfig, EngineDeadError
from judgetrace.flight_recorder import Crash
from judgetrace.ledger import ShardLedger
from judgetrace.products import TRACE_PRODUCT
from judgetrace.scheduler import Suspicion
from judgetrace.storage import Folder
from judgetrace.suspects import KILLED_TWICE, find_suspects, is_repetition, judge_crashes, mark_suspect
from judgetrace.unit_worker import UnitWorker
from tests.oracle import accepted_set, check_rows
from tests.test_unit_worker import call, corpus, make_worker  # noqa: F401
from tests.trace_tables import make_decision, make_draw, make_items, read_published, table_of


@pytest.fixture
def mortal(monkeypatch):
    """A worker whose engine died commits as always, and then lives on as an object that nobody uses any more."""

    def end(status: int) -> None:
        raise EngineDeadError(f"the process has ended with status {status}")

    monkeypatch.setattr("judgetrace.unit_worker.os._exit", end)


def run_to_the_end(tmp_path, corpus: Folder, *shards: int, **script: object) -> tuple[int, Folder]:  # noqa: F811
    """Replace the worker whenever its engine dies; returns how often that was, and the run."""
    for deaths in range(12):
        worker, _, run = make_worker(tmp_path, corpus, script=script)
        try:
            call(worker, *shards)
        except EngineDeadError:
            continue
        return deaths, run
    raise AssertionError("engines die for ever")


def suspects_of(run: Folder, shard: int = 0) -> set[str]:
    ledger = ShardLedger(run, shard, TRACE_PRODUCT)
    ledger.refresh()
    return {item_id for item_id, _, _ in find_suspects(ledger.latest())}


def test_a_row_that_kills_the_engine_is_quarantined_after_two_deaths_and_its_neighbours_finish(
    tmp_path,
    corpus,  # noqa: F811
    mortal,
):
    undisturbed, _, calm_run = make_worker(tmp_path, corpus, run="calm")
    call(undisturbed, 0, 1)
    calm = accepted_set(read_published(calm_run))
    deaths, run = run_to_the_end(tmp_path, corpus, 0, 1, latency_s=0.01, kills=["shard0-0007"])
    assert deaths == 2
    rows = read_published(run)
    check_rows(rows)
    assert len(rows) == 80
    (bad,) = [row for row in rows if row["outcome"] == "quarantined"]
    assert bad["item_id"] == "shard0-0007"
    assert bad["error"].startswith(KILLED_TWICE)
    assert bad["draws"][0]["prompt_tokens"] > 0
    assert "scripted death of shard0-0007" in bad["draws"][0]["error"]
    rest = [row for row in rows if row is not bad]
    assert accepted_set(rest) == {entry for entry in calm if entry[0] != "shard0-0007"}


def test_several_rows_in_flight_at_once_cost_at_most_two_deaths_each(tmp_path, corpus, mortal):  # noqa: F811
    kills = ["shard0-0001", "shard0-0002", "shard0-0006", "shard1-0003"]
    deaths, run = run_to_the_end(tmp_path, corpus, 0, 1, latency_s=0.01, kills=kills)
    assert deaths <= 2 * len(kills)
    rows = read_published(run)
    check_rows(rows)
    assert len(rows) == 80
    assert sorted(row["item_id"] for row in rows if row["outcome"] == "quarantined") == kills


def test_suspects_are_those_in_flight_and_are_cleared_when_they_end(tmp_path, corpus, mortal):  # noqa: F811
    worker, _, run = make_worker(tmp_path, corpus, script={"latency_s": 0.05, "kills": ["shard0-0003"]})
    with pytest.raises(EngineDeadError):
        call(worker, 0)
    suspects = suspects_of(run)
    assert "shard0-0003" in suspects
    # Eight slots, and one draw that waits in the engine's own queue.
    assert len(suspects) <= 9
    healthy, _, _ = make_worker(tmp_path, corpus)
    assert call(healthy, 0) == [40]
    assert Counter(row["outcome"] for row in read_published(run))["quarantined"] == 0


def test_a_drain_leaves_suspects_suspected(tmp_path, corpus, mortal):  # noqa: F811
    worker, _, run = make_worker(tmp_path, corpus, script={"latency_s": 0.05, "kills": ["shard0-0003"]})
    with pytest.raises(EngineDeadError):
        call(worker, 0)
    before = suspects_of(run)
    slow, link, _ = make_worker(tmp_path, corpus, script={"latency_s": 1e6})
    link.drain = True
    call(slow, 0)
    assert suspects_of(run) == before


def test_a_death_from_outside_makes_no_suspects(tmp_path, corpus, mortal):  # noqa: F811
    worker, _, run = make_worker(tmp_path, corpus, script={"latency_s": 0.5})
    fail_later(worker, EngineDeadError("killed", from_outside=True))
    with pytest.raises(EngineDeadError):
        call(worker, 0)
    assert suspects_of(run) == set()


def test_a_silent_engine_makes_suspects_too(tmp_path, corpus, mortal):  # noqa: F811
    engine = EngineConfig(
        kind="tests.scripted_engine:ScriptedEngine",
        slots=8,
        silent_s=5,
        args={"latency_s": 0.2, "silent_after": 60},
    )
    worker, _, run = make_worker(tmp_path, corpus, engine=engine)
    with pytest.raises(EngineDeadError):
        call(worker, 0)
    assert suspects_of(run)


def fail_later(worker: UnitWorker, failure: EngineDeadError, after_s: float = 0.2) -> None:
    worker._loop.call_soon_threadsafe(
        lambda: asyncio.get_running_loop().call_later(after_s, worker._scheduler.fail, failure)
    )


def test_the_latest_word_about_a_unit_counts():
    items = make_items(3)
    suspicion = Suspicion("4711-9", 3, 1.25)
    suspected = [mark_suspect(make_decision(items, i, "undecided", []), suspicion) for i in range(3)]
    decided = make_decision(items, 1, "accepted", [make_draw(0, "accepted", "2")])
    found = find_suspects(table_of(suspected[0], decided, suspected[2]))
    assert {key[0]: own for key, own in found.items()} == {"item-0000": suspicion, "item-0002": suspicion}
    assert find_suspects(table_of()) == {}


def test_a_suspect_that_kills_alone_clears_the_others_of_its_death_at_once(tmp_path, corpus, mortal):  # noqa: F811
    """The second death explains the first: alone the row took no longer to kill. Most were never drawn alone."""
    script = {"latency_s": 0.01, "crowd_s": 1.0, "kills": ["shard0-0003"]}
    for name in ("run", "run-2", "run-3", "run-4"):
        worker, _, run = make_worker(tmp_path, corpus, script=script, run=name)
        with pytest.raises(EngineDeadError):
            call(worker, 0)
        suspects = suspects_of(run)
        again, _, _ = make_worker(tmp_path, corpus, script=script, run=name)
        with pytest.raises(EngineDeadError):
            call(again, 0)
        assert suspects_of(run) == set()
        # On a busy machine the draws beside the killer's may have ended with it, or have begun so late that it is last.
        if len(suspects) > 4 and again._done.num_draws < len(suspects) - 1:
            break
    assert len(suspects) > 4
    assert again._done.num_draws < len(suspects) - 1
    last, _, _ = make_worker(tmp_path, corpus, script=script | {"crowd_s": 0.0}, run=name)
    assert call(last, 0) == [40]
    assert [row["item_id"] for row in read_published(run) if row["outcome"] == "quarantined"] == ["shard0-0003"]


def test_who_takes_longer_to_kill_alone_than_it_was_in_flight_does_not_explain_the_first_death():
    first = Suspicion("death", 2, 1.5)
    assert is_repetition(first, {0: 0.2, 1: 1.5})
    assert not is_repetition(first, {0: 0.2, 1: 1.6})


def test_crashes_accuse_convict_and_explain():
    crowd = Crash("1-1", {("a", "", ""): {0: 0.5, 2: 0.1}, ("b", "", ""): {1: 2.0}}, None)
    verdict = judge_crashes([crowd])
    assert verdict.accused == {("a", "", ""): Suspicion("1-1", 3, 0.5), ("b", "", ""): Suspicion("1-1", 2, 2.0)}
    assert (verdict.convicted, verdict.explained) == (set(), set())
    quick, slow = {("b", "", ""): {1: 1.9}}, {("b", "", ""): {1: 2.1}}
    assert judge_crashes([crowd, Crash("2-2", quick, Suspicion("1-1", 2, 2.0))]).explained == {"1-1"}
    verdict = judge_crashes([crowd, Crash("2-2", slow, Suspicion("1-1", 2, 2.0))])
    assert (verdict.convicted, verdict.explained) == ({("b", "", "")}, set())


def test_what_a_worker_knows_of_a_death_on_its_node_is_not_replaced_by_what_the_driver_saw_of_it():
    """The driver hears once a second: of a death it knows the seconds less well, and names it otherwise."""
    a, b = ("a", "", ""), ("b", "", "")
    known = judge_crashes([Crash("1-1", {a: {0: 0.5}}, None)])
    known.join(judge_crashes([Crash("1-driver", {a: {0: 0.0}, b: {0: 0.0}}, None)]))
    assert known.accused == {a: Suspicion("1-1", 1, 0.5), b: Suspicion("1-driver", 1, 0.0)}


def test_what_was_drawn_before_a_death_from_outside_is_not_drawn_again(tmp_path, corpus, mortal):  # noqa: F811
    """A unit of which most draws are made must not begin anew since somebody has killed the engine, or credit ended."""
    worker, _, run = make_worker(tmp_path, corpus, script={"latency_s": 0.1, "favour": 0.0})
    fail_later(worker, EngineDeadError("killed", from_outside=True), after_s=1.0)
    with pytest.raises(EngineDeadError):
        call(worker, 0)
    ledger = ShardLedger(run, 0, TRACE_PRODUCT)
    ledger.refresh()
    rows = ledger.latest().to_pylist()
    kept = {row["item_id"]: {draw["index"] for draw in row["draws"]} for row in rows if row["outcome"] == "undecided"}
    assert kept
    assert all(indices for indices in kept.values())
    assert find_suspects(ledger.latest()) == {}
    made = sum(len(row["draws"]) for row in rows)
    # All but what was in flight: eight slots, and one draw in the engine's own queue.
    assert worker._done.num_draws - 9 <= made <= worker._done.num_draws
