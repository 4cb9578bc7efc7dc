"""The metrics: what they stand at, and that the dashboard asks for these and no others."""

import json
import re
from collections import Counter
from pathlib import Path

from judgetrace.control import RunSnapshot, WorkCounts
from judgetrace.metrics import ENGINE_STATES, METRICS, RunView, count_earlier, read_counters, read_gauges

DASHBOARD = Path(__file__).parents[1] / "cluster/grafana/judgetrace.json"
SEEN = RunSnapshot(
    states=Counter(running=2),
    done=WorkCounts(
        Counter(accepted=30, exhausted=9, quarantined=1), num_draws=200, prompt_tokens=4000, output_tokens=6000
    ),
    draws_in_flight=64,
    num_restarts=3,
)


def read_panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def read_queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    return variables + [target["expr"] for panel in read_panels() for target in panel["targets"]]


def test_the_dashboard_asks_for_every_metric_and_for_no_other():
    asked = {name for query in read_queries() for name in re.findall(r"\bray_\w+", query)}
    assert asked == {spec.exported_name for spec in METRICS}


def test_the_dashboard_groups_by_labels_that_its_metrics_have():
    labels = {spec.exported_name: {"run", *spec.labels} for spec in METRICS}
    for query in read_queries():
        for grouped, inner in re.findall(r"by \(([\w, ]+)\) \((.*?\}.*?)\)", query):
            for name in re.findall(r"ray_\w+", inner):
                assert set(grouped.split(", ")) <= labels[name], query
        for name, chosen in re.findall(r"(ray_\w+)\{(.*?)\}", query):
            assert set(re.findall(r"(\w+)=", chosen)) <= labels[name], query


def test_a_panel_of_a_count_of_this_call_says_so_and_one_of_a_rate_need_not():
    of_calls = {
        panel["title"]
        for panel in read_panels()
        for target in panel["targets"]
        if re.search(r"_total\b", re.sub(r"rate\(.*?\)", "", target["expr"]))
    }
    assert of_calls == {"Engine restarts, this call"}


def test_what_a_job_is_after_is_named_for_every_job_that_has_the_metric():
    outcomes = re.compile(r"accepted.*\brated\b.*\brecovered\b", re.DOTALL)
    for spec in METRICS:
        if spec.name in ("judgetrace_utilisation", "judgetrace_tokens_per_accepted"):
            assert outcomes.search(spec.description)
            panels = [panel for panel in read_panels() if f"{spec.exported_name}{{" in panel["targets"][0]["expr"]]
            assert any(outcomes.search(panel["description"]) for panel in panels)


def test_gauges_tell_of_the_whole_run_and_counters_of_this_call():
    view = RunView(100, WorkCounts(Counter(accepted=10, exhausted=8, quarantined=2), output_tokens=2000))
    assert dict(read_gauges(view.figures(SEEN), SEEN)) == {
        ("judgetrace_units_planned", ()): 100,
        ("judgetrace_units_decided", ()): 60,
        ("judgetrace_quarantined_rows", ()): 3,
        ("judgetrace_utilisation", ()): 40 / 60,
        ("judgetrace_tokens_per_accepted", ()): 200.0,
        ("judgetrace_draws_in_flight", ()): 64,
        ("judgetrace_engines", ("starting",)): 0,
        ("judgetrace_engines", ("running",)): 2,
        ("judgetrace_engines", ("draining",)): 0,
    }
    assert read_counters(SEEN) == {
        ("judgetrace_units", ("accepted",)): 30,
        ("judgetrace_units", ("exhausted",)): 9,
        ("judgetrace_units", ("quarantined",)): 1,
        ("judgetrace_draws", ()): 200,
        ("judgetrace_tokens", ("prompt",)): 4000,
        ("judgetrace_tokens", ("output",)): 6000,
        ("judgetrace_engine_restarts", ()): 3,
    }


def test_units_over_their_quota_were_never_asked_and_do_not_lower_the_utilisation():
    seen = RunSnapshot(done=WorkCounts(Counter(accepted=30, exhausted=20, over_quota=950)))
    assert RunView(1000, WorkCounts()).figures(seen).utilisation == 0.6
    nothing_asked = RunSnapshot(done=WorkCounts(Counter(over_quota=5)))
    assert RunView(1000, WorkCounts()).figures(nothing_asked).utilisation is None


def test_failed_units_are_asked_again_and_so_are_no_progress_and_do_not_lower_the_utilisation():
    seen = RunSnapshot(done=WorkCounts(Counter(accepted=60, exhausted=30, failed=10)))
    figures = RunView(100, WorkCounts()).figures(seen)
    assert (figures.decided, figures.utilisation) == (90, 60 / 90)
    assert figures.others == {"exhausted": 30, "failed": 10}
    nothing_decided = RunSnapshot(done=WorkCounts(Counter(failed=5)))
    assert RunView(100, WorkCounts()).figures(nothing_decided).utilisation is None


def test_what_can_not_be_divided_yet_is_not_exported():
    nothing = RunSnapshot()
    names = {key[0] for key, _ in read_gauges(RunView(5, WorkCounts()).figures(nothing), nothing)}
    assert {"judgetrace_utilisation", "judgetrace_tokens_per_accepted"}.isdisjoint(names)


def test_every_metric_that_is_defined_is_read_from_a_snapshot_with_its_labels():
    view = RunView(100, WorkCounts())
    keys = {*read_counters(SEEN), *(key for key, _ in read_gauges(view.figures(SEEN), SEEN))}
    assert {(name, len(values)) for name, values in keys} == {(spec.name, len(spec.labels)) for spec in METRICS}


def test_engine_states_are_those_that_workers_report():
    from judgetrace.control import ALIVE_S

    assert set(ENGINE_STATES) == set(ALIVE_S)


def test_failed_units_of_an_earlier_call_are_tried_again_and_so_do_not_count():
    summary = {
        "outcomes": {"accepted": 3, "failed": 2},
        "draws": {"accepted": 3, "failed": 6, "disagrees": 4},
        "tokens": {"prompt": 130, "output": 70, "overshoot": 5},
    }
    assert count_earlier(summary) == WorkCounts(Counter(accepted=3), num_draws=13, prompt_tokens=130, output_tokens=70)
