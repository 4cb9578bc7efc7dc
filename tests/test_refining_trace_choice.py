"""Which traces of runs guidelines are written from: what may not teach is left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.refining.candidate_config import SelectionConfig
from judgetrace.refining.trace_choice import ChosenTraces, SelectionRule, choose_traces
from judgetrace.scale import Scale
from judgetrace.schema import UNIT_KEY, VERIFICATIONS
from judgetrace.storage import Folder, encode_parquet
from judgetrace.verification import hash_trace
from tests.refine_tables import make_trace_row, write_trace_run

SCALE = Scale(values=("1", "2", "3"))
ROWS = [make_trace_row(n, "123"[n % 3], f"trace {n}") for n in range(30)]


def run_here(_: str, run: Callable[[int, Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    yield from map(run, range(len(tasks)), tasks)


def choose(*runs: str, per_level: int = 5, **rule: Any) -> ChosenTraces:
    return choose_traces(runs, SelectionRule("", SCALE, per_level, (0, 1), **rule), run_here)


def write_verdicts(url: str, rows: list[dict[str, Any]], **found: bool) -> str:
    """Verdicts about the traces of rows, all in shard 0: recovered and clean unless said otherwise."""
    made = [
        dict.fromkeys(VERIFICATIONS.names)
        | {name: row[name] for name in UNIT_KEY}
        | {"trace_hash": hash_trace(row["trace"]), "recovers": True, "leaks": False, "mentions_hint": False}
        | found
        for row in rows
    ]
    table = pa.Table.from_pylist(made, VERIFICATIONS)
    name = (
        f"shard-00000{'' if not Folder(url).exists('verifications/shard-00000.parquet') else '.partial-00001'}.parquet"
    )
    Folder(url).write_atomic(f"verifications/{name}", encode_parquet(table))
    return url


def list_texts(chosen: ChosenTraces, per_level: int = 5) -> set[str]:
    return {trace.trace for seed in (0, 1) for trace in chosen.list_traces(seed, per_level)}


def test_without_a_wish_all_accepted_traces_may_teach(tmp_path) -> None:
    chosen = choose(write_trace_run(str(tmp_path / "run"), [ROWS]))

    assert chosen.count_supply().available == {"1": 10, "2": 10, "3": 10}
    assert chosen.count_supply().describe() == []


@pytest.mark.parametrize("nothing", [" \n", None])
def test_accepted_ratings_without_a_thought_are_left_out(tmp_path, nothing: str | None) -> None:
    rows = [row | {"trace": nothing} if number < 6 else row for number, row in enumerate(ROWS)]
    supply = choose(write_trace_run(str(tmp_path / "run"), [rows])).count_supply()

    assert supply.available == {"1": 8, "2": 8, "3": 8}
    assert supply.left_out == {"no_thinking": 6}


def test_only_traces_that_a_second_model_understood_are_read_where_that_is_wished(tmp_path) -> None:
    run = write_trace_run(str(tmp_path / "run"), [ROWS])
    verdicts = write_verdicts(str(tmp_path / "good"), ROWS[:18])
    missed = write_verdicts(str(tmp_path / "missed"), ROWS[18:27], recovers=False)

    chosen = choose(run, verification=(verdicts, missed), verified=True)

    assert chosen.count_supply().available == {"1": 6, "2": 6, "3": 6}
    assert chosen.count_supply().left_out == {"not_recovered": 9, "not_verified": 3}
    assert chosen.count_supply().describe() == ["left out: 9 not_recovered, 3 not_verified"]
    assert list_texts(chosen) <= {row["trace"] for row in ROWS[:18]}


def test_hinted_traces_are_read_only_where_a_verdict_speaks_for_them(tmp_path) -> None:
    told = [row | {"hinted": row["rating"] == "3"} for row in ROWS]
    run = write_trace_run(str(tmp_path / "run"), [told])
    hinted = [row for row in told if row["hinted"]]
    verdicts = write_verdicts(str(tmp_path / "good"), hinted[:4])
    leaks = write_verdicts(str(tmp_path / "leaks"), hinted[4:6], mentions_hint=True)

    unverified, verified = choose(run), choose(run, verification=(verdicts, leaks))

    assert unverified.count_supply().left_out == {"hinted_unverified": 10}
    assert unverified.count_supply().describe()[1:] == ["level 3: 0 accepted traces that may teach, 5 wanted"]
    assert verified.count_supply().left_out == {"hinted_leaks": 2, "hinted_unverified": 4}
    assert {t for t in list_texts(verified) if t in {row["trace"] for row in hinted}} == {
        row["trace"] for row in hinted[:4]
    }


def test_hinted_traces_beyond_their_share_are_counted(tmp_path) -> None:
    told = [row | {"hinted": row["rating"] == "3"} for row in ROWS]
    run = write_trace_run(str(tmp_path / "run"), [told])
    verdicts = write_verdicts(str(tmp_path / "good"), told)

    # 10 of the other levels: h / (10 + h) <= .1 is h <= 1. Of 5 hinted ones each seed leaves out 4.
    chosen = choose(run, verification=(verdicts,), max_hinted_share=0.1)

    assert [sum(t.level == "3" for t in chosen.list_traces(seed, 5)) for seed in (0, 1)] == [1, 1]
    assert 4 <= chosen.count_supply().left_out["hinted_over_share"] <= 8


def test_of_two_traces_of_a_unit_the_one_that_was_not_told_is_read(tmp_path) -> None:
    told = write_trace_run(str(tmp_path / "told"), [[row | {"hinted": True, "trace": "told"} for row in ROWS]])
    own = write_trace_run(str(tmp_path / "own"), [ROWS])
    verdicts = write_verdicts(str(tmp_path / "good"), [row | {"trace": "told"} for row in ROWS])

    assert "told" not in list_texts(choose(told, own, verification=(verdicts,)))


def test_where_nothing_may_teach_the_error_says_what_was_left_out(tmp_path) -> None:
    run = write_trace_run(str(tmp_path / "run"), [ROWS])

    with pytest.raises(UserError, match=r"may teach\nleft out: 30 not_verified\n"):
        choose(run, verification=(), verified=True)


def test_what_is_to_be_verified_needs_a_run_that_did_it() -> None:
    with pytest.raises(ValueError, match="verified = true needs `verification`"):
        SelectionConfig(verified=True)

    assert SelectionConfig(verification="runs/a", verified=True).verification == ("runs/a",)
