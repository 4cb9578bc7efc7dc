"""Deciding a unit again from its recorded draws."""

import pytest

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.asking import AskedUnit
from judgetrace.decisions import TraceDecider, decide_again
from judgetrace.engine import Prompt
from judgetrace.ledger import ShardLedger, is_finished, list_shard_files
from judgetrace.products import TRACE_PRODUCT
from judgetrace.run_inputs import RunInputs, read_units
from judgetrace.sampling import SamplingConfig
from judgetrace.scale import Scale
from judgetrace.schema import ITEMS as ITEMS_SCHEMA
from judgetrace.schema import UNIT_KEY, unit_key
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig
from judgetrace.traces import read_earlier
from judgetrace.unit_job import UnitJob
from judgetrace.unit_run import ShardTask
from tests.test_dry_run import write_corpus
from tests.trace_tables import make_decision, make_draw, make_items, read_published, table_of

FIVE = Scale(values=(1, 2, 3, 4, 5))
ITEMS = make_items(5)
SAMPLING = SamplingConfig(max_draws=4)


def recorded(draws, outcome="exhausted", **more):
    """A row of traces of the item labelled 3, whose annotators said 3 and 4."""
    return ITEMS.slice(2, 1).to_pylist()[0] | make_decision(ITEMS, 2, outcome, draws, **more)


def again(row, **rule):
    result = decide_again(row, FIVE, AcceptanceConfig(**rule), SAMPLING)
    return result["outcome"], result["draw_index"], result["accepted_by"]


DRAWS = [make_draw(i, "disagrees", rating, text="t", trace=f"because {i}") for i, rating in enumerate("5412")]


def test_the_first_draw_that_another_rule_accepts_wins():
    assert again(recorded(DRAWS)) == ("exhausted", None, None)
    assert again(recorded(DRAWS), rule="tolerance", tolerance=1) == ("accepted", 1, "tolerance")
    assert again(recorded(DRAWS), rule="any_annotator") == ("accepted", 1, "any_annotator")
    assert again(recorded(DRAWS) | {"accepted_labels": ["1"], "target_label": "1"}) == ("accepted", 2, "exact")


def test_a_decision_that_needs_a_draw_nobody_made_is_undecided():
    stopped_early = [make_draw(0, "disagrees", "5"), make_draw(1, "accepted", "3")]
    row = recorded(stopped_early, "accepted") | {"accepted_labels": ["2"], "target_label": "2"}
    assert again(row) == ("undecided", None, None)


def test_a_unit_accepted_after_a_failed_draw_stays_accepted():
    row = recorded([make_draw(0, "failed", error="hiccup"), make_draw(1, "accepted", "3", trace="so")], "accepted")
    assert again(row) == ("accepted", 1, "exact")


def test_what_could_not_be_asked_stays_as_it_is():
    row = recorded([], "quarantined", error="too long")
    assert again(row) == ("quarantined", None, None)


def test_a_matching_draw_whose_text_was_not_kept_gives_way_to_one_with_a_trace():
    without, of_four = make_draw(0, "disagrees", "4"), {"rule": "any_annotator"}
    kept = make_draw(1, "accepted", "3", text="So 3.", trace="so")
    row = recorded([without, kept], "accepted")
    assert again(row, **of_four) == ("accepted", 1, "exact")
    result = decide_again(row, FIVE, AcceptanceConfig(**of_four), SAMPLING)
    assert (result["trace"], result["rating"], result["num_needed"], result["error"]) == ("so", "3", 2, None)


def test_a_unit_whose_matching_draws_have_no_text_is_undecided_and_says_why():
    row = recorded([make_draw(0, "disagrees", "4")])
    result = decide_again(row, FIVE, AcceptanceConfig(rule="any_annotator"), SAMPLING)
    assert (result["outcome"], result["trace"], result["rating"], result["draw_index"]) == (
        "undecided",
        None,
        None,
        None,
    )
    assert "keep_rejected_text" in result["error"]


def test_a_hinted_draw_is_told_the_target_label_and_accepted_by_it_alone():
    row = ITEMS.slice(2, 1).to_pylist()[0] | {"accepted_labels": ["3", "4"]}
    asked = AskedUnit(unit_key(row), ("3", "4"), (), FIVE, Prompt(1))
    plain, hinted = (TraceDecider(SAMPLING, AcceptanceConfig(), hinted=hinted) for hinted in (False, True))
    assert plain.tell(row, FIVE).variables == {}
    assert hinted.tell(row, FIVE).variables == {"hint": "3"}
    assert plain.judge("4", asked) == ("accepted", "half_point")
    assert hinted.judge("4", asked) == ("disagrees", None)
    assert hinted.judge("3", asked) == ("accepted", "exact")


def test_a_hinted_draw_is_accepted_by_no_other_rule_later():
    draws = [make_draw(0, "disagrees", "4", text="t", trace="because")]
    row = recorded(draws) | {"hinted": True, "target_label": "3", "accepted_labels": ["3", "4"]}
    for acceptance in (
        AcceptanceConfig(),
        AcceptanceConfig(rule="tolerance", tolerance=1),
        AcceptanceConfig(rule="any_annotator"),
    ):
        assert decide_again(row, FIVE, acceptance, SAMPLING)["outcome"] != "accepted"
        assert decide_again(row | {"hinted": False}, FIVE, acceptance, SAMPLING)["outcome"] == "accepted"


def test_a_decision_keeps_its_proposal_and_a_unit_over_quota_stays_so():
    row = recorded(DRAWS) | {"proposal": "strict", "hinted": True}
    result = decide_again(row, FIVE, AcceptanceConfig(rule="any_annotator"), SAMPLING)
    assert (result["proposal"], result["hinted"]) == ("strict", True)
    assert again(recorded([], "over_quota")) == ("over_quota", None, None)
    # As of a file of before there were proposals.
    old = {name: value for name, value in recorded([], "quarantined").items() if name not in ("proposal", "hinted")}
    assert decide_again(old, FIVE, AcceptanceConfig(), SAMPLING)["proposal"] is None


def keys_selected(decider: TraceDecider, outcomes: dict[int, str]) -> list[str]:
    """Select of five units, the last one to test on, where an earlier run left them with these outcomes."""
    rows = ITEMS.to_pylist()
    rows[4]["split"] = "test"
    items = ITEMS.from_pylist(rows, schema=ITEMS_SCHEMA)
    earlier = table_of(*(make_decision(items, row, outcome, []) for row, outcome in outcomes.items()))
    chosen = decider.select_units(items, ITEMS_SCHEMA.empty_table(), earlier.select([*UNIT_KEY, "outcome"]))
    assert chosen.schema == ITEMS_SCHEMA
    return [item_id[-1] for item_id in chosen["item_id"].to_pylist()]


def test_the_units_of_the_splits_asked_for_are_selected_and_of_these_what_earlier_runs_left():
    deciders = {
        splits: TraceDecider(SAMPLING, AcceptanceConfig(), splits=splits) for splits in ((), ("train",), ("test",))
    }
    assert {splits: "".join(keys_selected(own, {})) for splits, own in deciders.items()} == {
        (): "01234",
        ("train",): "0123",
        ("test",): "4",
    }
    assert [own.selects_all for own in deciders.values()] == [True, False, False]
    after = TraceDecider(SAMPLING, AcceptanceConfig(), earlier_runs=("run",), splits=("train",))
    # Of a unit outside of its own splits an earlier run has no row: nobody left it.
    assert keys_selected(after, {1: "exhausted", 2: "accepted", 4: "exhausted"}) == ["1"]


@pytest.mark.parametrize(
    ("sections", "tasks"),
    [
        ({}, [(1, 3), (2, 2)]),
        ({"splits": ["train"]}, [(1, 3), (2, 1)]),
        ({"splits": ["train"], "limit": 4}, [(1, 3), (2, 1)]),
        ({"splits": ["test"]}, [(2, 1)]),
        ({"splits": ["test"], "limit": 1}, [(2, 1)]),
        ({"splits": ["validation"]}, []),
    ],
)
def test_a_run_covers_the_units_of_its_splits_alone(tmp_path, sections, tasks):
    corpus = write_corpus(tmp_path)
    config = InferTracesConfig.model_validate({"corpus": corpus, "run": "r", "model": {"path": "m"}} | sections)
    job = UnitJob("infer_traces", config, RunInputs(corpus, None, None), config.decider(), "f", "accepted")
    assert job.plan() == [ShardTask(*task) for task in tasks]


@pytest.mark.parametrize("content", [b"cut off", None])
def test_a_shard_that_cannot_be_read_is_planned_for_a_worker_to_name_it(tmp_path, content):
    corpus = write_corpus(tmp_path)
    Folder(corpus).delete(["items/shard-00002.parquet"])
    if content is not None:
        Folder(corpus).write_atomic("items/shard-00002.parquet", content)
    inputs, decider = RunInputs(corpus, None, None), TraceDecider(SAMPLING, AcceptanceConfig(), splits=("train",))
    assert list(inputs.count_selected(decider)) == [(1, 3), (2, 2)]


def test_a_shard_is_finished_with_the_units_of_the_splits_alone_and_the_others_have_no_row(tmp_path):
    corpus, run = Folder(write_corpus(tmp_path)), Folder(str(tmp_path / "run"))
    decider = TraceDecider(SAMPLING, AcceptanceConfig(), splits=("test",))
    units = read_units(corpus, 2, 1, decider)
    rows = table_of(make_decision(units, 0, "exhausted", []))
    ShardLedger(run, 2, TRACE_PRODUCT).publish(units, rows)
    assert [is_finished(name) for name in list_shard_files(run / "traces")] == [True]
    assert [row["item_id"] for row in read_published(run)] == ["item-0004"]
    # Of a shard without units of these splits there is no file, which readers take for no rows.
    assert read_earlier([run.url], 1).num_rows == 0
