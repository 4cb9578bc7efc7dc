"""The oracle itself: it must see every fault that it is there for."""

import pyarrow as pa
import pytest

from judgetrace.accounting import tally_traces
from judgetrace.ledger import encode_shard
from judgetrace.schema import TRACES
from judgetrace.storage import Folder, encode_json, encode_parquet
from tests.oracle import accepted_set, check_run
from tests.trace_tables import make_decision, make_draw, make_items


def make_rows(num: int = 3) -> list[dict]:
    items = make_items(num)
    units = items.to_pylist()
    return [
        unit | make_decision(items, i, "accepted", [make_draw(0, "accepted", unit["target_label"])])
        for i, unit in enumerate(units)
    ]


def write_run(folder, rows: list[dict], counted: list[dict] | None = None, in_corpus: int = 3) -> tuple[str, str]:
    corpus, run = Folder(str(folder / "corpus")), Folder(str(folder / "run"))
    corpus.write_atomic("items/shard-00000.parquet", encode_parquet(make_items(in_corpus)))
    table, told = (pa.Table.from_pylist(r, schema=TRACES) for r in (rows, rows if counted is None else counted))
    tally = tally_traces(told)
    run.write_atomic("traces/shard-00000.parquet", encode_shard(table, tally))
    manifest = {"units": in_corpus, "decided": len(told), "outcomes": tally.outcomes(), "tally": tally.to_json()}
    run.write_atomic("manifest.json", encode_json(manifest))
    return run.url, corpus.url


def test_a_sound_run_passes_and_gives_its_rows(tmp_path):
    rows = make_rows()
    assert len(check_run(*write_run(tmp_path, rows), undisturbed=accepted_set(rows))) == 3


def lose(rows):
    rows.pop()


def repeat_unit(rows):
    rows.append(rows[0])


def repeat_draw(rows):
    rows[0]["draws"] *= 2


def accept_another_label(rows):
    rows[0]["rating"] = "5"


def leave_undecided(rows):
    rows[0]["outcome"] = "undecided"


def invent_unit(rows):
    rows[0]["item_id"] = "stranger"


def quarantine(rows):
    rows[0] |= {"outcome": "quarantined", "rating": None, "draw_index": None, "trace": None}


def relabel(rows):
    draws = [draw | {"rating": "5"} for draw in rows[0]["draws"]]
    rows[0] |= {"target_label": "5", "accepted_labels": ["5"], "rating": "5", "draws": draws}


def rate_the_accepted_draw_otherwise(rows):
    rows[0]["draws"] = [draw | {"rating": "5"} for draw in rows[0]["draws"]]


def end_otherwise(rows):
    rows[0] |= {"trace": "another thought"}


@pytest.mark.parametrize(
    "fault",
    [
        lose,
        repeat_unit,
        repeat_draw,
        accept_another_label,
        leave_undecided,
        invent_unit,
        quarantine,
        relabel,
        rate_the_accepted_draw_otherwise,
        end_otherwise,
    ],
)
def test_every_fault_is_seen(tmp_path, fault):
    rows = make_rows()
    assert rows[0]["rating"] != "5"
    calm = accepted_set(rows)
    fault(rows)
    with pytest.raises(AssertionError):
        check_run(*write_run(tmp_path, rows), undisturbed=calm)


def test_a_footer_that_counts_something_else_is_seen(tmp_path):
    rows = make_rows()
    with pytest.raises(AssertionError):
        check_run(*write_run(tmp_path, rows, counted=[*rows[:2], {**rows[2], "outcome": "exhausted"}]))
