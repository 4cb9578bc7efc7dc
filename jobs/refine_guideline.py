"""traces/ + guideline -> guideline.md: write clearer guidelines from traces, and return one only if raters do better.

python -m jobs.refine_guideline CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from judgetrace.config import load_config, run_job
from judgetrace.console import open_console
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.dry_run import print_dry_run
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.run import refine
from judgetrace.run_folder import RunFolder
from judgetrace.session import connect_ray
from judgetrace.storage import Folder


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0 complete, 2 unusable input, 3 ended early and can be continued."""
    config = load_config(RefineGuidelineConfig, "refine_guideline", arguments)
    console = open_console()
    inputs = RefineInputs(config)
    if config.dry_run:
        RunFolder(Folder(config.run)).check_earlier_contract(inputs.contract())
        print_dry_run(console, inputs)
        return 0
    with connect_ray(config.cluster) as started_here:
        return refine(console, inputs, started_here)


if __name__ == "__main__":
    run_job(main)
