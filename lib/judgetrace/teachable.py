"""Which accepted traces may teach, by what a second model found of them. Pure.

For training and for guidelines alike. A hinted trace argues for a label that it was told: it teaches only where the
label can be recovered from it, and it neither names a level nor says that it was told.
"""

from __future__ import annotations

import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.ledger import list_shard_files, select_current, table_keys
from judgetrace.schema import UNIT_KEY, VERIFICATIONS, fit_table
from judgetrace.storage import Folder
from judgetrace.stripping import RULES_VERSION
from judgetrace.verification import hash_trace

NEEDED = (*UNIT_KEY, "outcome", "trace", "hinted")
"""The columns of schema.TRACES that `find_faults` reads."""
NO_THINKING = "no_thinking"
"""Why a trace in which nothing stands does not: a rating alone was accepted."""
OVER_SHARE = "hinted_over_share"
"""Why a hinted trace that could teach does not: there are too many of them already."""
_VERDICT = ("trace_hash", "recovers", "leaks", "mentions_hint")


def check_verification(key: str, runs: tuple[str, ...]) -> None:
    """Raise UserError for what is no run of verify_traces, or stripped by other rules than these are.

    `key` is what the runs are called in the config. Where two sets of rules are taken together, a trace that leaks by
    one of them would teach by the other.
    """
    for run in runs:
        folder = Folder(run)
        if not list_shard_files(folder / "verifications"):
            raise UserError(
                f"{key}: {run}: no verifications/shard-*.parquet there\nexpected: run folders of verify_traces"
            )
        rules = folder.read_json("contract.json").get("stripping.version") if folder.exists("contract.json") else None
        if rules is not None and rules != RULES_VERSION:
            raise UserError(
                f"{key}: {run}: its traces were stripped of their ratings by rules {rules}; this judgetrace has rules "
                f"{RULES_VERSION}\nverify the traces anew, in another run folder"
            )


def read_verdicts(runs: tuple[str, ...], shard: int) -> pa.Table:
    """Read what runs of verify_traces found of a shard's traces: keys and `find_faults`' columns."""
    names = [*UNIT_KEY, *_VERDICT]
    schema = pa.schema([VERIFICATIONS.field(name) for name in names])
    tables = [schema.empty_table()]
    for run in runs:
        folder = Folder(run) / "verifications"
        for file in select_current(list_shard_files(folder, shard)).values():
            tables.append(fit_table(folder.read_table(file, names), schema))
    return pa.concat_tables(tables)


def find_faults(traces: pa.Table, verdicts: pa.Table, *, wants_verified: bool) -> list[str | None]:
    """Find why accepted traces may not teach; None where they may, and for units without a trace.

    Of all traces: no_thinking; with `wants_verified` not_verified,
    not_recovered. Of hinted ones always: hinted_unverified, not_recovered, hinted_leaks. A verdict about another trace
    of the unit does not count.
    """
    hinted = traces["hinted"].to_pylist()
    found = {
        (key, verdict["trace_hash"]): verdict
        for key, verdict in zip(table_keys(verdicts), verdicts.select(_VERDICT).to_pylist(), strict=True)
    }
    faults: list[str | None] = []
    columns = (traces["outcome"].to_pylist(), traces["trace"].to_pylist(), hinted)
    for key, outcome, trace, is_hinted in zip(table_keys(traces), *columns, strict=True):
        if outcome == "accepted" and trace is not None and not trace.strip():
            faults.append(NO_THINKING)
            continue
        if outcome != "accepted" or not (is_hinted or wants_verified):
            faults.append(None)
            continue
        verdict = found.get((key, hash_trace(trace)))
        if verdict is None:
            faults.append("hinted_unverified" if is_hinted else "not_verified")
        elif not verdict["recovers"]:
            faults.append("not_recovered")
        else:
            faults.append("hinted_leaks" if is_hinted and (verdict["leaks"] or verdict["mentions_hint"]) else None)
    return faults
