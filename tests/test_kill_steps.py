"""A run on S3 whose process is killed at its commits, and at random moments: the next one ends it as if undisturbed.

The process is killed before the store is asked, after the store has done what it was asked, and so that the request
arrives when the run has long been ended by another.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from judgetrace.storage import Folder
from tests import lone_worker
from tests.fault_proxy import FaultProxy, Plan, Seen, never, proxied
from tests.oracle import accepted_set, check_run
from tests.trace_tables import read_published

NUM_SHARDS, NUM_UNITS = 2, 20
SCRIPT = {"latency_s": 0.04}
STEPS = {
    "claim": ("PUT", "drivers/driver"),
    "part": ("PUT", "ledger/"),
    "publish": ("PUT", "traces/"),
    "clear": ("DELETE", "ledger/"),
}
QUICK_KILLS, CHAOS_KILLS = 5, 100

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def proxy(s3: str) -> Iterator[FaultProxy]:
    with proxied(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def corpus(proxy, s3, tmp_path_factory) -> str:
    corpus = f"{s3}/{tmp_path_factory.mktemp('kills').name}/corpus"
    lone_worker.write_corpus(corpus, NUM_SHARDS, NUM_UNITS)
    return corpus


@pytest.fixture(scope="module")
def undisturbed(corpus) -> set:
    run = f"{corpus}-undisturbed"
    lone_worker.work(corpus, run, SCRIPT)
    rows = check_run(run, corpus, is_complete=False)
    assert len(rows) == NUM_SHARDS * NUM_UNITS
    return accepted_set(rows)


@pytest.fixture
def run(s3, tmp_path, proxy) -> Iterator[str]:
    proxy.plan = never
    proxy.forget()
    yield f"{s3}/{tmp_path.name}/run"
    proxy.plan = never


def is_write_of(run: str, seen: Seen) -> bool:
    """Whether a request changes the run. POST: a multipart upload."""
    return seen.is_write and run.removeprefix("s3://") in seen.path


def hold_write(run: str, number: int, fault: str, step: tuple[str, str] | None = None) -> Plan:
    """Let a fault befall the n-th write to a run, or the n-th of a step."""
    count = iter(range(1_000_000))

    def plan(seen: Seen) -> str:
        counts = is_write_of(run, seen) and (step is None or (seen.method == step[0] and step[1] in seen.path))
        return fault if counts and next(count) == number else ""

    return plan


def finish(proxy: FaultProxy, corpus: str, run: str, undisturbed: set) -> None:
    """Go on with the run, let what is still on its way arrive, and hold the outcome against the undisturbed run's."""
    proxy.plan = never
    lone_worker.work(corpus, run, SCRIPT)
    before = accepted_set(read_published(Folder(run)))
    proxy.release()
    time.sleep(0.1)
    lone_worker.work(corpus, run, SCRIPT)
    rows = check_run(run, corpus, is_complete=False)
    assert accepted_set(rows) == before == undisturbed
    assert Folder(f"{run}/ledger").list_files(recursive=True) == []
    assert Folder(f"{run}/traces").list_files() == [f"shard-{n:05d}.parquet" for n in range(NUM_SHARDS)]


def kill_at(proxy: FaultProxy, corpus: str, run: str, plan: Plan) -> str | None:
    """Kill a run when a write is held; returns that request's path, None where the run ended before."""
    proxy.plan = plan
    process = lone_worker.start(proxy.url, corpus, run, SCRIPT)
    deadline = time.monotonic() + 60
    while process.is_alive() and not proxy.held.wait(0.02):
        assert time.monotonic() < deadline, "neither ended nor got so far"
    held = proxy.held.is_set()
    process.kill()
    process.join()
    path = next((seen.path for seen in proxy.seen if seen.fault), None)
    return f"{path}" if held else None


@pytest.mark.served
@pytest.mark.parametrize("fault", ["done", "late"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_a_step_is_ended_by_the_next(proxy, corpus, undisturbed, run, step, fault):
    assert kill_at(proxy, corpus, run, hold_write(run, 0, fault, STEPS[step])) is not None
    finish(proxy, corpus, run, undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["hold", "done", "late"])
def test_a_run_killed_at_every_commit_is_ended_by_the_next(proxy, corpus, undisturbed, run, fault):
    steps: list[str] = []
    while True:
        one = f"{run}-{len(steps)}"
        proxy.forget()
        path = kill_at(proxy, corpus, one, hold_write(one, len(steps), fault))
        finish(proxy, corpus, one, undisturbed)
        if path is None:
            break
        steps.append(path)
    print(f"{fault}: killed at {len(steps)} writes")
    for kind in ("drivers/", "ledger/", "traces/"):
        assert any(kind in step for step in steps), f"no kill at {kind}"


def kill_at_random(proxy, corpus, undisturbed, run, times: int) -> None:
    chance = random.Random(5)
    num_killed = num_runs = 0
    while num_killed < times:
        one = f"{run}-{num_runs}"
        num_runs += 1
        while not Folder(f"{one}/traces").list_files() or Folder(f"{one}/ledger").list_files(recursive=True):
            process = lone_worker.start(proxy.url, corpus, one, SCRIPT)
            process.join(chance.uniform(0.0, 2.0))
            num_killed += process.is_alive()
            process.kill()
            process.join()
            if num_killed >= times:
                break
        finish(proxy, corpus, one, undisturbed)
    print(f"{num_killed} kills in {num_runs} runs")


@pytest.mark.served
def test_a_run_killed_now_and_then_loses_and_repeats_nothing(proxy, corpus, undisturbed, run):
    kill_at_random(proxy, corpus, undisturbed, run, QUICK_KILLS)


@pytest.mark.chaos
def test_a_run_killed_a_hundred_times_loses_and_repeats_nothing(proxy, corpus, undisturbed, run):
    kill_at_random(proxy, corpus, undisturbed, run, CHAOS_KILLS)
