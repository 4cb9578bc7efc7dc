"""How a run stands, from its files alone."""

import io
from collections import Counter

import pytest
from rich.console import Console

from judgetrace.accounting import Tally
from judgetrace.ledger import ShardLedger
from judgetrace.products import TRACE_PRODUCT
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state, summarise_run, tally_run
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder, encode_parquet
from judgetrace.trace_report import accepted_traces, print_trace_summary, print_traces
from tests.trace_tables import make_decision, make_draw, make_items, table_of

SCALE = ScaleConfig(values=("1", "2", "3", "4", "5"))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(Folder(str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("word", "at", "state"),
    [
        ("running", 990.0, "running"),
        ("stopping", 990.0, "stopping"),
        ("running", 100.0, "dead: its driver said nothing for 15 min"),
        ("SIGTERM received", 100.0, "stopped: SIGTERM received"),
        ("complete", 100.0, "ended: a pilot"),
    ],
)
def test_the_last_word_and_its_age_tell_the_state(run, word, at, state):
    run.write_state(run.claim(0.0), {"state": word, "at": at})
    assert describe_state(run, now=1000.0)[0].startswith(state)


def test_a_manifest_means_complete_and_no_driver_means_not_started(run):
    assert describe_state(run, 0.0)[0] == "not started"
    run.claim(0.0)
    assert describe_state(run, 0.0)[0].startswith("starting")
    run.folder.write_json("manifest.json", {})
    assert describe_state(run, 0.0)[0] == "complete"


@pytest.fixture
def corpus(tmp_path) -> Folder:
    folder = Folder(str(tmp_path / "corpus"))
    for shard in range(2):
        folder.write_atomic(f"items/shard-{shard:05d}.parquet", encode_parquet(make_items(5, prefix=f"s{shard}")))
    return folder


def decide(items, row: int, hit: bool):
    label = items.column("target_label")[row].as_py()
    draws = [
        make_draw(0, "disagrees", "9", 10),
        make_draw(1, "accepted" if hit else "unparsed", label if hit else None, 5),
    ]
    return make_decision(items, row, "accepted" if hit else "exhausted", draws)


def test_finished_and_open_shards_are_counted_alike(run, corpus):
    finished, still_open = (corpus.read_table(f"items/shard-{shard:05d}.parquet") for shard in range(2))
    ShardLedger(run.folder, 0, TRACE_PRODUCT).publish(
        finished, table_of(*(decide(finished, row, row < 3) for row in range(5)))
    )
    ledger = ShardLedger(run.folder, 1, TRACE_PRODUCT)
    ledger.commit(table_of(decide(still_open, 0, True), decide(still_open, 1, False)))
    tally = tally_run(run.folder, corpus, TRACE_PRODUCT)
    assert tally.outcomes() == {"accepted": 4, "exhausted": 3}
    assert tally.tokens["output"] == 7 * 15
    ledger.publish(still_open)
    assert tally_run(run.folder, corpus, TRACE_PRODUCT) == tally
    assert {row["item_id"] for row in accepted_traces(run.folder, 99)} == {"s0-0000", "s0-0001", "s0-0002", "s1-0000"}


def test_the_summary_a_person_sees_holds_the_figures(run, corpus):
    items = corpus.read_table("items/shard-00000.parquet")
    ShardLedger(run.folder, 0, TRACE_PRODUCT).publish(
        items, table_of(*(decide(items, row, row < 3) for row in range(5)))
    )
    run.write_state(run.claim(0.0), {"state": "running", "at": 0.0, "engine_s": 5.0, "seconds": 9.0})
    out = io.StringIO()
    console = Console(file=out, width=120)
    print_trace_summary(console, summarise_run(run, corpus, TRACE_PRODUCT, 10), SCALE, 4)
    print_traces(console, run)
    text = out.getvalue()
    for part in (
        "5 of 10 decided: 3 accepted, 2 exhausted",
        "60.0%",
        "15 a second of engine time",
        "3 accepted traces",
    ):
        assert part in text


def test_labels_and_dimensions_with_brackets_are_shown_as_they_are():
    # Rich takes [/high] for the end of a style that was never begun.
    tally = Tally(units=Counter({"[tone]\x1f[/high]\x1faccepted": 1, "[tone]\x1f[low]\x1fexhausted": 1}))
    summary = {"tally": tally.to_json(), "decided": 2, "units": 2, "engine_seconds": 1.0}
    out = io.StringIO()
    print_trace_summary(Console(file=out, width=120), summary, SCALE, 4)
    rows = [line.split()[1:4:2] for line in out.getvalue().splitlines() if line.startswith("│ [tone]")]
    assert sorted(rows) == [["[tone]", "[/high]"], ["[tone]", "[low]"]]
