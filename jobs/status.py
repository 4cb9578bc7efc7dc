"""Tell how the run of a job stands, and what it has so far, from its files alone.

python -m jobs.status RUN [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from judgetrace.accounting import Tally
from judgetrace.config import UserError, run_job
from judgetrace.console import open_console
from judgetrace.gate import GateConfig, summarise_gate
from judgetrace.products import PRODUCTS
from judgetrace.rating_report import print_rating_summary
from judgetrace.refining import standing as refining
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state, summarise_run
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder
from judgetrace.study.run import JOB as STUDY_JOB
from judgetrace.study.showing import print_stages, read_study_standing
from judgetrace.trace_report import print_trace_summary
from judgetrace.training.standing import print_standing, read_standing
from judgetrace.verification_report import print_verification_summary


def main(arguments: list[str]) -> int:
    """Print the status; returns 0, or 2 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="the run folder; local path, s3:// or any fsspec URL")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    run = RunFolder(Folder(options.run))
    status, driver = read_status(run, time.time())
    if options.json:
        print(json.dumps({key: value for key, value in status.items() if key != "tally"}))
        return 0
    console = open_console()
    console.print(Text.assemble((options.run, "bold"), f" ({status['job']}): {status['state']}"), soft_wrap=True)
    if driver:
        console.print(
            f"driver {status['driver']}: {status['host']}, process {status['pid']}, started {status['started']}",
            markup=False,
        )
    print_summary(console, status, driver)
    return 0


def read_status(run: RunFolder, now: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read state and figures of a run, and what its newest driver left ({} where the job has none).

    Raises UserError where there is none.
    """
    newest = run.newest_driver()
    if newest < 0:
        return read_complete(run), {}
    driver = run.read_driver(newest)
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver["started_at"]))
    status = {"job": driver["job"], "state": "", "driver": newest, "host": driver["host"], "pid": driver["pid"]}
    status |= {"started": started}
    if driver["job"] == "train_rater":
        return status | read_standing(run, now), driver
    if driver["job"] == STUDY_JOB:
        return status | read_study_standing(run, now), driver
    if driver["job"] == "refine_guideline":
        return status | refining.read_standing(run, now), driver
    state, last = describe_state(run, now)
    status |= {"state": state} | {key: last[key] for key in ("at", "states", "draws_in_flight") if key in last}
    status |= summarise_run(run, Folder(driver["corpus"]), PRODUCTS[driver["product"]], driver["units"])
    if driver["product"] == "traces":
        gate = GateConfig.model_validate(driver["config"].get("gate", {}))
        status["gate"] = summarise_gate(Tally.from_json(status["tally"]).units, gate)
    return status, driver


def read_complete(run: RunFolder) -> dict[str, Any]:
    """Read the status of a job that takes no turns and leaves a manifest in the end. Raises UserError without one."""
    if not run.has_manifest():
        raise UserError(
            f"{run.folder.url}: no run there (no drivers/, no manifest.json); expected the `run` folder of a job"
        )
    manifest = run.folder.read_json("manifest.json")
    status = {"job": manifest.get("job", "unknown job"), "state": "complete"}
    return status | {key: manifest[key] for key in ("units", "outcomes") if key in manifest}


def print_summary(console: Console, status: dict[str, Any], driver: dict[str, Any]) -> None:
    """Print what a run has so far."""
    if not driver:
        if "outcomes" in status:
            console.print(", ".join(f"{count:,} {outcome}" for outcome, count in sorted(status["outcomes"].items())))
    elif driver["job"] == "train_rater":
        print_standing(console, status)
    elif driver["job"] == STUDY_JOB:
        print_stages(console, status["stages"])
    elif driver["job"] == "refine_guideline":
        refining.print_standing(console, status)
    elif driver["product"] == "traces":
        scale = ScaleConfig.model_validate(driver["scale"])
        print_trace_summary(console, status, scale, driver["max_draws"])
    elif driver["product"] == "verifications":
        print_verification_summary(console, status)
    else:
        print_rating_summary(console, status, ScaleConfig.model_validate(driver["scale"]))


if __name__ == "__main__":
    run_job(main)
