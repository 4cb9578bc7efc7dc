"""Tell how a run of infer_traces stands, from its files alone: running, stopped, dead or complete, and what it has.

python -m jobs.status RUN [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rich.console import Console

from judgetrace.config import UserError, run_job
from judgetrace.run_folder import RunFolder
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder
from judgetrace.trace_report import describe_state, print_summary, summarise_run


def main(arguments: list[str]) -> int:
    """Print the status; returns 0, or 2 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="the run folder; local path, s3:// or any fsspec URL")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    status, summary, scale, max_draws = read_status(RunFolder(Folder(options.run)))
    if options.json:
        print(json.dumps(status | {k: v for k, v in summary.items() if k != "tally"}))
        return 0
    console = Console(highlight=False)
    console.print(f"[bold]{options.run}[/]: {status['state']}", soft_wrap=True)
    console.print(f"driver {status['driver']}: {status['host']}, process {status['pid']}, started {status['started']}")
    print_summary(console, RunFolder(Folder(options.run)), summary, scale, max_draws)
    return 0


def read_status(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any], ScaleConfig, int]:
    """Read state, figures, scale and draws per unit of a run. Raises UserError where there is none."""
    newest = run.newest_driver()
    if newest < 0:
        raise UserError(f"{run.folder.url}: no run there (no drivers/); expected the `run` folder of infer_traces")
    driver = run.read_driver(newest)
    state, last = describe_state(run, time.time())
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver["started_at"]))
    status = {"state": state, "driver": newest, "host": driver["host"], "pid": driver["pid"], "started": started}
    status |= {key: last[key] for key in ("at", "states", "draws_in_flight") if key in last}
    summary = summarise_run(run, Folder(driver["corpus"]), driver["units"])
    return status, summary, ScaleConfig.model_validate(driver["scale"]), driver["max_draws"]


if __name__ == "__main__":
    run_job(main)
