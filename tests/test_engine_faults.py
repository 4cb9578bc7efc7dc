"""Engines that are killed, fall silent, choke on a row or lose their machine, in infer_traces on several Ray nodes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import infer_traces
from judgetrace.config import UserError
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder
from judgetrace.suspects import KILLED_TWICE
from tests.oracle import accepted_set, check_run
from tests.test_cluster_commands import PORTS, end_processes, free_ports
from tests.test_job_faults import read_journal, started_job, wait_until
from tests.test_job_infer_traces import prepare, read_rows, write_config
from tests.test_reaper import is_alive
from tests.test_spot_notice import MetadataServer

NUM_UNITS = 400
TWO_ENGINES = "--engine.min_replicas=2", "--engine.max_replicas=2"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(folder, str(folder / "corpus"), num=NUM_UNITS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus) -> set:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert infer_traces.main([write_config(folder, corpus, str(folder / "run"))]) == 0
    return accepted_set(read_rows(str(folder / "run")))


def deaths_of(journal: Path) -> dict[str, set[str]]:
    """Which engines (process ids) each item killed; one may end several of its draws in its last moment."""
    deaths: dict[str, set[str]] = {}
    for pid, _, note, *_ in read_journal(journal):
        if note.startswith("killed by "):
            deaths.setdefault(note.removeprefix("killed by "), set()).add(pid)
    return deaths


def crowded_engines(journal: Path, kills: list[str]) -> set[str]:
    """Which engines had several of the items in flight when they died: a draw of theirs ends with the engine."""
    flown: dict[str, set[str]] = {}
    for pid, _, item, *_ in read_journal(journal):
        flown.setdefault(pid, set()).update({item} & set(kills))
    return {pid for pid, items in flown.items() if len(items) > 1}


def run_with_killers(tmp_path: Path, corpus: str, undisturbed: set, how: str, kills: list[str]) -> int:
    """Run with rows that kill the engine, its whole process, or hold up its loop; returns how many engines died."""
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    config = write_config(tmp_path, corpus, run, latency_s=0.05, journal=str(journal), **{how: kills})
    assert infer_traces.main([config, "--engine.num_cpus=0.4", "--engine.silent_s=5", *TWO_ENGINES]) == 0
    rows = check_run(run, corpus, undisturbed, quarantined=kills)
    assert all(row["error"].startswith(KILLED_TWICE) for row in rows if row["outcome"] == "quarantined")
    deaths = deaths_of(journal)
    assert set(deaths) <= set(kills)
    crowded = crowded_engines(journal, kills)
    for item, pids in deaths.items():
        # Which of two in flight killed the engine is told by times alone: the other may have to kill once more.
        assert len(pids) <= (3 if pids & crowded else 2), (item, pids)
    return sum(map(len, deaths.values()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["crashes", *(pytest.param(how, marks=pytest.mark.chaos) for how in ("kills", "hangs"))]
)
def test_rows_that_kill_engines_are_quarantined_after_two_deaths_and_all_others_finish(
    tmp_path, corpus, undisturbed, how
):
    assert run_with_killers(tmp_path, corpus, undisturbed, how, ["item-00003", "item-00333"]) <= 4


@pytest.mark.slow
def test_more_deaths_than_max_deaths_end_the_run_and_the_same_command_goes_on(tmp_path, corpus, undisturbed):
    """The second death over a shard ends it; what the row has done by then is known to the next call."""
    run, journal, kills = str(tmp_path / "run"), tmp_path / "journal", ["item-00003"]
    config = write_config(tmp_path, corpus, run, latency_s=0.05, journal=str(journal), kills=kills)
    with pytest.raises(
        UserError, match=r"engines died more often than engine\.max_deaths = 1 over one shard"
    ) as raised:
        infer_traces.main([config, "--engine.max_deaths=1"])
    assert raised.value.exit_status == 3
    assert [len(pids) for pids in deaths_of(journal).values()] == [2]
    assert infer_traces.main([config]) == 0
    assert [len(pids) for pids in deaths_of(journal).values()] == [2]
    check_run(run, corpus, undisturbed, quarantined=kills)


@pytest.mark.chaos
def test_a_row_that_leaves_nothing_of_its_process_is_quarantined_after_five_deaths(tmp_path, corpus, undisturbed):
    """So it is where a container ends whole: to the driver its machine is lost."""
    run, journal, kills = str(tmp_path / "run"), tmp_path / "journal", ["item-00033"]
    config = write_config(tmp_path, corpus, run, latency_s=0.2, journal=str(journal), vanishes=kills)
    assert infer_traces.main([config, "--engine.num_cpus=0.4", *TWO_ENGINES]) == 0
    (row,) = [row for row in check_run(run, corpus, undisturbed, quarantined=kills) if row["outcome"] == "quarantined"]
    assert row["error"].startswith(KILLED_TWICE)
    assert {item: len(pids) for item, pids in deaths_of(journal).items()} == {"item-00033": 5}


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["kills", "crashes"])
def test_any_ten_rows_that_kill_engines_are_found(tmp_path, corpus, undisturbed, how, seed):
    numbers = random.Random(seed).sample(range(NUM_UNITS), 10)
    # Some side by side, so that several are in flight at once.
    kills = sorted({f"item-{n:05d}" for n in numbers} | {f"item-{(numbers[0] + n) % NUM_UNITS:05d}" for n in range(3)})
    deaths = run_with_killers(tmp_path, corpus, undisturbed, how, kills)
    print(f"{len(kills)} rows, {deaths} deaths")
    assert deaths >= len(kills)


@pytest.mark.chaos
def test_an_engine_that_cannot_start_beside_one_that_draws_tries_again(tmp_path, corpus, undisturbed, capfd):
    run, journal, failed = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "failed"
    script = {"latency_s": 0.5, "journal": str(journal), "fails_beside": str(failed)}
    config = write_config(tmp_path, corpus, run, **script)
    assert infer_traces.main([config, "--engine.num_cpus=0.4", *TWO_ENGINES]) == 0
    assert failed.exists()
    assert "warning: an engine could not start, and tries again: ValueError: scripted fault" in capfd.readouterr().err
    assert len({line[0] for line in read_journal(journal)}) == 2
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_an_engine_that_hangs_in_its_start_is_replaced(tmp_path, corpus, undisturbed):
    run, hung = str(tmp_path / "run"), tmp_path / "hung"
    config = write_config(tmp_path, corpus, run, hangs_once=str(hung))
    began = time.monotonic()
    assert infer_traces.main([config, "--engine.start_s=5"]) == 0
    assert time.monotonic() - began < 90
    assert hung.exists()
    (state,) = RunFolder(Folder(run)).read_states().values()
    assert state["engine_restarts"] == 1
    check_run(run, corpus, undisturbed)


@pytest.mark.slow
def test_a_silent_engine_is_replaced(tmp_path, corpus, undisturbed):
    """Within five seconds here, thirty by default; its units go on in the next one."""
    run, journal = str(tmp_path / "run"), tmp_path / "journal"
    script = {"latency_s": 0.1, "journal": str(journal), "silent_after": 300, "silent_once": str(tmp_path / "once")}
    config = write_config(tmp_path, corpus, run, **script)
    began = time.monotonic()
    assert infer_traces.main([config, "--engine.silent_s=5"]) == 0
    assert time.monotonic() - began < 90
    assert (tmp_path / "once").exists()
    assert len({line[0] for line in read_journal(journal)}) == 2
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_a_worker_process_that_is_stopped_is_replaced(tmp_path, corpus, undisturbed, ray_session):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=0.2, journal=str(journal))
    with started_job(config, ray_session, log, "--engine.silent_s=5") as job:
        wait_until("some draws", lambda: len(read_journal(journal)) > 200)
        worker = int(read_journal(journal)[-1][0])
        os.kill(worker, signal.SIGSTOP)
        wait_until("the stopped worker's end", lambda: not is_alive(worker), 10)
        assert job.wait(timeout=120) == 0, log.read_text()
    check_run(run, corpus, undisturbed)


@pytest.mark.chaos
def test_a_worker_process_killed_twenty_times_at_random_loses_and_repeats_nothing(
    tmp_path, corpus, undisturbed, ray_session
):
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=1.5, journal=str(journal))
    choice = random.Random(1)
    with started_job(config, ray_session, log, *TWO_ENGINES, "--engine.num_cpus=0.4") as job:
        killed: set[int] = set()
        while len(killed) < 20:
            living = wait_for_workers(journal, killed, job)
            time.sleep(choice.uniform(0.2, 1.5))
            victim = choice.choice(living)
            if is_alive(victim):
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        assert job.wait(timeout=240) == 0, log.read_text()
    check_run(run, corpus, undisturbed)
    print(f"workers killed: {len(killed)}, workers in all: {len({line[0] for line in read_journal(journal)})}")


def wait_for_workers(journal: Path, killed: set[int], job: subprocess.Popen) -> list[int]:
    """Wait for a worker that draws; returns all that do."""

    def find() -> list[int]:
        assert job.poll() is None, f"the job ended after {len(killed)} kills"
        found = {int(line[0]) for line in read_journal(journal)} - killed
        return sorted(pid for pid in found if is_alive(pid))

    wait_until("a living worker", find, 60)
    return find()


@contextmanager
def joined_node(address: str, cloud: MetadataServer, **resources: float) -> Iterator[subprocess.Popen]:
    """A Ray node as machines and pods start one: `ray start --block`, on a machine of its own cloud."""
    options = {"address": address, "num-cpus": 1, "object-store-memory": 128 * 2**20, "disable-usage-stats": None}
    options |= {name.replace("_", "-"): port for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    line = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    line.append("--resources=" + str(resources).replace("'", '"'))
    environment = os.environ | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{cloud.port}"}
    node = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *line], env=environment)
    try:
        yield node
    finally:
        end_processes([node])


def nodes_with(resource: str) -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(resource)}


def check_notice(
    tmp_path: Path,
    corpus: str,
    undisturbed: set,
    address: str,
    give_notice: Callable[[MetadataServer, subprocess.Popen], None],
    latency_s: float,
) -> dict[str, float]:
    """Take one of two engines' nodes away with notice, of its cloud or its own, in mid-run; returns what it took."""
    run, journal, log = str(tmp_path / "run"), tmp_path / "journal", tmp_path / "log"
    config = write_config(tmp_path, corpus, run, latency_s=latency_s, journal=str(journal))
    engines = [*TWO_ENGINES, "--engine.num_cpus=0.4", '--engine.resources={"spot": 1}', "--ledger.drain_s=20"]
    with MetadataServer(None) as cloud, joined_node(address, cloud, spot=1) as first:
        wait_until("the first node", lambda: len(nodes_with("spot")) == 1)
        doomed = next(iter(nodes_with("spot")))
        with MetadataServer(None) as other, joined_node(address, other, spot=1):
            wait_until("the second node", lambda: len(nodes_with("spot")) == 2)
            with started_job(config, address, log, *engines, "--engine.spot_notice=aws") as job:
                wait_until("both engines", lambda: len({line[1] for line in read_journal(journal)}) == 2, 90)
                time.sleep(2.0)
                worker = next(int(line[0]) for line in read_journal(journal) if line[1] == doomed)
                told_at = time.monotonic()
                give_notice(cloud, first)
                wait_until("the worker to end by itself", lambda: not is_alive(worker), 30)
                left_s = time.monotonic() - told_at
                # What a spot machine does at the end of its warning.
                end_processes([first])
                assert job.poll() is None, "the job was over before the notice could matter"
                assert job.wait(timeout=240) == 0, log.read_text()
    check_run(run, corpus, undisturbed)
    lines = read_journal(journal)
    drawn = Counter(tuple(line[2:]) for line in lines)
    # Every draw that ended was kept, decided unit or not; none was cancelled, since all ended within their time.
    assert [draw for draw, count in drawn.items() if count > 1] == []
    return {"left_s": left_s, "draws": len(lines), "draws_of_doomed": sum(line[1] == doomed for line in lines)}


@pytest.mark.slow
def test_a_node_whose_cloud_gives_notice_gives_its_shards_back_and_no_draw_is_made_twice(
    tmp_path, corpus, undisturbed, ray_session
):
    def give_notice(cloud: MetadataServer, _: subprocess.Popen) -> None:
        ends_at = datetime.now(UTC) + timedelta(seconds=30)
        cloud.notice = json.dumps({"action": "terminate", "time": ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")})

    took = check_notice(tmp_path, corpus, undisturbed, ray_session, give_notice, latency_s=0.3)
    assert took["left_s"] < 30


@pytest.mark.chaos
@pytest.mark.parametrize("latency_s", [0.3, 1.0])
def test_a_node_that_is_sent_sigterm_gives_its_shards_back_and_no_draw_is_made_twice(
    tmp_path, corpus, undisturbed, ray_session, latency_s
):
    print(
        check_notice(
            tmp_path,
            corpus,
            undisturbed,
            ray_session,
            lambda _, node: node.send_signal(signal.SIGTERM),
            latency_s=latency_s,
        )
    )
