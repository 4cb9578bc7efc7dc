"""A pilot of infer_traces -> plan.json, plan.md: what the whole run would take, and what would limit it.

python -m jobs.plan_run CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from jobs import infer_traces
from judgetrace.config import UserError, load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.planning.config import PlanRunConfig
from judgetrace.planning.forecast import Forecaster, list_warnings
from judgetrace.planning.pilot import choose_pilot_units, read_pilot
from judgetrace.planning.report import collect_json, describe_basis, print_plan, write_markdown
from judgetrace.storage import Folder
from judgetrace.trace_config import InferTracesConfig


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status: 0, or 2 for unusable input."""
    config = load_config(PlanRunConfig, "plan_run", arguments)
    console = open_console()
    pilot = read_pilot(config.pilot or run_pilot(config))
    forecaster = Forecaster(pilot, config)
    scenarios = [forecaster.forecast(rows, replicas) for rows in config.rows for replicas in config.replicas]
    basis, warnings = describe_basis(pilot, forecaster, config), list_warnings(pilot, forecaster)
    currency, output = config.prices.currency, Folder(config.output)
    print_plan(console, scenarios, currency, basis, warnings)
    output.write_atomic("plan.md", write_markdown(scenarios, currency, basis, warnings).encode())
    output.write_json("plan.json", collect_json(scenarios, config, basis, warnings))
    console.print()
    print_place(console, "Plan", f"{output.url}/plan.md")
    return 0


def run_pilot(config: PlanRunConfig) -> str:
    """Run the pilot; returns its run folder. Raises UserError where it ended early."""
    pilot = load_config(InferTracesConfig, "infer_traces", [str(config.pilot_config)])
    num_units = choose_pilot_units(config.pilot_units, pilot.engine)
    if infer_traces.main([str(config.pilot_config), f"--limit={num_units}"]):
        raise UserError(f"pilot_config = {config.pilot_config}: the pilot ended early; see above, and run this again")
    return pilot.run


if __name__ == "__main__":
    run_job(main)
