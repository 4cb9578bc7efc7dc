"""Published traces of runs of infer_traces, as what another run begins from. Reads those of earlier versions too.

A run is one proposal: one way of sampling. Further proposals are runs over the units that earlier ones left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.config import UserError
from judgetrace.corpus import name_shard
from judgetrace.fingerprints import hash_text
from judgetrace.run_folder import RunFolder
from judgetrace.schema import FIRST_PROPOSAL, TRACES, UNIT_KEY
from judgetrace.storage import Folder

LEFT_OUTCOMES = ("exhausted", "over_quota")
"""Outcomes without a trace that another proposal may change. What was quarantined can't be asked."""
SAME_DRAWS = ("proposal", "after", "splits", "quota.per_level", "sampling.max_draws", "sampling.keep", "acceptance.")
"""Beginnings of what may differ between the contracts of two runs that draw the very same."""
_AS_OF_OLD = {"proposal": FIRST_PROPOSAL, "hinted": False}


def read_traces(run: Folder, name: str, columns: Sequence[str]) -> pa.Table:
    """Read columns of schema.TRACES of a published file; what earlier versions did not write has its value for them.

    Reads no more of the file than these columns: draws may be most of it. Raises FileNotFoundError.
    """
    with (run / "traces").open_parquet(name) as file:
        table = file.read([column for column in columns if column in file.schema_arrow.names])
    arrays = []
    for column in columns:
        field = TRACES.field(column)
        found = table[column] if column in table.column_names else pa.nulls(len(table), field.type)
        arrays.append(pc.fill_null(found, _AS_OF_OLD[column]) if column in _AS_OF_OLD else found)
    return pa.table(arrays, schema=pa.schema([TRACES.field(column) for column in columns]))


def read_earlier(runs: Sequence[str], shard: int, columns: Sequence[str] = ()) -> pa.Table:
    """Read the rows of a shard of several complete runs, one run after the other: UNIT_KEY, outcome and `columns`.

    A run may have none of a shard.
    """
    names = [*UNIT_KEY, "outcome", *columns]
    tables = [pa.schema([TRACES.field(name) for name in names]).empty_table()]
    for run in runs:
        try:
            tables.append(read_traces(Folder(run), name_shard(shard), names))
        except FileNotFoundError:
            continue
    return pa.concat_tables(tables)


def name_units(table: pa.Table) -> pa.Array:
    """Return one text a row that names its unit."""
    return pc.binary_join_element_wise(*(table[name] for name in UNIT_KEY), "\x1f")


def select_left(units: pa.Table, earlier: pa.Table) -> pa.Table:
    """Select the units that some earlier run left without a trace and none accepted; `earlier` has keys and outcome."""
    names = name_units(earlier)
    left = names.filter(pc.is_in(earlier["outcome"], pa.array(LEFT_OUTCOMES)))
    accepted = names.filter(pc.equal(earlier["outcome"], "accepted"))
    own = name_units(units)
    return units.filter(pc.and_not(pc.is_in(own, left), pc.is_in(own, accepted)))


def check_trace_runs(key: str, runs: Sequence[str], corpus_id: str) -> list[str]:
    """Check that runs of infer_traces over a corpus are complete; returns what identifies each. Raises UserError.

    `key` is what they are called in the config.
    """
    return [_check_trace_run(key, run, corpus_id) for run in runs]


def check_trace_corpus(key: str, runs: Sequence[str], corpus_id: str) -> None:
    """Raise UserError for runs over another corpus, whose splits are others; runs need not be complete.

    `key` is what they are called in the config. A folder of traces without a contract tells nothing of its corpus.
    """
    for run in runs:
        folder = Folder(run)
        if folder.exists("contract.json") and folder.read_json("contract.json").get("corpus", corpus_id) != corpus_id:
            raise UserError(_describe_other_corpus(key, run))


def check_new_draws(contract: Mapping[str, Any], runs: Sequence[str]) -> None:
    """Raise UserError where a run with this contract would make draws of earlier, complete runs again.

    A draw's seed is of the run's seed, the unit and the draw's index, and not of the proposal.
    """
    for run in runs:
        earlier = Folder(run).read_json("manifest.json")["contract"]
        changed = {key for key in {*earlier, *contract} if earlier.get(key) != contract.get(key)}
        if all(key.startswith(SAME_DRAWS) for key in changed):
            raise UserError(
                f"after: {run} has drawn with the same model, prompt and seed: the same draws would be made again, and "
                "counted twice\ngive the next proposal another sampling.seed, prompt, model or decoding"
            )


def _check_trace_run(key: str, run: str, corpus_id: str) -> str:
    folder = RunFolder(Folder(run))
    if not folder.has_manifest():
        raise UserError(
            f"{key}: {run}: no complete run there (no manifest.json)\n"
            "expected: run folders of infer_traces that are complete; run its command again until it says so, without "
            "`limit`: a pilot is not complete"
        )
    manifest = folder.folder.read_json("manifest.json")
    if manifest.get("job") != "infer_traces":
        raise UserError(f"{key}: {run}: is a run of {manifest.get('job')}; expected one of infer_traces")
    contract = manifest["contract"]
    if contract["corpus"] != corpus_id:
        raise UserError(_describe_other_corpus(key, run))
    return hash_text(json.dumps(contract, sort_keys=True))


def _describe_other_corpus(key: str, run: str) -> str:
    return f"{key}: {run}: its units are of another corpus than `corpus`; give runs over the same one"
