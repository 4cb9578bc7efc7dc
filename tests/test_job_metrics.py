"""The metrics of a run as Prometheus gets them: scraped from Ray's own endpoint while a job runs, and after it."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from jobs import infer_traces
from judgetrace.storage import Folder
from tests.test_job_infer_traces import NUM_UNITS, prepare, write_config

pytestmark = pytest.mark.slow

LINE = re.compile(r"^(ray_judgetrace_\w+)\{(.*)\} (\S+)$")
FLUSHED_S = 40.0
"""Processes hand their metrics to their node every 10 s."""


def scrape(run: str) -> dict[tuple[str, ...], float]:
    """Read a run's metrics of all nodes: (name, value of outcome, kind or state if any) -> value."""
    import ray

    found = {}
    for node in ray.nodes():
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


def scrape_until(run: str, wanted: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    deadline = time.monotonic() + FLUSHED_S
    while True:
        found = scrape(run)
        if wanted.items() <= found.items() or time.monotonic() > deadline:
            return found
        time.sleep(1.0)


def watch(run: str, stop: threading.Event, seen: list[dict]) -> None:
    while not stop.wait(1.0):
        seen.append(scrape(run))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(folder, str(folder / "corpus"))


def test_scraped_metrics_match_the_manifest_and_grow_while_the_job_runs(tmp_path, corpus):
    run = str(tmp_path / "run")
    script = {"latency_s": 0.8, "poison": ["item-00003"], "dies_after": 100, "dies_once": str(tmp_path / "died")}
    stop, seen = threading.Event(), []
    thread = threading.Thread(target=watch, args=(run, stop, seen))
    thread.start()
    try:
        assert infer_traces.main([write_config(tmp_path, corpus, run, **script)]) == 0
    finally:
        stop.set()
        thread.join()
    manifest = Folder(run).read_json("manifest.json")
    wanted = {
        **{("ray_judgetrace_units_total", outcome): n for outcome, n in manifest["outcomes"].items()},
        ("ray_judgetrace_quarantined_rows_total",): 1,
        ("ray_judgetrace_engine_restarts_total",): 1,
        ("ray_judgetrace_units_planned",): NUM_UNITS,
        ("ray_judgetrace_units_decided",): NUM_UNITS,
    }
    found = scrape_until(run, wanted)
    assert wanted.items() <= found.items()
    assert found[("ray_judgetrace_utilisation",)] == pytest.approx(manifest["data_utilisation"])
    # Draws that were under way when the engine died were sampled again, but those that had ended were not lost.
    tokens = manifest["tokens"]["output"]
    assert tokens <= found[("ray_judgetrace_tokens_total", "output")] <= 1.2 * tokens
    draws = sum(manifest["draws"].values())
    assert draws <= found[("ray_judgetrace_draws_total",)] <= 1.2 * draws
    accepted = manifest["outcomes"]["accepted"]
    assert found[("ray_judgetrace_tokens_per_accepted",)] == pytest.approx(
        found[("ray_judgetrace_tokens_total", "output")] / accepted
    )
    during = [s[("ray_judgetrace_draws_total",)] for s in seen if ("ray_judgetrace_draws_total",) in s]
    assert during
    assert during == sorted(during)
    assert during[0] < found[("ray_judgetrace_draws_total",)]
