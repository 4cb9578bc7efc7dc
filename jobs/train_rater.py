"""traces/ -> rater/: fine-tune an open model on thinking traces with Ray Train and DeepSpeed.

python -m jobs.train_rater CONFIG.toml [--section.key=value ...]
"""

from __future__ import annotations

from judgetrace.config import UserError, load_config, run_job
from judgetrace.console import open_console
from judgetrace.run_folder import RunFolder
from judgetrace.session import connect_ray
from judgetrace.stop_signals import ending_at_once
from judgetrace.storage import Folder
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.dry_run import print_dry_run
from judgetrace.training.inputs import TrainInputs
from judgetrace.training.outcome import describe_data, describe_training, print_complete, print_outcome
from judgetrace.training.run import (
    check_cluster,
    claim_run,
    make_rater,
    release_run,
    run_training,
    survey_traces,
    tidy_checkpoints,
    write_manifest,
)

GOES_ON = "The same command goes on, from the newest checkpoint where one was saved."


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status, 0.

    Raises UserError for unusable input, for what needs a hand, and for a signal.
    """
    config = load_config(TrainRaterConfig, "train_rater", arguments)
    console = open_console()
    inputs = TrainInputs(config)
    if config.dry_run:
        RunFolder(Folder(config.run)).check_earlier_contract(inputs.contract())
        print_dry_run(console, inputs)
        return 0
    with connect_ray(config.cluster) as started_here, ending_at_once(GOES_ON):
        check_cluster(config, started_here)
        driver = claim_run(inputs)
        if RunFolder(Folder(config.run)).has_manifest():
            print_complete(console, config)
            return 0
        try:
            survey = survey_traces(inputs)
            plan = inputs.plan(survey)
        except UserError:
            release_run(inputs, driver)
            raise
        tidy_checkpoints(console, inputs)
        trained = run_training(console, inputs, survey, plan, driver)
        files = make_rater(inputs, survey, trained, plan)
    summary = {"data": describe_data(survey), "training": describe_training(trained, plan)}
    write_manifest(inputs, summary, files)
    print_outcome(console, config, trained)
    return 0


if __name__ == "__main__":
    run_job(main)
