"""Tell how a run of infer_traces or rate_items stands, and what it has so far, from its files alone.

python -m jobs.status RUN [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rich.console import Console

from judgetrace.config import UserError, run_job
from judgetrace.products import PRODUCTS
from judgetrace.rating_report import print_rating_summary
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state, summarise_run
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder
from judgetrace.trace_report import print_trace_summary


def main(arguments: list[str]) -> int:
    """Print the status; returns 0, or 2 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="the run folder; local path, s3:// or any fsspec URL")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    run = RunFolder(Folder(options.run))
    status, summary, driver = read_status(run)
    if options.json:
        print(json.dumps(status | {k: v for k, v in summary.items() if k != "tally"}))
        return 0
    console = Console(highlight=False)
    console.print(f"[bold]{options.run}[/] ({status['job']}): {status['state']}", soft_wrap=True)
    console.print(f"driver {status['driver']}: {status['host']}, process {status['pid']}, started {status['started']}")
    scale = ScaleConfig.model_validate(driver["scale"])
    if driver["product"] == "traces":
        print_trace_summary(console, summary, scale, driver["max_draws"])
    else:
        print_rating_summary(console, summary, scale)
    return 0


def read_status(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read state, figures and what the newest driver left of a run. Raises UserError where there is none."""
    newest = run.newest_driver()
    if newest < 0:
        raise UserError(f"{run.folder.url}: no run there (no drivers/); expected the `run` folder of a job")
    driver = run.read_driver(newest)
    state, last = describe_state(run, time.time())
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver["started_at"]))
    status = {"job": driver["job"], "state": state, "driver": newest, "host": driver["host"], "pid": driver["pid"]}
    status |= {"started": started} | {key: last[key] for key in ("at", "states", "draws_in_flight") if key in last}
    summary = summarise_run(run, Folder(driver["corpus"]), PRODUCTS[driver["product"]], driver["units"])
    return status, summary, driver


if __name__ == "__main__":
    run_job(main)
