"""items/ -> annotations/: let a rater label a corpus, with its own guideline or another.

python -m jobs.rate_items CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from typing import Any

from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.dry_run import print_dry_run
from judgetrace.fingerprints import check_model
from judgetrace.prompts import check_variables
from judgetrace.rating_config import RateItemsConfig, check_scales
from judgetrace.rating_report import print_rating_summary, print_ratings
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import RunInputs
from judgetrace.session import connect_ray
from judgetrace.unit_job import UnitJob, run_units


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0 complete, 2 unusable input, 3 ended early and can be continued."""
    config = load_config(RateItemsConfig, "rate_items", arguments)
    console = open_console()
    inputs = RunInputs(config.corpus, config.guideline, config.prompt.template)
    check_variables(inputs.template, severity=config.prompt.severity is not None)
    inputs.check_dimensions(config.dimensions)
    fingerprint = check_model(config.model, config.endpoint)
    check_scales(config.decoding, inputs.scale)
    if config.dry_run:
        print_dry_run(console, config, inputs)
        return 0

    def show(run: RunFolder, summary: dict[str, Any]) -> None:
        print_ratings(console, run)
        print_rating_summary(console, summary, inputs.scale)
        console.print()
        print_place(console, f"Annotations of {config.rater}", f"{run.folder.url}/annotations")

    with connect_ray(config.cluster) as started_here:
        job = UnitJob("rate_items", config, inputs, config.decider(), fingerprint, hit="rated")
        return run_units(console, job, started_here, show)


if __name__ == "__main__":
    run_job(main)
