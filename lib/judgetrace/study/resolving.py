"""A stage's config with all references resolved and checked, and what of it the stage's outcome depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from judgetrace.config import UserError, describe_validation_error
from judgetrace.scale import ScaleConfig
from judgetrace.stripping import RULES_VERSION
from judgetrace.study.kinds import KINDS
from judgetrace.study.named_files import fingerprint_files
from judgetrace.study.refs import describe, is_there, list_refs, resolve
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
    made = {key: describe(value) for key, value in flatten(stage.wires) if any(list_refs(value))}
    given = {key: value for key, value in flatten(config.model_dump(mode="json")) if not _is_wired(key, made)}
    counted = {key: value for key, value in (given | made).items() if kind.counts(key)}
    if stage.kind == "verify":
        # Verdicts by other rules, of a stage that is complete, must not be taken for verdicts by these.
        counted["stripping.version"] = RULES_VERSION
    return counted | fingerprint_files(config, made)


def _is_wired(key: str, wires: Mapping[str, Any]) -> bool:
    return any(key == wire or key.startswith(f"{wire}.") for wire in wires)


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
