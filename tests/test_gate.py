"""Acceptance by target label held against a floor."""

import io
from collections import Counter
from collections.abc import Callable

import pytest
from rich.console import Console

from judgetrace.accounting import name_level
from judgetrace.config import STOPPED_EARLY_STATUS
from judgetrace.control import RunSnapshot
from judgetrace.gate import (
    GateConfig,
    LevelShare,
    describe_breach,
    find_breaches,
    find_stop,
    share_levels,
    summarise_gate,
)
from judgetrace.ledger import ShardLedger
from judgetrace.products import TRACE_PRODUCT
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import RunInputs
from judgetrace.run_report import describe_state, summarise_run
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig
from judgetrace.unit_job import UnitJob, end_call
from judgetrace.unit_run import RunEnd
from tests.test_dry_run import write_corpus
from tests.trace_tables import make_decision, make_draw, table_of


def units(**counts: int) -> Counter[str]:
    """Counts of one dimension; names as accepted_5."""
    pairs = ((*name.rpartition("_")[::2], n) for name, n in counts.items())
    return Counter({name_level(name_level("", label), outcome): n for outcome, label, n in pairs})


def test_a_share_is_of_units_that_were_accepted_or_had_all_their_draws():
    seen = units(accepted_5=1, exhausted_5=3, over_quota_5=90, failed_5=7, quarantined_5=2, accepted_1=4)
    assert share_levels(seen) == [LevelShare("", "1", 4, 4), LevelShare("", "5", 1, 4)]
    assert share_levels(seen)[1].share == 0.25


@pytest.mark.parametrize(
    ("floor", "min_units", "below"),
    [(0.25, 4, []), (0.26, 4, ["5"]), (0.26, 5, []), (None, 1, [])],
)
def test_a_level_is_below_the_gate_once_enough_of_its_units_are_decided(floor, min_units, below):
    config = GateConfig(min_level_acceptance=floor, min_units=min_units)
    found = find_breaches(units(accepted_5=1, exhausted_5=3, accepted_1=9), config)
    assert [level.label for level in found] == below


def test_a_breach_names_the_level_its_counts_and_what_helps():
    config = GateConfig(min_level_acceptance=0.5, min_units=4)
    told = describe_breach(find_breaches(units(accepted_5=1, exhausted_5=3), config), config)
    assert "label 5: 1 of 4 decided units accepted (25.0%)" in told
    assert "once this run is complete, a further proposal `after` it" in told


def test_what_a_gate_that_stops_advises_can_be_followed():
    """`after` takes complete runs alone, which a stopped one is only once the gate lets it be."""
    below, config = units(accepted_5=1, exhausted_5=3), GateConfig(min_level_acceptance=0.5, min_units=4)
    told = find_stop(below, config.model_copy(update={"on_breach": "stop"}))
    assert told is not None
    accept = told.index("set gate.on_breach = 'warn', or lower the gate")
    assert accept < told.index("then the run goes on to its end, and a further proposal `after` it")
    assert find_stop(below, config) is None
    assert find_stop(below, GateConfig(min_level_acceptance=0.25, min_units=4, on_breach="stop")) is None


def test_the_summary_tells_breaches_apart_from_levels_with_too_few_units():
    summary = summarise_gate(units(exhausted_5=4, exhausted_1=3), GateConfig(min_level_acceptance=0.5, min_units=4))
    assert summary is not None
    assert [level["label"] for level in summary["breaches"]] == ["5"]
    assert [level["label"] for level in summary["too_few_units"]] == ["1"]
    assert summarise_gate(units(exhausted_5=4), GateConfig()) is None


def publish_exhausted(corpus: Folder, run: Folder) -> None:
    """Leave what a run over write_corpus leaves that is decided to its end: nothing was accepted."""
    for shard in (1, 2):
        items = corpus.read_table(f"items/shard-{shard:05d}.parquet")
        rows = (make_decision(items, row, "exhausted", [make_draw(0, "unparsed")]) for row in range(items.num_rows))
        ShardLedger(run, shard, TRACE_PRODUCT).publish(items, table_of(*rows))


EndCall = Callable[..., tuple[int, str]]


@pytest.fixture
def end(tmp_path) -> EndCall:
    """End a call of a run that is decided to its end; returns exit status and what was printed."""
    corpus, run = write_corpus(tmp_path), RunFolder(Folder(str(tmp_path / "run")))
    publish_exhausted(Folder(corpus), run.folder)

    def end(gate: str, how: RunEnd | None = None, **more: object) -> tuple[int, str]:
        given = {"min_level_acceptance": 0.1, "min_units": 1, "on_breach": gate}
        sections = {"corpus": corpus, "run": run.folder.url, "model": {"path": "org/name"}, "gate": given}
        config = InferTracesConfig.model_validate(sections | more)
        job = UnitJob("infer_traces", config, RunInputs(corpus, None, None), config.decider(), "f", "accepted")
        out, driver = io.StringIO(), run.claim(0.0, job.describe(5))
        if how is not None:
            run.write_state(driver, {"state": how.reason, "at": 0.0, "engine_s": 7.0})
        summary = summarise_run(run, job.inputs.corpus, TRACE_PRODUCT, 5)
        return end_call(Console(file=out, width=200), job, run, driver, summary=summary, end=how), out.getvalue()

    return end


@pytest.mark.parametrize("how", [None, RunEnd("complete", True, RunSnapshot(), 1.0)])
@pytest.mark.parametrize("limit", [{}, {"limit": 5}])
def test_a_run_below_its_gate_is_not_complete_though_all_is_decided(tmp_path, end: EndCall, how, limit):
    """It was held only while workers ran: a call with nothing left, or whose last units fell short, passed it."""
    status, told = end("stop", how, **limit)

    assert (int(status), (tmp_path / "run/manifest.json").exists()) == (STOPPED_EARLY_STATUS, False)
    assert "Ended early: gate.min_level_acceptance 0.1: label 1: 0 of 1 decided units accepted" in told
    assert "set gate.on_breach = 'warn', or lower the gate" in told
    assert "Run the same command again" not in told
    run = RunFolder(Folder(str(tmp_path / "run")))
    assert describe_state(run, 1.0)[0].startswith("stopped: gate.min_level_acceptance 0.1")
    # What the call's work left to be known of it stays.
    assert run.read_states()[0].get("engine_s") == (None if how is None else 7.0)


def test_a_gate_that_stops_a_run_at_its_end_gives_the_status_of_planned_ends(end: EndCall):
    assert end("stop", limits={"early_status": 0})[0].of_process == 0


def test_a_run_that_a_gate_stopped_is_complete_once_the_gate_only_warns(tmp_path, end: EndCall):
    assert end("stop")[0] == STOPPED_EARLY_STATUS
    assert end("warn")[0] == 0

    manifest = Folder(str(tmp_path / "run")).read_json("manifest.json")
    assert (manifest["units"], manifest["config"]["gate"]["on_breach"]) == (5, "warn")


def test_a_run_that_was_complete_before_its_gate_was_set_stays_so_and_its_call_says_it(tmp_path, end: EndCall):
    assert end("warn")[0] == 0
    before = (tmp_path / "run/manifest.json").read_bytes()

    assert end("stop")[0] == STOPPED_EARLY_STATUS
    assert (tmp_path / "run/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("gate", "reason", "shown"),
    [
        ("stop", "limits.max_seconds reached (1 s)", "same command stops again"),
        ("warn", "limits.max_seconds reached (1 s)", "Run the same command again to go on."),
    ],
)
def test_a_call_that_ended_early_says_what_the_next_one_would_meet(end: EndCall, gate, reason, shown):
    status, told = end(gate, RunEnd(reason, False, RunSnapshot(), 1.0, is_planned=True))

    assert status == STOPPED_EARLY_STATUS
    assert f"Ended early: {reason}\n" in told
    assert shown in told


def test_a_call_that_the_gate_ended_says_so_once(end: EndCall):
    reason = find_stop(units(exhausted_1=1), GateConfig(min_level_acceptance=0.1, min_units=1, on_breach="stop"))
    told = end("stop", RunEnd(str(reason), False, RunSnapshot(), 1.0, is_planned=True))[1]

    assert told.count("gate.min_level_acceptance") == 1
    assert "Run the same command again" not in told
