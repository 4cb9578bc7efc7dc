"""One training worker: stream its share of each step, learn, validate, save. Runs in Ray Train's worker processes."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from judgetrace.config import UserError
from judgetrace.cpu_threads import choose_threads, count_cpus
from judgetrace.engine import ModelConfig
from judgetrace.model_store import is_folder
from judgetrace.parsing import ThinkingConfig
from judgetrace.run_folder import Fence, RunFolder
from judgetrace.storage import Folder, StoreError
from judgetrace.training.batches import MicroBatch, lay_out
from judgetrace.training.board import ask_fault, tell_fault
from judgetrace.training.build_lock import StaleBuildLockError, extensions_root, list_extensions, wait_for_build_locks
from judgetrace.training.checkpoint_index import keep_index
from judgetrace.training.checkpoints import (
    STATE,
    check_parts,
    convert_state,
    count_workers,
    explain_load_failure,
    save_progress,
    save_state,
)
from judgetrace.training.config import LoraConfig, TrainingConfig, ValidationConfig
from judgetrace.training.curves import write_curves
from judgetrace.training.deepspeed_config import complete_config, zero_stage
from judgetrace.training.deepspeed_engine import make_engine, share_step
from judgetrace.training.encoding import make_encoder
from judgetrace.training.faults import (
    VALIDATION_ADVICE,
    TrainingFaultError,
    explaining_memory,
    is_disk_full,
    is_lost_peer,
    is_out_of_memory,
)
from judgetrace.training.feed import Example, FeedSpec, WorkerFeed
from judgetrace.training.loss import LevelTarget
from judgetrace.training.order import cut_micro_batches
from judgetrace.training.progress import Progress
from judgetrace.training.standing import Fault, name_fault, write_fault
from judgetrace.training.validation import Validator, measure_ratings


@dataclass(frozen=True)
class TrainSpec:
    """All that a worker needs to know; can be pickled."""

    feed: FeedSpec
    driver: int
    model: ModelConfig
    adapter: LoraConfig | None
    training: TrainingConfig
    validation: ValidationConfig
    thinking: ThinkingConfig
    deepspeed: Mapping[str, Any]
    on_gpu: bool
    num_steps: int
    labels: tuple[tuple[str, str], ...]
    """(dimension, rating) by the label's number."""
    weights: tuple[float, ...]
    """By label."""
    items: tuple[Mapping[str, Any], ...]
    """Of the validation split."""


def train(config: Mapping[str, Any]) -> None:
    """Train to the end; Ray Train calls it in every worker, anew after a failure.

    config  {"spec": TrainSpec, "board": a handle of board.Board}

    A fault that trying again would not mend is told before it is raised; the workers that are started in place of these
    find it, and end.
    """
    spec: TrainSpec = config["spec"]
    run = Folder(spec.feed.run)
    if run.exists(name_fault(spec.driver)) or ask_fault(config["board"]) is not None:
        return
    try:
        with explaining_memory():
            TrainingWorker(spec, config["board"]).run()
    except (TrainingFaultError, StaleBuildLockError, UserError) as error:
        fault = Fault.of(error)
        tell_fault(config["board"], fault)
        # The run folder keeps it for jobs.status, where it has room for it.
        with suppress(OSError, StoreError):
            write_fault(run, spec.driver, fault)
        raise


class TrainingWorker:
    """One worker of Ray Train's group."""

    def __init__(self, spec: TrainSpec, board: Any):
        import ray.train

        _set_environment(spec)
        self._board, self._run_folder = board, Folder(spec.feed.run)
        self._fence = Fence(RunFolder(self._run_folder), spec.driver)
        self._spec, self._train = spec, ray.train
        context = ray.train.get_context()
        self._rank, self._world = context.get_world_rank(), context.get_world_size()
        if not spec.on_gpu:
            share_cpus(context.get_local_world_size())
        self._feed = WorkerFeed(spec.feed, self._rank, self._world)
        self._encoder = make_encoder(spec.feed.encoding)
        self._progress = Progress()
        self._checkpoint = ray.train.get_checkpoint()
        self._is_saved = self._checkpoint is not None
        self._passes = share_step(spec.feed.order, self._world, spec.training.micro_batch)
        targets = self._level_targets() if spec.training.ordinal_loss else ()
        config = complete_config(
            spec.deepspeed,
            micro_batch=self._passes.micro_batch,
            accumulated=self._passes.accumulated,
            max_grad_norm=spec.training.max_grad_norm,
            on_gpu=spec.on_gpu,
            universal=self._was_saved_by_others(),
        )
        self._engine = self._make_engine(config, targets)
        self._device = self._engine.device
        self._validator = Validator(
            self._encoder,
            spec.thinking,
            self._encoder.stop_ids,
            self._encoder.pad_id,
            spec.validation.max_new_tokens,
            shares_prefix=self._engine.module.shares_prefix,
        )

    def _make_engine(self, config: Mapping[str, Any], targets: Sequence[LevelTarget]) -> Any:
        spec = self._spec
        try:
            return make_engine(
                spec.model, spec.adapter, spec.training, config=config, targets=targets, on_gpu=spec.on_gpu
            )
        except UserError:
            raise
        except Exception as error:
            if is_lost_peer(error) or is_out_of_memory(error):
                raise
            raise TrainingFaultError(
                f"model.path = {spec.model.path}: no engine can be made of it, [lora] and the config in `deepspeed`: "
                f"{type(error).__name__}: {error}\nMend what this names, and run again. {self._tell_kept()}"
            ) from error

    def _tell_kept(self) -> str:
        return "The last checkpoint is intact." if self._is_saved else "Nothing was saved yet."

    def _was_saved_by_others(self) -> bool:
        """Whether the newest checkpoint was saved by another number of workers."""
        if self._checkpoint is None:
            return False
        with self._checkpoint.as_directory() as name:
            return bool(count_workers(Path(name)) != self._world)

    def _level_targets(self) -> list[LevelTarget]:
        targets = []
        for dimension, rating in self._spec.labels:
            scale = self._encoder.scale_of(dimension)
            targets.append(LevelTarget(self._encoder.grow_tree(scale), scale.values.index(rating)))
        return targets

    def run(self) -> None:
        """Go on from the newest checkpoint, to the end."""
        self._restore()
        # Models are loaded for use: dropout is off then, and activations are kept instead of computed again.
        self._engine.train()
        every, last = self._spec.validation.every_steps, self._spec.num_steps
        if self._progress.step == 0 and self._spec.items:
            # The untuned base: no checkpoint can be called better than nothing without it.
            self._progress.history.append(_untrained_row())
            self._validate()
        for examples in self._feed.steps(self._progress.step, last):
            if self._has_stalled():
                break
            self._learn(examples)
            if self._progress.step % every == 0 or self._progress.step == last:
                self._save(self._validate() if self._spec.items else {"score": float(self._progress.step)})

    def _has_stalled(self) -> bool:
        """Whether to stop early: right after a validation, which is when the step was saved."""
        patience, warmup = self._spec.validation.patience_steps, self._spec.training.warmup_steps
        is_validated = self._progress.step % self._spec.validation.every_steps == 0
        return is_validated and self._progress.has_stalled(patience, warmup)

    def _learn(self, examples: Sequence[Example]) -> None:
        started = time.monotonic()
        # Dropout is a function of step and worker, so that a resumed run drops what an undisturbed one would.
        torch.manual_seed((self._spec.training.seed * 1_000_003 + self._progress.step) * 65_537 + self._rank)
        micros, padded = self._lay_out(examples)
        real = sum(len(example.tokens) for example in examples)
        counts = torch.tensor(
            [sum(m.num_answer_tokens for m in micros), sum(float(m.weights.sum()) for m in micros), real, padded],
            dtype=torch.float64,
            device=self._device,
        )
        dist.all_reduce(counts)
        answer_tokens, weight, all_real, all_padded = counts.tolist()
        learning_rate = self._engine.get_lr()[0]
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        # DeepSpeed takes the mean over micro-batches and workers; this makes it the mean over the step's tokens.
        passes = self._passes.accumulated * self._world
        for micro in micros:
            cross_entropy, squared_error = self._engine(micro, self._encoder.pad_id)
            loss = cross_entropy / answer_tokens + self._spec.training.ordinal_loss * squared_error / weight
            self._engine.backward(loss * passes)
            self._engine.step()
            sums += torch.stack([cross_entropy.detach(), squared_error.detach()]).double()
        dist.all_reduce(sums)
        mean, squared = float(sums[0]) / answer_tokens, float(sums[1]) / weight
        grad_norm = float(self._engine.get_global_grad_norm() or 0.0)
        self._check_finite(mean, grad_norm)
        self._progress.step += 1
        self._progress.history.append(
            {
                "step": self._progress.step,
                "epoch": self._progress.step / self._feed.steps_per_epoch,
                "loss": mean,
                "squared_error": squared if self._spec.training.ordinal_loss else None,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "num_tokens": int(all_real),
                "padding_share": 1 - all_real / all_padded,
                "seconds": time.monotonic() - started,
                "at": time.time(),
                "validation": None,
            }
        )
        self._tell()

    def _lay_out(self, examples: Sequence[Example]) -> tuple[list[MicroBatch], int]:
        """Lay a step's examples out in micro-batches; returns also the tokens that they have with padding."""
        cuts = cut_micro_batches([len(example.tokens) for example in examples], self._passes.micro_batch)
        cuts += [[]] * (self._passes.accumulated - len(cuts))
        pad, weights = self._encoder.pad_id, self._spec.weights
        micros = [lay_out([examples[n] for n in cut], weights, pad, self._device) for cut in cuts]
        padded = sum(m.tokens.numel() for m, cut in zip(micros, cuts, strict=True) if cut)
        return micros, padded

    def _check_finite(self, loss: float, grad_norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        raise TrainingFaultError(
            f"the loss is {loss} and the gradient norm {grad_norm} at step {self._progress.step + 1}: training has "
            "diverged\nLower training.learning_rate or raise training.warmup_steps, and give another run folder. "
            + self._tell_kept()
        )

    def _validate(self) -> dict[str, float | None]:
        """Rate this worker's part of the validation items, and measure those of all; returns the metrics."""
        spec = self._spec
        own = spec.items[self._rank :: self._world]
        self._engine.eval()
        synced = zero_stage(spec.deepspeed) == 3
        # Workers that share a model's parts go through it equally often: those with an item less ask one again.
        is_short = len(own) < math.ceil(len(spec.items) / self._world)
        asked = (*own, *spec.items[: int(synced and is_short)])
        with explaining_memory(VALIDATION_ADVICE):
            ratings = self._validator.rate(self._engine.module.model, asked, synced, spec.validation.batch)
        self._engine.train()
        gathered: list[Any] = [None] * self._world
        dist.all_gather_object(gathered, ratings[: len(own)])
        everything = [rating for part in gathered for rating in part]
        scales = {row["dimension"]: self._encoder.scale_of(row["dimension"]) for row in spec.items}
        metrics = measure_ratings(everything, scales, spec.validation.rating)
        self._progress.note_validation(metrics)
        self._tell()
        return metrics

    def _tell(self) -> None:
        """Tell the driver the newest row."""
        if self._rank == 0:
            self._board.note.remote(dict(self._progress.history[-1]))

    def _save(self, metrics: Mapping[str, float | None]) -> None:
        """Save a checkpoint of all workers; Ray Train makes it visible when every worker's part is stored."""
        self._fence.check()
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="judgetrace-checkpoint-"))
            save_state(self._engine, folder)
            if self._rank == 0:
                save_progress(self._progress, self._world, folder)
                write_curves(self._progress, self._run_folder)
                keep_index(self._run_folder)
            row = self._progress.history[-1]
            shown = {"step": self._progress.step, "loss": row["loss"], **metrics}
            self._train.report(shown, checkpoint=self._train.Checkpoint.from_directory(str(folder)))
            self._is_saved = True
        except Exception as error:
            temporary = Path(tempfile.gettempdir())
            if not is_disk_full(error, folder or temporary):
                raise
            raise TrainingFaultError(
                f"the checkpoint of step {self._progress.step} could not be saved: {error}\nMake room (in "
                f"{temporary} of this machine, or in the run folder), and run the same command again. "
                + self._tell_kept()
            ) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _restore(self) -> None:
        if self._checkpoint is None:
            return
        with self._checkpoint.as_directory() as name:
            try:
                check_parts(Path(name))
                self._load_state(Path(name))
            except UserError:
                raise
            except Exception as error:
                explained = explain_load_failure(error, count_workers(Path(name)), self._world)
                if explained is None:
                    raise
                raise TrainingFaultError(explained) from error
            self._progress = Progress.load(Path(name))

    def _load_state(self, checkpoint: Path) -> None:
        if self._engine.load_universal_checkpoint():
            self._load_converted(checkpoint)
        else:
            self._engine.load_checkpoint(str(checkpoint), tag=STATE, load_module_strict=False)

    def _load_converted(self, checkpoint: Path) -> None:
        """Load the state that another number of workers saved; every worker converts it for itself."""
        converted = convert_state(checkpoint, STATE)
        try:
            self._engine.load_checkpoint(str(converted), tag=STATE, load_module_strict=False)
        finally:
            shutil.rmtree(converted, ignore_errors=True)


def _untrained_row() -> dict[str, Any]:
    at = {"at": time.time()}
    names = ("loss", "squared_error", "learning_rate", "grad_norm", "padding_share")
    return {"step": 0, "epoch": 0.0, **dict.fromkeys(names), "num_tokens": 0, "seconds": 0.0, **at, "validation": None}


def share_cpus(num_workers: int) -> None:
    """Compute with this machine's CPUs, shared with so many workers in all: Ray would have each take its num_cpus."""
    torch.set_num_threads(choose_threads(count_cpus(), 0, num_workers))


def _set_environment(spec: TrainSpec) -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ["HF_HUB_OFFLINE"] = "1" if is_folder(spec.model.path) else os.environ.get("HF_HUB_OFFLINE", "0")
    if not spec.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    wait_for_build_locks(extensions_root(), list_extensions())
