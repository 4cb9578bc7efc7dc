"""Which accepted traces may teach."""

import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.ledger import join_decisions
from judgetrace.schema import TRACES, UNIT_KEY, VERIFICATIONS
from judgetrace.storage import Folder, encode_json, encode_parquet
from judgetrace.stripping import RULES_VERSION
from judgetrace.teachable import NEEDED, check_verification, find_faults, read_verdicts
from judgetrace.training.hinted import choose_dropped
from judgetrace.verification import hash_trace
from tests.trace_tables import make_decision, make_draw, make_items, table_of

ITEMS = make_items(2)


def traces(hinted: bool) -> pa.Table:
    """One accepted unit with the trace "because", one exhausted."""
    rows = [
        make_decision(ITEMS, 0, "accepted", [make_draw(0, "accepted", "1")], hinted=hinted),
        make_decision(ITEMS, 1, "exhausted", [], hinted=hinted),
    ]
    return join_decisions(ITEMS, table_of(*rows), TRACES).select(NEEDED)


def verdicts(trace: str = "because", **found: bool) -> pa.Table:
    row = dict(zip(UNIT_KEY, ("item-0000", "", "aggregate"), strict=True)) | {"trace_hash": hash_trace(trace)}
    row |= {"recovers": True, "leaks": False, "mentions_hint": False} | found
    names = (*UNIT_KEY, "trace_hash", "recovers", "leaks", "mentions_hint")
    return pa.Table.from_pylist([row], schema=pa.schema([VERIFICATIONS.field(name) for name in names]))


@pytest.mark.parametrize(
    ("hinted", "wants_verified", "found", "fault"),
    [
        (False, False, None, None),
        (False, True, None, "not_verified"),
        (False, True, {}, None),
        (False, True, {"recovers": False}, "not_recovered"),
        (False, True, {"leaks": True}, None),
        (False, True, {"trace": "another"}, "not_verified"),
        (True, False, None, "hinted_unverified"),
        (True, False, {}, None),
        (True, False, {"recovers": False}, "not_recovered"),
        (True, False, {"leaks": True}, "hinted_leaks"),
        (True, False, {"mentions_hint": True}, "hinted_leaks"),
    ],
)
def test_a_trace_teaches_unless_it_was_told_or_is_to_be_verified_and_no_verdict_speaks_for_it(
    hinted, wants_verified, found, fault
):
    known = verdicts().slice(0, 0) if found is None else verdicts(**found)
    assert find_faults(traces(hinted), known, wants_verified=wants_verified) == [fault, None]


@pytest.mark.parametrize("wants_verified", [False, True])
def test_a_rating_without_any_thinking_teaches_nothing_to_think(wants_verified):
    rows = [make_decision(ITEMS, n, "accepted", [make_draw(0, "accepted", "1")]) for n in range(2)]
    rows[1]["trace"] = " \n"
    table = join_decisions(ITEMS, table_of(*rows), TRACES).select(NEEDED)
    faults = find_faults(table, verdicts(), wants_verified=wants_verified)
    assert faults == [None, "no_thinking"]


def test_verdicts_are_read_by_the_number_of_the_shard(tmp_path):
    for shard, name in ((3, "shard-00003.parquet"), (4, "shard-00004.partial-00002.parquet")):
        table = verdicts(f"trace of {shard}")
        Folder(str(tmp_path)).write_atomic(f"verifications/{name}", encode_parquet(table))
    assert read_verdicts((str(tmp_path),), 4)["trace_hash"].to_pylist() == [hash_trace("trace of 4")]
    assert len(read_verdicts((str(tmp_path),), 5)) == 0
    assert len(read_verdicts((), 3)) == 0


def test_verdicts_of_other_stripping_rules_are_refused(tmp_path):
    run = Folder(str(tmp_path))
    run.write_atomic("verifications/shard-00000.parquet", encode_parquet(verdicts()))
    run.write_atomic("contract.json", encode_json({"stripping.version": RULES_VERSION}))
    check_verification("data.verification", (run.url,))
    run.write_atomic("contract.json", encode_json({"stripping.version": RULES_VERSION - 1}))
    with pytest.raises(
        UserError, match=r"data.verification: .*: its traces were stripped .* by rules \d+; this judgetrace"
    ):
        check_verification("data.verification", (run.url,))


KEYS = [(f"item-{n}", "", "aggregate") for n in range(10)]


@pytest.mark.parametrize(
    ("others", "share", "stay"), [(90, 0.1, 10), (45, 0.1, 5), (0, 0.1, 0), (10, 0.5, 10), (3, 0.25, 1), (0, 1.0, 10)]
)
def test_hinted_traces_are_at_most_their_share_of_all(others, share, stay):
    assert len(KEYS) - len(choose_dropped(KEYS, others, share, 0)) == stay


def test_which_hinted_traces_stay_depends_on_units_and_seed_and_not_on_their_order():
    def stay(keys, seed):
        dropped = choose_dropped(keys, 5, 0.5, seed)
        return {key for n, key in enumerate(keys) if n not in dropped}

    assert stay(KEYS, 0) == stay(KEYS[::-1], 0)
    assert len({frozenset(stay(KEYS, seed)) for seed in range(9)}) > 1
