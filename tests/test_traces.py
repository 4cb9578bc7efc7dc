"""Earlier runs as what another proposal begins from."""

import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.ledger import join_decisions
from judgetrace.schema import DECISIONS, TRACES, UNIT_KEY, fit_table
from judgetrace.storage import Folder, encode_parquet
from judgetrace.traces import (
    check_new_draws,
    check_trace_corpus,
    check_trace_runs,
    read_earlier,
    read_traces,
    select_left,
)
from tests.trace_tables import make_decision, make_draw, make_items, table_of

ITEMS = make_items(6)
OUTCOMES = ("accepted", "exhausted", "over_quota", "quarantined", "exhausted", "failed")


def traces_of(*outcomes: str, rows: tuple[int, ...] = tuple(range(6))) -> pa.Table:
    made = []
    for row, outcome in zip(rows, outcomes, strict=False):
        draws = [make_draw(0, "accepted", "1")] if outcome == "accepted" else []
        made.append(make_decision(ITEMS, row, outcome, draws, proposal="strict", hinted=True))
    return join_decisions(ITEMS, table_of(*made), TRACES)


def keys_left(*runs: pa.Table) -> list[int]:
    left = select_left(ITEMS, pa.concat_tables(runs))
    return [int(item[-4:]) for item in left["item_id"].to_pylist()]


def test_left_is_what_some_run_exhausted_or_had_enough_of_and_none_accepted():
    assert keys_left(traces_of(*OUTCOMES)) == [1, 2, 4]
    assert keys_left(traces_of(*OUTCOMES), traces_of("accepted", "exhausted", rows=(1, 4))) == [2, 4]
    # The first run tried it; that the second could not ask it changes nothing.
    assert keys_left(traces_of("exhausted", rows=(1,)), traces_of("quarantined", rows=(1,))) == [1]
    assert keys_left(TRACES.empty_table()) == []


def write_old(run: Folder) -> None:
    old = traces_of(*OUTCOMES).drop_columns(["proposal", "hinted"])
    run.write_atomic("traces/shard-00000.parquet", encode_parquet(old))


def test_traces_of_before_there_were_proposals_are_the_first_and_told_nothing(tmp_path):
    run = Folder(str(tmp_path))
    write_old(run)
    table = read_traces(run, "shard-00000.parquet", ["item_id", "proposal", "hinted"])
    assert set(table["proposal"].to_pylist()) == {"first"}
    assert set(table["hinted"].to_pylist()) == {False}
    assert table["item_id"].to_pylist() == ITEMS["item_id"].to_pylist()


def test_a_run_that_has_nothing_of_a_shard_adds_no_row(tmp_path):
    run, none = Folder(str(tmp_path / "run")), str(tmp_path / "none")
    write_old(run)
    assert len(read_earlier([none, run.url], 0)) == 6
    assert read_earlier([none], 3, ["trace"]).column_names == [*UNIT_KEY, "outcome", "trace"]


def test_a_part_of_an_earlier_version_is_brought_to_the_columns_of_today():
    today = table_of(make_decision(ITEMS, 0, "exhausted", []))
    fitted = fit_table(today.drop_columns(["proposal"]), DECISIONS)
    assert fitted.schema == DECISIONS
    assert fitted["proposal"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "no complete run there"),
        ({"job": "rate_items", "contract": {"corpus": "c"}}, "is a run of rate_items"),
        ({"job": "infer_traces", "contract": {"corpus": "other"}}, "of another corpus"),
    ],
)
def test_runs_that_are_unfinished_of_another_job_or_corpus_are_refused(tmp_path, manifest, message):
    run = Folder(str(tmp_path))
    if manifest is not None:
        run.write_json("manifest.json", manifest)
    with pytest.raises(UserError, match=message):
        check_trace_runs("after", [run.url], "c")


def test_traces_of_another_corpus_are_refused_whether_or_not_their_run_is_complete(tmp_path):
    runs = [str(tmp_path / name) for name in "abc"]
    for run, corpus in zip(runs, ("c", "other", None), strict=True):
        if corpus is not None:
            Folder(run).write_json("contract.json", {"corpus": corpus})
    check_trace_corpus("traces", [runs[0], runs[2]], "c")
    with pytest.raises(UserError, match=f"traces: {runs[1]}: its units are of another corpus"):
        check_trace_corpus("traces", runs, "c")


def test_a_run_is_identified_by_what_it_was_sampled_with_wherever_it_lies(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        contract = {"corpus": "c", "sampling.seed": seed}
        Folder(str(tmp_path / name)).write_json("manifest.json", {"job": "infer_traces", "contract": contract})
    a, b, c = check_trace_runs("after", [str(tmp_path / name) for name in "abc"], "c")
    assert a == b != c


def test_earlier_runs_may_lie_on_s3(tmp_path, s3):
    run = Folder(f"{s3}/{tmp_path.name}/run")
    write_old(run)
    earlier = read_earlier([run.url, f"{s3}/{tmp_path.name}/none"], 0, ["trace", "hinted"])
    assert earlier["outcome"].to_pylist() == list(OUTCOMES)
    assert earlier["trace"].to_pylist()[0] == "because"


@pytest.mark.parametrize(
    ("changed", "repeats"),
    [
        ({"proposal": "more", "sampling.max_draws": 32, "after": ["x"], "quota.per_level": 5}, True),
        ({"proposal": "looser", "acceptance.rule": "tolerance"}, True),
        ({"proposal": "more", "sampling.seed": 1}, False),
        ({"proposal": "strict", "prompt.severity": "strict"}, False),
        ({"proposal": "other", "model.path": "another"}, False),
    ],
)
def test_a_further_proposal_that_would_draw_the_same_again_is_refused(tmp_path, changed, repeats):
    contract = {
        "proposal": None,
        "after": None,
        "quota.per_level": None,
        "model.path": "m",
        "prompt.severity": None,
        "acceptance.rule": "exact",
        **{"sampling.seed": 0, "sampling.max_draws": 16},
    }
    Folder(str(tmp_path)).write_json("manifest.json", {"job": "infer_traces", "contract": contract})
    if repeats:
        with pytest.raises(UserError, match=r"another sampling\.seed"):
            check_new_draws(contract | changed, [str(tmp_path)])
    else:
        check_new_draws(contract | changed, [str(tmp_path)])
