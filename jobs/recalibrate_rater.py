"""annotations/ -> annotations/: recalibrate a rater by isotonic regression on one split, as a rater of its own.

python -m jobs.recalibrate_rater CONFIG.toml [--section.key=value ...]

annotations --map--> counts of (rating, target label) --> a monotone map a dimension --map--> annotations. Samples
nothing; measure_agreement takes the run folder among its raters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from judgetrace.accounting import Tally, add_tallies, tally_ratings
from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.ledger import encode_shard
from judgetrace.recalibration import COUNTED, FitCounts, MonotoneMap, count_pairs, fit_maps, recalibrate
from judgetrace.recalibration_config import RecalibrateRaterConfig
from judgetrace.recalibration_inputs import RecalibrationInputs, find_inputs
from judgetrace.run_folder import RunFolder
from judgetrace.session import connect_ray
from judgetrace.storage import Folder
from judgetrace.tasks import run_tasks
from judgetrace.versions import list_versions


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status."""
    config = load_config(RecalibrateRaterConfig, "recalibrate_rater", arguments)
    console = open_console()
    inputs = find_inputs(config)
    run, contract = RunFolder(Folder(config.run)), inputs.contract(config)
    run.check_earlier_contract(contract)
    if config.dry_run:
        console.print_json(config.model_dump_json())
        console.print(f"{len(inputs.shards):,} shards; {inputs.rater_id} on {', '.join(inputs.splits)}", markup=False)
        return 0
    if run.has_manifest():
        console.print(f"run {config.run}: is complete; nothing to do", soft_wrap=True, markup=False)
        return 0
    with connect_ray(config.cluster):
        maps = fit_maps(count_shards(inputs, config), config.fit_split, inputs.splits, config.min_items)
        # Only now: a run that can't be fitted binds its folder to nothing.
        run.check_contract(contract)
        tally = write_shards(inputs, config, maps, run.folder / "annotations")
    run.folder.write_json("manifest.json", describe(config, inputs, maps, tally))
    print_maps(console, maps, inputs)
    console.print(", ".join(f"{count:,} {outcome}" for outcome, count in sorted(tally.outcomes().items())))
    print_place(console, f"Annotations of {inputs.rater_id}", f"{config.run}/annotations")
    return 0


def count_shards(inputs: RecalibrationInputs, config: RecalibrateRaterConfig) -> FitCounts:
    """Count what the maps are fitted on, a task for each shard."""
    annotations, scales, fit_split = inputs.annotations, inputs.scales, config.fit_split

    def count(_: int, name: str) -> FitCounts:
        return count_pairs(annotations.read_table(name, list(COUNTED)), fit_split, scales)

    counts = FitCounts()
    for part in run_tasks("count", count, inputs.shards, wait_s=config.cluster.wait_s):
        counts.add(part)
    return counts


def write_shards(
    inputs: RecalibrationInputs, config: RecalibrateRaterConfig, maps: dict[str, MonotoneMap], output: Folder
) -> Tally:
    """Write the recalibrated shards, a task for each; a shard without a row of the wanted splits has no file."""

    def write(_: int, name: str) -> Tally:
        table = inputs.annotations.read_table(name)
        rows = recalibrate(table, maps, inputs.scales, inputs.rater_id, inputs.splits)
        tally = tally_ratings(rows)
        if len(rows):
            output.write_atomic(name, encode_shard(rows, tally))
        return tally

    return add_tallies(run_tasks("recalibrate", write, inputs.shards, wait_s=config.cluster.wait_s))


def describe(
    config: RecalibrateRaterConfig, inputs: RecalibrationInputs, maps: dict[str, MonotoneMap], tally: Tally
) -> dict[str, Any]:
    """Describe the run for its manifest."""
    return {
        "job": "recalibrate_rater",
        "config": config.model_dump(mode="json"),
        "contract": inputs.contract(config),
        "inputs": {"contract": inputs.source_contract, "fingerprint": inputs.source_fingerprint},
        "fit": {dimension: fitted.to_json() for dimension, fitted in maps.items()},
        "units": tally.num_units,
        "outcomes": dict(tally.outcomes()),
        "tally": tally.to_json(),
        "versions": list_versions(),
    }


def print_maps(console: Console, maps: dict[str, MonotoneMap], inputs: RecalibrationInputs) -> None:
    """Print what each map makes of the levels."""
    for dimension, fitted in maps.items():
        scale = inputs.scales.of(dimension)
        assert scale is not None
        mapped = zip(scale.values, fitted.apply(np.array(scale.numbers)), strict=True)
        levels = ", ".join(f"{level} -> {number:.2f}" for level, number in mapped)
        name = f" ({dimension})" if dimension else ""
        console.print(f"Map{name}, fitted on {fitted.num_items:,} items: {levels}", markup=False)


if __name__ == "__main__":
    run_job(main)
