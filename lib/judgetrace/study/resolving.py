"""A stage's config with all references resolved and checked, and what of it the stage's outcome depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from judgetrace.config import UserError, describe_validation_error
from judgetrace.engine import ModelConfig
from judgetrace.fingerprints import check_model, hash_text
from judgetrace.guideline import GuidelineConfig
from judgetrace.prompts import PromptRenderer, load_template
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, list_source_files
from judgetrace.storage import open_filesystem
from judgetrace.study.kinds import KINDS
from judgetrace.study.refs import describe, is_there, resolve
from judgetrace.study.sections import flatten, merge, nest, wrap_lists
from judgetrace.study.stages import Stage


@dataclass(frozen=True)
class Resolved:
    """A stage's config."""

    values: dict[str, Any]
    """What goes into the job's TOML."""
    config: BaseModel
    """The same, validated, with all defaults."""


def resolve_stage(stage: Stage, folders: Mapping[str, str]) -> Resolved:
    """Resolve and validate a stage's config. Raises UserError that names the stage and each faulty field."""
    model = KINDS[stage.kind].load_config()
    wired = [nest(key, resolve(value, folders)) for key, value in stage.wires.items() if is_there(value, folders)]
    values = wrap_lists(merge(stage.config, *wired), model)
    try:
        return Resolved(values, model.model_validate(values))
    except ValidationError as error:
        raise UserError(describe_validation_error(error, model, f"stage {stage.name}")) from error


def count_config(stage: Stage, config: BaseModel) -> dict[str, Any]:
    """Collect what of a config a stage's outcome depends on: dotted key -> value, and the texts and files it names.

    What other stages make is spelled by their names: whether that changed is told by what they made. Raises UserError
    for files that can't be read.
    """
    kind = KINDS[stage.kind]
    resolved = config.model_dump(mode="json")
    counted = {key: value for key, value in flatten(resolved) if kind.counts(key) and not _is_wired(key, stage.wires)}
    counted |= {key: describe(value) for key, value in stage.wires.items()}
    return counted | _fingerprint_files(stage, config)


def _is_wired(key: str, wires: Mapping[str, Any]) -> bool:
    return any(key == wire or key.startswith(f"{wire}.") for wire in wires)


def _fingerprint_files(stage: Stage, config: BaseModel) -> dict[str, str]:
    """Fingerprint the texts, models and source files that a config names."""
    found: dict[str, str] = {}
    prompt = getattr(config, "prompt", None)
    if prompt is not None:
        template = load_template(prompt.template)
        PromptRenderer(template)
        found["prompt.template (its text)"] = hash_text(template)
    model = getattr(config, "model", None)
    if isinstance(model, ModelConfig) and not _names_model(stage):
        found["model (its files)"] = check_model(model, getattr(config, "endpoint", None))
    guideline = getattr(config, "guideline", None)
    if isinstance(guideline, GuidelineConfig):
        found["guideline.path (its text)"] = hash_text(_read_text("guideline.path", guideline.path))
    elif isinstance(guideline, str) and "guideline" not in stage.wires:
        found["guideline (its text)"] = hash_text(_read_text("guideline", guideline))
    source = getattr(config, "source", None)
    if isinstance(source, SourceConfig):
        files = [f"{file.url} {file.fingerprint}" for file in list_source_files(source)]
        found["source.paths (their files)"] = hash_text("\n".join(sorted(files)))
    return found


def _names_model(stage: Stage) -> bool:
    return any(key in stage.wires for key in ("model.path", "model.adapter"))


def _read_text(key: str, path: str) -> str:
    filesystem, inside = open_filesystem(path)
    try:
        return str(filesystem.cat_file(inside).decode())
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{key} = {path}: can't be read: {error}") from error


@dataclass(frozen=True)
class CheckedStage:
    """A stage whose config has no fault."""

    stage: Stage
    counted: dict[str, Any]


def check_stages(stages: Sequence[Stage], folders: Mapping[str, str]) -> list[CheckedStage]:
    """Check all stages' configs before anything starts. Raises UserError with every stage's faults."""
    checked, faults, scale = [], [], None
    for stage in stages:
        try:
            config = resolve_stage(stage, folders).config
            scale = getattr(config, "scale", None) if stage.kind == "prepare" else scale
            if isinstance(scale, ScaleConfig):
                _check_scale(stage, config, scale)
            checked.append(CheckedStage(stage, count_config(stage, config)))
        except UserError as error:
            text = str(error)
            faults.append(text if text.startswith("stage ") else f"stage {stage.name}: {text}")
    if faults:
        raise UserError("nothing was started: the study can't run as it is\n" + "\n".join(faults))
    return checked


def _check_scale(stage: Stage, config: BaseModel, scale: ScaleConfig) -> None:
    """Raise UserError for what the corpus's scale does not bear."""
    from judgetrace.rating_config import RateItemsConfig, check_scales

    nominal = scale.list_nominal()
    if isinstance(config, RateItemsConfig):
        check_scales(config.decoding, scale)
    if nominal and stage.kind == "recalibrate":
        raise UserError(
            f"the scale of {nominal[:5]} is nominal, without an order that a map could keep; drop the control"
        )
    training: Any = getattr(config, "training", None)
    if nominal and getattr(training, "ordinal_loss", None):
        raise UserError(f"training.ordinal_loss: the scale of {nominal[:5]} is nominal and has no expected rating")
