"""What the control makes of workers that vanish, and what a worker then tells it. Without Ray."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from judgetrace.control import Orders, RunControl, WorkerReport
from judgetrace.flight_recorder import Crash
from judgetrace.scheduler import Suspicion
from tests.test_unit_worker import Link, call, corpus, make_worker  # noqa: F401
from tests.trace_tables import read_published

A, B = ("a", "", "aggregate"), ("b", "", "aggregate")


class Vanishing:
    """Workers in the place of one engine: each vanishes at some time, and the next one takes its shards up."""

    def __init__(self):
        self.now = 0.0
        self.control = RunControl(clock=lambda: self.now)
        self.num = 0

    def report(self, shards: tuple[int, ...] = (), flights: dict | None = None, **about: object) -> Orders:
        return self.control.report(
            WorkerReport(f"w{self.num}", "running", actor="e", shards=shards, flights=flights or {}, **about)
        )

    def vanish(self) -> None:
        self.num += 1


def test_a_shard_is_watched_once_two_workers_have_vanished_over_it():
    engine = Vanishing()
    for shards in ((1, 2), (2, 3)):
        assert engine.report(shards).watched == {}
        engine.vanish()
    assert engine.report((1, 2, 3)).watched == {2: []}
    # It is the same worker still.
    assert engine.report((1, 2, 3)).watched == {2: []}
    assert engine.report((1, 2, 3), known_watched=frozenset({2})).watched == {}


def test_another_engine_that_takes_the_shard_up_watches_it_too():
    engine = Vanishing()
    for _ in range(2):
        engine.report((1,))
        engine.vanish()
    engine.report()
    other = WorkerReport("other", "running", actor="f", shards=(1,))
    assert engine.control.report(other).watched == {1: []}


def test_a_worker_that_says_why_it_ends_counts_for_nothing():
    engine = Vanishing()
    for _ in range(3):
        engine.report((1,), says_why=True)
        engine.vanish()
    assert engine.report((1,)).watched == {}


def test_what_was_in_flight_over_a_watched_shard_is_told_to_its_successors():
    engine = Vanishing()
    for _ in range(2):
        engine.report((1,))
        engine.vanish()
    engine.report((1,), {(A, 0): None})
    engine.now = 3.0
    engine.report((1,), {(A, 0): None, (A, 2): None, (B, 1): None})
    engine.now = 3.5
    engine.report((1,), {(A, 0): None, (B, 1): None})
    engine.vanish()
    engine.now = 100.0
    crash = Crash("w2", {A: {0: 3.5}, B: {1: 0.5}}, None)
    assert engine.report((1, 4)).watched == {1: [crash]}


def test_only_who_was_alone_at_two_deaths_is_convicted():
    """One of them may have been a machine's own."""
    engine, alone = Vanishing(), Suspicion("w2", 1, 2.0)
    for _ in range(2):
        engine.report((1,))
        engine.vanish()
    for unit in (A, B):
        engine.report((1,), {(unit, 0): alone})
        engine.vanish()
    assert engine.report((1,)).watched == {1: []}
    engine.report((1,), {(B, 0): alone})
    engine.now += 0.5
    engine.report((1,), {(B, 0): alone})
    engine.vanish()
    assert engine.report((1,)).watched == {1: [Crash("w4", {B: {0: 0.5}}, alone)]}


class WatchingLink(Link):
    """Says of shard 0 that it is watched, and keeps what draws it heard of, with why their unit was alone."""

    def __init__(self, crashes: list[Crash]):
        super().__init__()
        self.crashes, self.heard, self.flights = crashes, {}, []
        self.is_slow = False

    async def report(self, report: WorkerReport) -> Orders:
        flights = {(key[0], index): suspicion for (key, index), suspicion in report.flights.items()}
        self.heard |= flights
        self.flights.append(flights)
        await asyncio.sleep(0.01)
        while self.is_slow and flights:
            await asyncio.sleep(0.01)
        return Orders(watched={shard: self.crashes for shard in report.shards if shard == 0})


def watching_worker(tmp_path, corpus, crashes: list[Crash], journal):  # noqa: F811
    worker, _, run = make_worker(tmp_path, corpus, script={"latency_s": 0.01, "journal": str(journal)})
    link = worker._link = WatchingLink(crashes)
    return worker, link, run


def test_the_driver_hears_of_every_draw_of_a_watched_shard_and_of_no_other(tmp_path, corpus):  # noqa: F811
    worker, link, run = watching_worker(tmp_path, corpus, [], tmp_path / "journal")
    assert call(worker, 0, 1) == [40, 40]
    drawn = {tuple(line.split("\t")[2:]) for line in (tmp_path / "journal").read_text().splitlines()}
    # Beside them are draws that were not needed any more, and ended before the engine was asked.
    assert link.heard.keys() >= {(item, int(index)) for item, index in drawn if item.startswith("shard0")}
    assert {item[:6] for item, _ in link.heard} == {"shard0"}
    assert len(read_published(run)) == 80
    assert worker._watched_units == set()


def test_who_is_accused_by_what_the_driver_heard_is_drawn_alone_and_who_is_convicted_never(tmp_path, corpus):  # noqa: F811
    accused, convicted = ("shard0-0002", "", "aggregate"), ("shard0-0005", "", "aggregate")
    crashes = [Crash("w2", {accused: {0: 1.0}}, None), Crash("w4", {convicted: {0: 9.0}}, Suspicion("w2", 1, 1.0))]
    worker, link, run = watching_worker(tmp_path, corpus, crashes, tmp_path / "journal")
    assert call(worker, 0) == [40]
    rows = read_published(run)
    assert [row["item_id"] for row in rows if row["outcome"] == "quarantined"] == ["shard0-0005"]
    assert {item for item, _ in link.heard} == {row["item_id"] for row in rows} - {"shard0-0005"}
    # Of a unit in flight the report says that it is alone, and why.
    alone = {draw: suspicion for draw, suspicion in link.heard.items() if suspicion is not None}
    assert alone == {("shard0-0002", 0): Suspicion("w2", 1, 1.0)}
    # And as soon as it is not: what ends the process after it must not be laid to it.
    (place,) = [n for n, flights in enumerate(link.flights) if ("shard0-0002", 0) in flights][-1:]
    assert link.flights[place + 1] == {}


def test_a_draw_that_waits_for_the_driver_is_no_silence_of_the_engine(tmp_path, corpus, monkeypatch):  # noqa: F811
    looks = []

    async def keep(engine, limit_s, look, fail) -> None:
        looks.append(look)

    monkeypatch.setattr("judgetrace.unit_worker.give_up_when_silent", keep)
    worker, link, _ = watching_worker(tmp_path, corpus, [], tmp_path / "journal")
    link.is_slow = True
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(call, worker, 0)
        while len(link.flights[-1:] and link.flights[-1]) < 8:
            time.sleep(0.01)
        assert worker._scheduler.in_flight >= 8
        assert looks[0]() == (0, 0)
        link.is_slow = False
        assert pending.result(timeout=60) == [40]
    assert looks[0]()[0] == 0


def test_one_report_tells_of_all_watched_draws_that_begin_or_end_meanwhile(tmp_path, corpus):  # noqa: F811
    """A report takes a part of a second of the driver's process; an engine may begin thousands of draws in one."""
    worker, link, _ = watching_worker(tmp_path, corpus, [], tmp_path / "journal")
    assert call(worker, 0) == [40]
    told = [flights for flights in link.flights if flights]
    num_draws = len({draw for flights in told for draw in flights})
    # Each draw begins and ends; without company that would be two reports each.
    assert len(link.flights) < num_draws
    assert max(len(flights) for flights in told) > 1
