"""Several runs of infer_traces as one: a unit has a trace where any of them has one."""

from pathlib import Path

from judgetrace.reporting.blocks import Table
from judgetrace.reporting.cost_section import Spent
from judgetrace.reporting.report import list_trace_facts
from judgetrace.reporting.run_reading import read_together, read_trace_run
from judgetrace.reporting.traces_section import TraceRun, make_acceptance, make_utilisation
from judgetrace.reporting.uniting import tally_together, unite_units
from judgetrace.schema import TRACES
from judgetrace.storage import Folder
from tests.report_runs import make_row, make_table, write_trace_run

HIT, MISSED = ["3"], ["1", "2"]


def write_runs(folder: Path, hinted: tuple[str, ...] = ()) -> list[str]:
    """Write three proposals, each over what those before it left: 4 units, of which 2, then 1, then 1 get a trace."""
    proposals = {
        "first": {"a": HIT, "b": HIT, "c": MISSED, "d": MISSED},
        "strict": {"c": HIT, "d": MISSED},
        "told": {"d": HIT},
    }
    urls = []
    for name, units in proposals.items():
        rows = [make_row(item, {"text": item}, "3", ratings) for item, ratings in units.items()]
        # As `after` leaves them: a unit keeps its shard, and a run has no file where it asked about nothing.
        shards = [make_table([row for row in rows if row["item_id"] in own]) for own in ("ab", "cd")]
        run = Folder(str(folder / name))
        write_trace_run(run, shards)
        if name in hinted:
            driver = run.read_json("drivers/driver-00000.json")
            driver["config"]["hint"] = {"enabled": True}
            run.write_json("drivers/driver-00000.json", driver)
            run.write_json("manifest.json", {**run.read_json("manifest.json"), "config": driver["config"]})
        urls.append(run.url)
    return urls


def read(urls: list[str]) -> tuple[list[TraceRun], list[TraceRun], list[Spent]]:
    found = [read_trace_run(url.rsplit("/", 1)[1], url, None, 0.0) for url in urls]
    runs = [run for run, _ in found]
    return runs, read_together(list(zip(runs, urls, strict=True))), [spent for _, spent in found]


def test_a_unit_counts_once_and_is_accepted_where_any_run_has_a_trace_of_it(tmp_path: Path) -> None:
    urls = write_runs(tmp_path)
    assert tally_together(urls[:1]).outcomes() == {"accepted": 2, "exhausted": 2}
    assert tally_together(urls[:2]).outcomes() == {"accepted": 3, "exhausted": 1}
    assert tally_together(urls).outcomes() == {"accepted": 4}
    # An earlier run's trace is not undone by a later one that missed, whatever their order.
    assert tally_together(urls[::-1]).outcomes() == {"accepted": 4}


def test_without_a_trace_the_last_run_that_asked_says_what_became_of_a_unit() -> None:
    rows = [make_row("a", {}, "3", [], outcome="over_quota"), make_row("a", {}, "3", MISSED)]
    assert unite_units(make_table(rows)).outcomes() == {"exhausted": 1}
    assert unite_units(make_table(rows[::-1])).outcomes() == {"over_quota": 1}
    assert unite_units(TRACES.empty_table()).num_units == 0


def test_the_headline_of_several_runs_is_of_all_of_them_together(tmp_path: Path) -> None:
    runs, together, spent = read(write_runs(tmp_path))
    facts = list(list_trace_facts(runs, together, spent))
    assert [(fact.value, fact.name, fact.detail) for fact in facts[:1]] == [
        ("100%", "data utilisation, all runs together", "4 of 4 units")
    ]
    # By hand: 6 + 3 + 1 draws of 20 tokens, for 4 units.
    assert facts[-1].value == "50"
    alone = list(list_trace_facts(runs[:1], [], spent[:1]))
    assert (alone[0].value, alone[0].name) == ("50%", "data utilisation")


def test_what_hinted_runs_add_is_told_apart(tmp_path: Path) -> None:
    runs, together, spent = read(write_runs(tmp_path, hinted=("told",)))
    assert [(run.name, run.utilisation) for run in together] == [("all runs together", 1.0), ("all but hinted", 0.75)]
    assert next(list_trace_facts(runs, together, spent)).detail == "4 of 4 units; all but hinted: 75%"
    (table,) = (block for block in make_utilisation(runs, together).blocks if isinstance(block, Table))
    shown = [(cells[0].text, cells[0].detail, cells[2].text) for cells in table.cells()]
    assert shown == [
        ("all runs together", "", "100.0%"),
        ("all but hinted", "", "75.0%"),
        ("first", "", "50.0%"),
        ("strict", "", "50.0%"),
        ("told", "told the label", "100.0%"),
    ]


def test_the_first_draws_of_a_run_over_what_others_left_are_not_held_against_it(tmp_path: Path) -> None:
    urls = write_runs(tmp_path)
    later = Folder(urls[1])
    driver = later.read_json("drivers/driver-00000.json")
    driver["config"]["after"] = [urls[0]]
    later.write_json("drivers/driver-00000.json", driver)
    later.write_json("manifest.json", {**later.read_json("manifest.json"), "config": driver["config"]})
    section = make_acceptance(read(urls)[0])
    heads = {row[0].text: row[0].detail for row in section.blocks[0].cells()}

    assert heads == {"first": "", "strict": "of units that earlier runs left", "told": ""}
    assert "their units are those that were missed before" in section.lead


def test_a_single_run_is_not_united(tmp_path: Path) -> None:
    assert read(write_runs(tmp_path)[:1])[1] == []
