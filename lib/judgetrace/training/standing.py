"""How a run of train_rater stands, from its files alone. Imports neither Ray nor torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from judgetrace.config import UserError
from judgetrace.live import format_seconds
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder

METRICS_FILE = "metrics.parquet"


def read_standing(run: RunFolder, now: float) -> dict[str, Any]:
    """Read how a run with at least one driver stands.

    state            for a person; "complete" once the rater is there
    step, loss       of the last step that was saved; null where none was
    saved_at         when it was made, in seconds since 1970
    validation       {step, and metrics as in validation.measure_ratings} of the last validation, or null
    best             likewise, of the best so far; of equals the newest, as the rater is chosen
    rater_step       the step whose weights the rater has; null before there is one
    fault            why the newest driver's workers gave up, or null
    """
    driver, folder = run.newest_driver(), run.folder
    fault = read_fault(folder, driver)
    rows = folder.read_table(METRICS_FILE).to_pylist() if folder.exists(METRICS_FILE) else []
    validations = [{"step": row["step"], **json.loads(row["validation"])} for row in rows if row["validation"]]
    last = rows[-1] if rows else {}
    found = {
        "step": last.get("step"),
        "loss": last.get("loss"),
        "saved_at": last.get("at"),
        "validation": validations[-1] if validations else None,
        "best": max(validations, key=lambda one: (one["score"], one["step"]), default=None),
        "rater_step": None,
        "fault": None if fault is None else fault.text,
    }
    if run.has_manifest():
        return (
            {"state": "complete"} | found | {"rater_step": folder.read_json("manifest.json")["training"]["best_step"]}
        )
    return {"state": _describe_state(found, run.read_driver(driver)["started_at"], now), **found}


@dataclass(frozen=True)
class Fault:
    """Why a driver's workers gave up."""

    text: str
    status: int = UserError.exit_status
    """Exit status of the job."""

    @classmethod
    def of(cls, error: Exception) -> Fault:
        """Take it from an error that no further try would mend."""
        return cls(str(error), getattr(error, "exit_status", UserError.exit_status))

    def to_error(self) -> UserError:
        """Return what the job ends with."""
        error = UserError(self.text)
        error.exit_status = self.status
        return error


def name_fault(driver: int) -> str:
    """Name the file in which a driver's workers say why they gave up."""
    return f"drivers/fault-{driver:05d}.json"


def write_fault(run: Folder, driver: int, fault: Fault) -> None:
    """Write why a driver's workers gave up."""
    run.write_json(name_fault(driver), {"fault": fault.text, "status": fault.status})


def read_fault(run: Folder, driver: int) -> Fault | None:
    """Read why a driver's workers gave up; None where they did not."""
    name = name_fault(driver)
    if not run.exists(name):
        return None
    found = run.read_json(name)
    return Fault(found["fault"], found.get("status", UserError.exit_status))


def _describe_state(found: dict[str, Any], started_at: float, now: float) -> str:
    if found["fault"] is not None:
        return "stopped by a fault"
    if found["saved_at"] is None:
        return f"not complete: begun {format_seconds(now - started_at)} ago, nothing is saved yet"
    saved = f"not complete: last saved {format_seconds(now - found['saved_at'])} ago"
    return saved if found["saved_at"] >= started_at else f"{saved}, by an earlier driver"


def print_standing(console: Console, standing: dict[str, Any]) -> None:
    """Print what read_standing found."""
    if standing["step"] is not None:
        loss = "" if standing["loss"] is None else f", loss {standing['loss']:.3f}"
        console.print(f"step {standing['step']:,}{loss}")
    for name, title in (("validation", "last validation"), ("best", "best validation")):
        if standing[name] is not None:
            metrics = {key: value for key, value in standing[name].items() if key != "step" and value is not None}
            shown = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            console.print(f"{title}, step {standing[name]['step']:,}: {shown}", soft_wrap=True)
    if standing["rater_step"] is not None:
        console.print(f"rater: the weights of step {standing['rater_step']:,}")
    if standing["fault"] is not None:
        console.print(f"fault: {standing['fault']}", markup=False, soft_wrap=True)
