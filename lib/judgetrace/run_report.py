"""How a run stands, read from its files alone: its state, and its counts as data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from judgetrace.accounting import Tally, add_tallies
from judgetrace.corpus import name_shard
from judgetrace.ledger import (
    ShardFinishedError,
    ShardLedger,
    current_shard_files,
    is_finished,
    join_decisions,
    read_tally,
)
from judgetrace.live import format_seconds
from judgetrace.products import RATING_PRODUCT, Product
from judgetrace.run_folder import SILENT_AFTER_S, RunFolder
from judgetrace.run_inputs import read_shard
from judgetrace.storage import CorruptFileError, Folder

TALLY_TRIES = 5


def tally_run(run: Folder, corpus: Folder, product: Product) -> Tally:
    """Count all decided units of a run: finished shards by their footers, the others by their ledger parts.

    A shard may be finished, and its parts deleted, between the look at them and the reading: then it is looked at anew.
    """
    for attempt in range(TALLY_TRIES):
        try:
            return _tally_run_once(run, corpus, product)
        except FileNotFoundError:
            if attempt == TALLY_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _tally_run_once(run: Folder, corpus: Folder, product: Product) -> Tally:
    published = run / product.folder
    names = current_shard_files(published)
    finished = [name for name in names.values() if is_finished(name)]
    open_shards = sorted({int(n.split("/")[0][6:]) for n in (run / "ledger").list_files(".parquet", recursive=True)})
    open_shards = [shard for shard in open_shards if not is_finished(names.get(shard, ".partial-"))]
    with ThreadPoolExecutor(16) as pool:
        return add_tallies(
            [
                *pool.map(lambda name: read_tally(published, name), finished),
                *pool.map(lambda shard: _tally_open_shard(run, corpus, shard, product), open_shards),
            ]
        )


def _tally_open_shard(run: Folder, corpus: Folder, shard: int, product: Product) -> Tally:
    ledger = ShardLedger(run, shard, product)
    try:
        ledger.refresh()
        # What the run did not ask has no decision, so it does no harm to read more than the run covers.
        items = read_shard(corpus, shard, with_dropped=product is RATING_PRODUCT)
    except ShardFinishedError:
        return read_tally(run / product.folder, name_shard(shard))
    except CorruptFileError:
        # A shard that can't be read does not count until it can; the run names it, and is not complete.
        return Tally()
    return product.tally(join_decisions(items, ledger.latest(), product.published))


def describe_state(run: RunFolder, now: float) -> tuple[str, dict[str, Any]]:
    """Tell whether a run is complete, running, stopped or dead; returns it with the newest driver's latest word."""
    states = run.read_states()
    newest = run.newest_driver()
    last = states.get(newest, {})
    if run.has_manifest():
        return "complete", last
    if newest < 0:
        return "not started", last
    return _describe_last_word(last, now), last


def _describe_last_word(last: dict[str, Any], now: float) -> str:
    if not last:
        return "starting, or dead before its first word"
    if last["state"] == "complete":
        return "ended: a pilot, or some units failed; run the same command without --limit to go on"
    if last["state"] not in ("running", "stopping"):
        return f"stopped: {last['state']}"
    silent = now - last["at"]
    if silent > SILENT_AFTER_S:
        return f"dead: its driver said nothing for {format_seconds(silent)}; run the same command to go on"
    return str(last["state"])


def count_left(run: RunFolder, corpus: Folder, product: Product) -> int:
    """Count the units that the newest driver set out to decide and that are not, or failed."""
    tally = tally_run(run.folder, corpus, product)
    return int(run.read_driver(run.newest_driver())["units"]) - tally.num_units + tally.outcomes()["failed"]


def summarise_run(run: RunFolder, corpus: Folder, product: Product, total_units: int) -> dict[str, Any]:
    """Collect the figures of a run for a manifest or a program."""
    tally = tally_run(run.folder, corpus, product)
    states = run.read_states()
    return {
        "units": total_units,
        "decided": tally.num_units,
        "outcomes": dict(tally.outcomes()),
        "draws": dict(tally.draws),
        "tokens": dict(tally.tokens),
        "accepted_by": dict(tally.accepted_by),
        "errors": dict(tally.errors.most_common(20)),
        "engine_seconds": sum(state.get("engine_s", 0.0) for state in states.values()),
        "seconds": sum(state.get("seconds", 0.0) for state in states.values()),
        "tally": tally.to_json(),
    }
