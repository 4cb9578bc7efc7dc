"""The metrics of a run as Prometheus gets them: scraped from Ray's own endpoint while a job runs, and after it."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs import infer_traces
from judgetrace.storage import Folder
from tests.conftest import METRICS_EVERY_S
from tests.test_job_infer_traces import NUM_UNITS, write_config

pytestmark = pytest.mark.slow

LINE = re.compile(r"^(ray_judgetrace_\w+)\{(.*)\} (\S+)$")
DRAWS = ("ray_judgetrace_draws_total",)
FLUSHED_S = 3.0 * METRICS_EVERY_S


def scrape(run: str) -> dict[tuple[str, ...], float]:
    """Read a run's metrics of all nodes: (name, value of outcome, kind or state if any) -> value."""
    import ray

    found = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        for name, labels, value in (match.groups() for match in map(LINE.match, lines) if match):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if tags["run"] == run:
                assert tags["job"] == "infer_traces"
                own = [tags[label] for label in ("outcome", "kind", "state") if label in tags]
                found[(name, *own)] = float(value)
    return found


def watch(run: str, stop: threading.Event, seen: list[dict]) -> None:
    while not stop.wait(1.0):
        seen.append(scrape(run))


@contextmanager
def scraping(run: str) -> Iterator[list[dict]]:
    """Scrape once a second while the block runs, and a while longer."""
    stop, seen = threading.Event(), []
    thread = threading.Thread(target=watch, args=(run, stop, seen))
    thread.start()
    try:
        yield seen
        time.sleep(FLUSHED_S)
    finally:
        stop.set()
        thread.join()


def latest(seen: list[dict]) -> dict[tuple[str, ...], float]:
    """Take the last value of each metric: Ray forgets gauges that nobody sets any more."""
    return {key: value for scraped in seen for key, value in scraped.items()}


@pytest.fixture(scope="session")
def corpus(shared_corpus) -> str:
    return shared_corpus


def test_scraped_metrics_match_the_manifest_and_grow_while_the_job_runs(tmp_path, corpus):
    run = str(tmp_path / "run")
    with scraping(run) as seen:
        assert infer_traces.main([write_config(tmp_path, corpus, run, latency_s=0.4, poison=["item-00003"])]) == 0
    manifest, found = Folder(run).read_json("manifest.json"), latest(seen)
    tokens, accepted = manifest["tokens"], manifest["outcomes"]["accepted"]
    wanted = {
        **{("ray_judgetrace_units_total", outcome): n for outcome, n in manifest["outcomes"].items()},
        ("ray_judgetrace_draws_total",): sum(manifest["draws"].values()),
        ("ray_judgetrace_tokens_total", "prompt"): tokens["prompt"],
        ("ray_judgetrace_tokens_total", "output"): tokens["output"],
        ("ray_judgetrace_quarantined_rows",): 1,
        ("ray_judgetrace_units_planned",): NUM_UNITS,
        ("ray_judgetrace_units_decided",): NUM_UNITS,
        ("ray_judgetrace_utilisation",): manifest["data_utilisation"],
        ("ray_judgetrace_tokens_per_accepted",): tokens["output"] / accepted,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert ("ray_judgetrace_engine_restarts_total",) not in found
    during = [scraped[DRAWS] for scraped in seen if DRAWS in scraped]
    assert during == sorted(during)
    assert during[0] < during[-1]
    assert max(scraped.get(("ray_judgetrace_engines", "running"), 0) for scraped in seen) >= 1


@pytest.mark.chaos
def test_an_engine_that_died_and_was_replaced_is_counted(tmp_path, corpus):
    run = str(tmp_path / "run")
    script = {"latency_s": 0.3, "dies_after": 100, "dies_once": str(tmp_path / "died")}
    with scraping(run) as seen:
        assert infer_traces.main([write_config(tmp_path, corpus, run, **script)]) == 0
    manifest, found = Folder(run).read_json("manifest.json"), latest(seen)
    assert found[("ray_judgetrace_engine_restarts_total",)] == 1
    assert sum(n for key, n in found.items() if key[0] == "ray_judgetrace_units_total") == NUM_UNITS
    # Draws under way when it died are lost; those that had ended are told before the process ends.
    assert found[DRAWS] >= sum(manifest["draws"].values())
