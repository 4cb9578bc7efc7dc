"""The oracle that goes shard by shard sees what the other one sees, and counts it."""

import asyncio

import pytest

from judgetrace.engine import EngineConfig, EngineSpec, ModelConfig
from judgetrace.storage import Folder
from tests import test_oracle
from tests.foretelling import ask_scripted, foretell_units
from tests.oracle import accepted_set
from tests.scripted_engine import ScriptedEngine
from tests.shard_oracle import Findings, check_shards


def check(folder, rows: list[dict], calm: set, **more) -> Findings:
    run, corpus = test_oracle.write_run(folder, rows, **more)
    return check_shards(run, corpus, lambda items: calm)


def counts(findings: Findings) -> tuple[int, ...]:
    return findings.lost, findings.duplicated, findings.strange, findings.otherwise, len(findings.broken)


def test_a_sound_run_has_no_findings(tmp_path):
    rows = test_oracle.make_rows()
    findings = check(tmp_path, rows, accepted_set(rows))
    assert counts(findings) == (0, 0, 0, 0, 0)
    assert findings.units == findings.tally.num_units == 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        # A row too few or too many, and the manifest does not have as many decided units as there are.
        (test_oracle.lose, (1, 0, 0, 1, 1)),
        (test_oracle.repeat_unit, (0, 1, 0, 0, 1)),
        (test_oracle.repeat_draw, (0, 0, 0, 0, 1)),
        (test_oracle.accept_another_label, (0, 0, 0, 1, 1)),
        (test_oracle.leave_undecided, (0, 0, 0, 1, 1)),
        (test_oracle.invent_unit, (1, 0, 1, 1, 0)),
        (test_oracle.quarantine, (0, 0, 0, 1, 0)),
        (test_oracle.end_otherwise, (0, 0, 0, 1, 0)),
    ],
)
def test_every_fault_is_counted(tmp_path, fault, expected):
    rows = test_oracle.make_rows()
    calm = accepted_set(rows)
    fault(rows)
    assert counts(check(tmp_path, rows, calm)) == expected


def test_a_footer_that_counts_something_else_is_told(tmp_path):
    rows = test_oracle.make_rows()
    counted = [*rows[:2], {**rows[2], "outcome": "exhausted"}]
    broken = check(tmp_path, rows, accepted_set(rows), counted=counted).broken
    assert broken == ["shard-00000.parquet: footer and rows differ"]


def test_a_shard_that_was_never_published_is_lost_and_one_of_no_corpus_is_strange(tmp_path):
    rows = test_oracle.make_rows()
    run, corpus = test_oracle.write_run(tmp_path, rows)
    traces = Folder(f"{run}/traces")
    traces.write_atomic("shard-00007.parquet", traces.read_bytes("shard-00000.parquet"))
    traces.delete(["shard-00000.parquet"])
    assert counts(check_shards(run, corpus))[:3] == (3, 0, 3)


def test_a_run_without_manifest_is_told(tmp_path):
    run, corpus = test_oracle.write_run(tmp_path, test_oracle.make_rows())
    Folder(run).delete(["manifest.json"])
    assert [told.split(":")[0] for told in check_shards(run, corpus).broken] == ["manifest"]


def test_what_is_foretold_of_a_scripted_engine_is_its_first_draw_that_rates_as_the_label():
    spec = EngineSpec(ModelConfig(path="none"), EngineConfig(args={"levels": [1, 2]}))
    engine = ScriptedEngine(spec)
    items = [
        {"item_id": f"i{n}", "dimension": "", "target_source": "aggregate", "target_label": "2"} for n in range(40)
    ]
    foretold = {entry[0]: entry[3:] for entry in foretell_units(engine, items, max_draws=2)}
    assert len(foretold) == 40
    for item in items:
        texts = [asyncio.run(engine.generate(ask_scripted(item, index))).text for index in range(2)]
        hits = [index for index, text in enumerate(texts) if text.endswith("<rating>2</rating>")]
        expected = ("accepted", hits[0], "2", f"Draw {hits[0]} of {item['item_id']} thinks.") if hits else None
        assert foretold[item["item_id"]] == (expected or ("exhausted", None, None, None))
    assert {outcome for outcome, *_ in foretold.values()} == {"accepted", "exhausted"}
