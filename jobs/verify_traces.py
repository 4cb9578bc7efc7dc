"""traces/ -> verifications/: let a second model recover the rating from each accepted trace, its rating stripped.

python -m jobs.verify_traces CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from typing import Any

from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.dry_run import print_dry_run
from judgetrace.fingerprints import check_model
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import RunInputs
from judgetrace.session import connect_ray
from judgetrace.traces import check_trace_runs
from judgetrace.unit_job import UnitJob, run_units
from judgetrace.verification_config import VerifyTracesConfig
from judgetrace.verification_report import print_verification_summary


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0 complete, 2 unusable input, 3 ended early and can be continued."""
    config = load_config(VerifyTracesConfig, "verify_traces", arguments)
    console = open_console()
    inputs = RunInputs(config.corpus, config.guideline, config.prompt.template, "recover_rating.jinja")
    traces = check_trace_runs("traces", [config.traces], inputs.corpus_id)
    fingerprint = check_model(config.model, config.endpoint)
    if config.dry_run:
        print_dry_run(console, config, inputs)
        return 0

    def show(run: RunFolder, summary: dict[str, Any]) -> None:
        print_verification_summary(console, summary)
        console.print()
        print_place(console, "Verifications", f"{run.folder.url}/verifications")

    with connect_ray(config.cluster) as started_here:
        job = UnitJob("verify_traces", config, inputs, config.decider(), fingerprint, "recovered", {"traces": traces})
        return run_units(console, job, started_here, show)


if __name__ == "__main__":
    run_job(main)
