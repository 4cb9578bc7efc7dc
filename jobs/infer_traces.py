"""items/ -> traces/: sample thinking traces with ratings, keep the trace whose rating matches the human label.

python -m jobs.infer_traces CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from typing import Any

from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.dry_run import print_dry_run
from judgetrace.fingerprints import check_model
from judgetrace.prompts import check_variables
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import RunInputs
from judgetrace.session import connect_ray
from judgetrace.trace_config import InferTracesConfig
from judgetrace.trace_report import print_trace_summary, print_traces
from judgetrace.traces import check_new_draws, check_trace_runs
from judgetrace.unit_job import UnitJob, run_units


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0 complete, 2 unusable input, 3 ended early and can be continued."""
    config = load_config(InferTracesConfig, "infer_traces", arguments)
    console = open_console()
    inputs = RunInputs(config.corpus, config.guideline, config.prompt.template)
    after = check_trace_runs("after", config.after, inputs.corpus_id)
    check_variables(inputs.template, severity=config.prompt.severity is not None, hint=config.hint.enabled)
    fingerprint = check_model(config.model, config.endpoint)
    job = UnitJob("infer_traces", config, inputs, config.decider(), fingerprint, "accepted", {"after": after})
    check_new_draws(job.contract(), config.after)
    if config.dry_run:
        print_dry_run(console, config, inputs)
        return 0

    def show(run: RunFolder, summary: dict[str, Any]) -> None:
        print_traces(console, run)
        print_trace_summary(console, summary, inputs.scale, config.sampling.max_draws)
        console.print()
        print_place(console, "Traces", f"{run.folder.url}/traces")

    with connect_ray(config.cluster) as started_here:
        return run_units(console, job, started_here, show)


if __name__ == "__main__":
    run_job(main)
