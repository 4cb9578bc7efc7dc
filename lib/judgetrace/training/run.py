"""The stages of train_rater on a connected Ray: index the traces, train, make the rater's folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from judgetrace.config import UserError
from judgetrace.model_context import read_context
from judgetrace.run_folder import RunFolder
from judgetrace.session import check_resources, wait_for_room
from judgetrace.stop_signals import keeping_handlers
from judgetrace.storage import Folder, encode_json
from judgetrace.tasks import run_tasks
from judgetrace.training.board import ask_fault, watch_board
from judgetrace.training.card import write_card
from judgetrace.training.checkpoint_index import CHECKPOINTS, has_checkpoint, mend_index, remove_unfinished
from judgetrace.training.checkpoints import STATE
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.examples import weigh_labels
from judgetrace.training.export import ExportSpec, await_export, describe_base, export_checkpoint
from judgetrace.training.faults import TRAINING_ADVICE
from judgetrace.training.feed import READ_CPUS, FeedSpec
from judgetrace.training.inputs import TrainInputs, TrainPlan
from judgetrace.training.outcome import Trained, describe_corpus, describe_data, describe_training, print_start
from judgetrace.training.progress import Progress
from judgetrace.training.rater_config import write_rating_config
from judgetrace.training.reading import ExampleSurvey, IndexTask, run_index_task, survey_examples, write_usable
from judgetrace.training.standing import read_fault
from judgetrace.training.waiting import allowing_slow_start, needs_of
from judgetrace.training.worker import TrainSpec, train
from judgetrace.versions import list_versions

EXPORT_CPUS = 0.5
UNFINISHED_AFTER_S = 600.0
"""A checkpoint that nobody has written to for so long is not being saved."""


def survey_traces(inputs: TrainInputs) -> ExampleSurvey:
    """Index all shards of traces that are not indexed yet, and sum up."""
    config, folder = inputs.config, Folder(inputs.config.run) / "examples"
    tasks = [
        IndexTask(number, shard, config.run, inputs.reading, inputs.encoding)
        for number, shard in enumerate(inputs.shards)
    ]
    for _ in run_tasks("read traces", run_index_task, tasks, wait_s=config.cluster.wait_s):
        pass
    survey = survey_examples(folder, len(tasks), inputs.reading)
    write_usable(folder, survey.usable)
    return survey


def weigh_examples(config: TrainRaterConfig, survey: ExampleSurvey) -> tuple[float, ...]:
    """Compute the weight of an example by its label's number; all 1 unless data.weights says otherwise.

    Where a rating was accepted for units of several target labels, its weight is the mean of theirs.
    """
    if config.data.weights == "none":
        return (1.0,) * len(survey.labels)
    weights: dict[tuple[str, str], float] = {}
    for dimension in {dimension for dimension, _ in survey.labels}:
        accepted = {label: n for (own, label), n in survey.accepted.items() if own == dimension}
        decided = {label: n for (own, label), n in survey.decided.items() if own == dimension}
        found = weigh_labels(accepted, decided, config.data.weight_cap)
        weights |= {(dimension, label): weight for label, weight in found.items()}
    sums, counts = [0.0] * len(survey.labels), [0] * len(survey.labels)
    for (number, target), count in survey.targets.items():
        sums[number] += count * weights[survey.labels[number][0], target]
        counts[number] += count
    # A label may have lost all of its examples since it got its number.
    return tuple(total / count if count else 1.0 for total, count in zip(sums, counts, strict=True))


def choose_read_cpus(config: TrainRaterConfig) -> float:
    """Choose the CPUs of a task that reads; 0 where elastic workers could take what it waits for."""
    return READ_CPUS if config.workers.max_workers is None else 0.0


def check_cluster(config: TrainRaterConfig, started_here: bool) -> None:
    """Check that a node can hold a worker, and that a Ray that can't grow has room for all and for reading."""
    import ray

    workers = config.workers
    check_resources("train", needs_of(workers), started_here)
    have = ray.cluster_resources().get("CPU", 0.0)
    most = config.most_workers
    reading = choose_read_cpus(config)
    wanted = most * workers.num_cpus + reading
    if started_here and wanted > have:
        raise UserError(
            f"{most} workers of {workers.num_cpus:g} CPU and {reading:g} CPU to read traces are "
            f"{wanted:g} CPU; this machine has {have:g}\nLower workers.num_cpus (it may be a fraction) or the number "
            "of workers."
        )


def run_training(console: Console, inputs: TrainInputs, survey: ExampleSurvey, plan: TrainPlan, driver: int) -> Trained:
    """Train, or go on from the newest checkpoint. Raises UserError for a fault that trying again would not mend."""
    config, run = inputs.config, Folder(inputs.config.run)
    read_cpus = choose_read_cpus(config)
    spec = TrainSpec(
        feed=FeedSpec(config.run, tuple(inputs.shards), inputs.reading, inputs.encoding, inputs.order, read_cpus),
        driver=driver,
        model=config.model,
        adapter=config.adapter,
        training=config.training,
        validation=config.validation,
        thinking=config.thinking.model_copy(update={"format": inputs.encoding.form if config.thinks else "none"}),
        deepspeed=inputs.deepspeed,
        on_gpu=config.workers.num_gpus > 0,
        num_steps=plan.num_steps,
        labels=tuple(survey.labels),
        weights=weigh_examples(config, survey),
        items=tuple(inputs.validation_items()),
    )
    print_start(console, inputs, survey, plan, spec.items)
    count = config.workers.num_workers
    needs = needs_of(config.workers)
    # Without a CPU for reading, workers would wait for their first examples for ever.
    reading = {"CPU": read_cpus} if read_cpus else None
    wait_for_room(f"train_rater with {count} worker(s)", needs, count, config.cluster.wait_s, beside=reading)
    with watch_board(console, config, plan.num_steps, needs) as board:
        result = _fit(config, spec, board)
        fault = read_fault(run, driver) or ask_fault(board)
    if fault is not None:
        raise fault.to_error()
    # Of equals the newest, as Ray Train keeps it.
    best, metrics = max(result.best_checkpoints, key=lambda pair: (pair[1]["score"], pair[1]["step"]))
    with result.checkpoint.as_directory() as name:
        progress = Progress.load(Path(name))
    return Trained(progress, best, metrics)


def _fit(config: TrainRaterConfig, spec: TrainSpec, board: Any) -> Any:
    from ray.train import (
        CheckpointConfig,
        ControllerError,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer

    # Else every worker would look for relative paths in a folder of its own.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    workers, run = config.workers, Folder(config.run)
    count = workers.num_workers if workers.max_workers is None else (workers.num_workers, workers.max_workers)
    trainer = TorchTrainer(
        train,
        train_loop_config={"spec": spec, "board": board},
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker=needs_of(workers),
        ),
        torch_config=TorchConfig(backend="nccl" if spec.on_gpu else "gloo"),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=str(Path(run.path()).resolve()) if run.is_local else run.path(),
            storage_filesystem=None if run.is_local else wrap_filesystem(run),
            # The best and, whatever this number, the newest.
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    try:
        # Ray Train leaves a handler of Ctrl-C behind that does nothing once training has ended.
        with keeping_handlers(), allowing_slow_start(workers):
            return trainer.fit()
    except TrainingFailedError as error:
        fault = read_fault(run, spec.driver) or ask_fault(board)
        if fault is not None:
            raise fault.to_error() from error
        kept = "The last checkpoint is intact" if has_checkpoint(run) else "No checkpoint was saved yet"
        ends = f"{kept}: when its cause is mended, run the same command again."
        if isinstance(error, ControllerError):
            raise UserError(f"Ray Train's controller failed:\n{error}\n{ends}") from error
        raise UserError(
            f"training failed more often than workers.max_failures {workers.max_failures} allows; the last error:\n"
            f"{error}\nA worker that ended without a word of its own may have been ended by the system, for memory. "
            f"{TRAINING_ADVICE}\n{ends}"
        ) from error


def wrap_filesystem(folder: Folder) -> Any:
    """Give a folder's own filesystem to what wants pyarrow's: credentials and endpoints are the same then."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(folder.filesystem))


def make_rater(inputs: TrainInputs, survey: ExampleSurvey, trained: Trained, plan: TrainPlan) -> list[str]:
    """Make RUN/rater of the best checkpoint, on some node; returns the names of its files. Raises UserError."""
    import ray

    config = inputs.config
    base = describe_base(config.model)
    facts = {
        "corpus": describe_corpus(inputs),
        "base": base | {"license": config.output.base_license or base["license"]},
        "config": config.model_dump(mode="json"),
        "data": describe_data(survey),
        "training": describe_training(trained, plan),
        "untuned": trained.progress.find_validation(0),
        "best": trained.best_metrics if trained.progress.find_validation(0) is not None else None,
        "command": write_rating_config(
            config, has_nominal=bool(inputs.corpus.scale.list_nominal()), context=read_context(config.model)
        ),
    }
    texts = (("README.md", write_card(facts)), ("guideline.md", inputs.corpus.guideline))
    spec = ExportSpec(config.run, config.model, config.adapter, config.training.seed, config.output, texts)

    export = ray.remote(num_cpus=EXPORT_CPUS, max_retries=0)(export_checkpoint)
    return await_export(lambda: ray.get(export.remote(spec, trained.best, STATE)), spec)


def write_manifest(inputs: TrainInputs, summary: Mapping[str, Any], files: list[str]) -> None:
    """Write the manifest, last: the run is complete."""
    manifest = {
        "job": "train_rater",
        "config": inputs.config.model_dump(mode="json"),
        "contract": inputs.contract(),
        "versions": list_versions(),
        "rater": files,
        "at": time.time(),
        **summary,
    }
    run = Folder(inputs.config.run)
    # By now whoever drove the run before has long been fenced.
    remove_unfinished(run, time.time())
    run.write_atomic("manifest.json", encode_json(json.loads(json.dumps(manifest))))


def release_run(inputs: TrainInputs, driver: int) -> None:
    """Let go of a folder in which no step was trained, so that the config can be changed as an error advises.

    Not where a newer driver has taken it over: that one may train by now.
    """
    run = Folder(inputs.config.run)
    if RunFolder(run).newest_driver() > driver:
        return
    if not (run / CHECKPOINTS).list_files(recursive=True):
        run.delete(["contract.json", *(f"examples/{name}" for name in (run / "examples").list_files(recursive=True))])


def claim_run(inputs: TrainInputs) -> int:
    """Hold the run's contract against an earlier call's, and take the run over; returns the driver's number."""
    run = RunFolder(Folder(inputs.config.run))
    run.check_store()
    run.check_contract(inputs.contract())
    about = {"job": "train_rater", "config": inputs.config.model_dump(mode="json")}
    return run.claim(time.time(), about)


def tidy_checkpoints(console: Console, inputs: TrainInputs) -> None:
    """Mend Ray's index of the checkpoints, and delete those that earlier calls left unfinished. Raises UserError."""
    run = Folder(inputs.config.run)
    if mend_index(run):
        console.print("The index of the checkpoints was damaged; training goes on from the one before the newest.")
    for name in remove_unfinished(run, time.time() - UNFINISHED_AFTER_S):
        console.print(f"{run.url}/{CHECKPOINTS}/{name} was never complete; it is deleted", soft_wrap=True, markup=False)
