"""What a pilot tells: its units' draws, how fast its engine was, how it was set up. Reads a run folder of infer_traces.

The first units of a corpus are a sample of it: shards are filled in an order that is a hash of item ids.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from judgetrace.accounting import add_tallies
from judgetrace.config import UserError
from judgetrace.corpus import read_manifests
from judgetrace.engine import EngineConfig
from judgetrace.ledger import current_shard_files, read_tally
from judgetrace.planning.engine_model import EngineRun, run_engine
from judgetrace.products import TRACE_PRODUCT
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state, tally_run
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig
from judgetrace.unit_run import share_shards

MIN_UNITS = 30
UNITS_PER_SLOT = 2
"""A pilot of fewer hardly has its slots full."""
MAX_UNITS = 20_000
_COLUMNS = ["item_id", "outcome", "num_needed", "draws"]


def choose_pilot_units(wanted: int, engine: EngineConfig) -> int:
    """Choose how many units a pilot takes: as many as are wanted, and enough to fill the engines it begins with."""
    return max(wanted, UNITS_PER_SLOT * engine.slots * engine.min_replicas)


@dataclass(frozen=True)
class PilotUnit:
    """A decided unit."""

    item_id: str
    outcome: str
    output_tokens: tuple[int, ...]
    """Of the draws that the outcome depends on, by index."""
    prompt_tokens: int
    """Of the same draws, together."""


@dataclass(frozen=True)
class PilotCall:
    """One of the calls that a pilot was sampled in."""

    engine_s: float
    """Seconds with a draw in flight, added over engines."""
    seconds: float
    """From the start of the pool to its end."""
    num_engines: int
    """Engines that drew."""

    @property
    def overhead_s(self) -> float:
        """What it took besides sampling: start, last commits, end."""
        return max(0.0, self.seconds - self.engine_s / self.num_engines)


@dataclass(frozen=True)
class Pilot:
    """A pilot's units, and what it ran on."""

    units: tuple[PilotUnit, ...]
    spare_tokens: tuple[int, ...]
    """Output tokens of all finished draws."""
    calls: tuple[PilotCall, ...]
    config: InferTracesConfig
    units_per_row: float
    units_per_shard: int

    @property
    def engine_s(self) -> float:
        """Seconds with a draw in flight, added over engines and calls."""
        return sum(call.engine_s for call in self.calls)

    @property
    def seconds(self) -> float:
        """Of all calls, from the start of the pool to its end."""
        return sum(call.seconds for call in self.calls)

    @property
    def num_engines(self) -> int:
        """Engines that drew, added over calls: an engine fills its slots, and runs out of work, in each call anew."""
        return sum(call.num_engines for call in self.calls)

    @property
    def one_at_a_time(self) -> bool:
        """Whether draws are sampled one after the other."""
        return self.config.sampling.mode == "sequential"

    @property
    def overhead_s(self) -> float:
        """What a call takes besides sampling."""
        return sum(call.overhead_s for call in self.calls) / len(self.calls)

    def lengths(self) -> list[list[float]]:
        """Return the output tokens of each unit's needed draws, at least one each: a draw takes a while."""
        return [[max(1.0, float(n)) for n in unit.output_tokens] for unit in self.units]

    def share_shards(self, slots: int, replicas: int, num_shards: int, units_per_shard: int) -> tuple[int, int]:
        """Return how many shards feed an engine of `slots` at once, and how many it holds, as a run has it."""
        engine = self.config.engine.model_copy(update={"slots": slots, "max_replicas": replicas})
        return share_shards(engine, num_shards, units_per_shard)

    def slot_tokens_per_s(self) -> float:
        """Compute the tokens a second of one engine with all slots full.

        The pilot's own tokens over its engine seconds would be too few: its first and last draws left slots idle, and
        draws that ran ahead at its end were in vain. So the pilot is run again in the model, whose clock counts tokens
        of one slot, and the rate is the one at which the model takes the pilot's engine seconds.
        """
        lengths, slots, tokens = self.lengths(), self.config.engine.slots, 0.0
        for engine in range(self.num_engines):
            own = lengths[engine :: self.num_engines]
            tokens += self.run_engine(own, slots, seed=engine).end
        return tokens / self.engine_s * slots

    def run_engine(self, lengths: list[list[float]], slots: int, seed: int) -> EngineRun:
        """Run units of these lengths on one engine of the model."""
        return run_engine(
            lengths,
            slots=slots,
            max_draws=self.config.sampling.max_draws,
            one_at_a_time=self.one_at_a_time,
            spare=self.spare_tokens or (1,),
            seed=seed,
        )


def read_pilot(url: str) -> Pilot:
    """Read a pilot that has ended. Raises UserError for what is none."""
    run = RunFolder(Folder(url))
    newest = run.newest_driver()
    driver = run.read_driver(newest) if newest >= 0 else {}
    if driver.get("job") != "infer_traces":
        found = f"a run of {driver['job']}" if driver else "no run"
        raise UserError(f"pilot = {url}: {found}; expected the run folder of infer_traces, as --limit 200 leaves it")
    _check_ended(run, driver)
    names = list(current_shard_files(run.folder / "traces").values())
    units, spare = read_units(run.folder / "traces", names)
    calls = _read_calls(run, len(names))
    if not MIN_UNITS <= len(units) <= MAX_UNITS or not calls:
        engine_s = sum(call.engine_s for call in calls)
        raise UserError(
            f"pilot = {url}: {len(units):,} decided units in {engine_s:.1f} s of engine time; expected {MIN_UNITS} to "
            f"{MAX_UNITS:,} units of a run that has ended: python -m jobs.infer_traces CONFIG.toml --limit 200"
        )
    manifests, config = read_manifests(Folder(driver["corpus"])), InferTracesConfig.model_validate(driver["config"])
    share = _share_of_splits(manifests, config.splits)
    return Pilot(
        units=tuple(units),
        spare_tokens=tuple(spare),
        calls=calls,
        config=config,
        units_per_row=share * _count_units_per_row(manifests),
        units_per_shard=max(1, round(share * int(manifests[0]["config"]["shards"]["units_per_shard"]))),
    )


def _share_of_splits(manifests: list[dict[str, Any]], splits: Sequence[str]) -> float:
    """Compute the share of the units that lie in these splits; all of them where none is named."""
    units: Counter[str] = Counter()
    for manifest in manifests:
        units.update(manifest["counts"].get("splits", {}))
    return sum(units[split] for split in splits) / units.total() if splits and units.total() else 1.0


def _count_units_per_row(manifests: list[dict[str, Any]]) -> float:
    """Count the units that a row of the source makes, as a plan is asked for rows."""
    units = sum(shard["units"] for manifest in manifests for shard in manifest["shards"])
    counts = [manifest["counts"] for manifest in manifests]
    # Corpora of earlier versions count no rows but label cells, which are the same but in the wide layout.
    return float(units / max(1, sum(own.get("source_rows", own["rows_in"]) for own in counts)))


def _check_ended(run: RunFolder, driver: dict[str, Any]) -> None:
    """Raise UserError for a run that has not ended, or ended without publishing all that it had decided.

    Its engine seconds are of all its work, its units only those published: the rate would come out too low.
    """
    state, last = describe_state(run, time.time())
    if run.has_manifest():
        return
    if last.get("state") in ("running", "stopping"):
        raise _make_not_ended_error(run, f"the run is {state}")
    traces = run.folder / "traces"
    published = add_tallies(read_tally(traces, name) for name in current_shard_files(traces).values()).num_units
    # A call that finds nothing to do leaves no word.
    if not last and published < driver["units"]:
        raise _make_not_ended_error(run, f"the run is {state}")
    decided = tally_run(run.folder, Folder(driver["corpus"]), TRACE_PRODUCT).num_units
    if published < decided:
        unpublished = f"{decided - published:,} of {decided:,} decided units are not in traces/"
        raise _make_not_ended_error(run, f"the run is {state}, and {unpublished}")


def _make_not_ended_error(run: RunFolder, found: str) -> UserError:
    return UserError(
        f"pilot = {run.folder.url}: {found}\nexpected: a run that has ended and published all that it decided, as its "
        "engine time is that of all its work\nWait for its end, or run its command again until it ends."
    )


def _read_calls(run: RunFolder, num_shards: int) -> tuple[PilotCall, ...]:
    """Read the calls in which something was drawn: one that found all decided tells nothing of engines."""
    return tuple(
        PilotCall(float(state["engine_s"]), float(state.get("seconds", 0.0)), _count_engines(state, num_shards))
        for state in run.read_states().values()
        if state.get("engine_s")
    )


def _count_engines(state: dict[str, Any], num_shards: int) -> int:
    """Count the engines that drew in a call."""
    if "num_engines" in state:
        return max(1, int(state["num_engines"]))
    # Runs of earlier versions tell only which there were at the end, idle ones among them; each works on whole shards.
    return max(1, min(num_shards, int(sum(state.get("states", {}).values()))))


def read_units(traces: Folder, names: list[str]) -> tuple[list[PilotUnit], list[int]]:
    """Read published traces: units, and output tokens of all finished draws; stops beyond MAX_UNITS."""
    units: list[PilotUnit] = []
    spare: list[int] = []
    for name in names:
        for row in traces.read_table(name, _COLUMNS).to_pylist():
            finished = [draw for draw in row["draws"] if draw["reason"] != "cancelled"]
            needed = [draw for draw in finished if draw["index"] < row["num_needed"]]
            spare += [max(1, draw["output_tokens"]) for draw in finished]
            units.append(
                PilotUnit(
                    row["item_id"],
                    row["outcome"],
                    tuple(draw["output_tokens"] for draw in needed),
                    sum(draw["prompt_tokens"] for draw in needed),
                )
            )
        if len(units) > MAX_UNITS:
            break
    return units, spare


def resample_items(units: tuple[PilotUnit, ...], replicates: int, seed: int) -> np.ndarray:
    """Draw bootstrap weights (replicates, units): items are drawn whole, since the units of one item are alike."""
    _, item = np.unique([unit.item_id for unit in units], return_inverse=True)
    num_items = int(item.max()) + 1
    chance = np.random.default_rng(seed)
    counts = chance.multinomial(num_items, np.full(num_items, 1 / num_items), size=replicates)
    weights: np.ndarray = counts[:, item].astype(float)
    return weights
