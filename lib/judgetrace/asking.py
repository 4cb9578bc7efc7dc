"""Make the prompts of units, many at a time, and find out which units can't be asked. Knows no sampling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.config import UserError
from judgetrace.engine import Engine, Prompt
from judgetrace.guideline import Guideline
from judgetrace.prompts import PromptConfig, PromptRenderer, shorten_fields
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import UnitKey, unit_key


@dataclass(frozen=True)
class AskedUnit:
    """A unit whose prompt is ready, or that can't be asked: `refused` says why."""

    key: UnitKey
    accepted_labels: tuple[str, ...]
    annotator_labels: tuple[str, ...]
    scale: Scale
    prompt: Prompt
    shortened: bool = False
    refused: str | None = None
    skipped: str | None = None
    """The outcome of a unit that is not to be asked at all, though it could be."""
    facts: Any = None
    """What the job's decider wants to know of the unit again when it decides; see Told."""


@dataclass(frozen=True)
class Told:
    """What a job tells of a unit beside its item."""

    variables: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the prompt template."""
    facts: Any = None
    """Kept with the unit, for whoever decides it."""
    skipped: str | None = None
    """The outcome of a unit that there is nothing to ask about."""


NOTHING_TOLD = Told()


class UnitAsker:
    """Asks units of one corpus with one engine. Its methods may run on any thread."""

    def __init__(
        self,
        engine: Engine,
        config: PromptConfig,
        template: str,
        guideline: Guideline,
        scales: ScaleConfig,
        *,
        max_output_tokens: int,
        thinks: bool = True,
        tell: Callable[[Mapping[str, Any], Scale], Told] = lambda row, scale: NOTHING_TOLD,
    ):
        self._engine, self._config, self._guideline, self._scales = engine, config, guideline, scales
        self._tell = tell
        self._renderer = PromptRenderer(
            template, config.system, engine.special_tokens, thinks=thinks, severity=config.severity
        )
        limit = engine.max_model_tokens
        self._room = None if limit is None else limit - max_output_tokens

    def ask(self, rows: Sequence[Mapping[str, Any]]) -> list[AskedUnit]:
        """Make the prompts of units (rows of schema.ITEMS), in their order; they are tokenized in one call."""
        told = [self._tell(row, self._scale(row)) for row in rows]
        messages = [self._try_to_render(row, about) for row, about in zip(rows, told, strict=True)]
        prompts = iter(self._engine.make_prompts([some for some in messages if not isinstance(some, str)]))
        return [
            self._leave_out(row, about, some) if isinstance(some, str) else self._admit(row, next(prompts), about)
            for row, some, about in zip(rows, messages, told, strict=True)
        ]

    def _try_to_render(self, row: Mapping[str, Any], told: Told) -> list[dict[str, str]] | str:
        """Render a unit's messages, or say why there are none. A row that lacks a field must not end the job."""
        if told.skipped:
            return told.skipped
        try:
            return self._render(row, json.loads(row["fields"]), told)
        except UserError as error:
            return str(error)

    def _render(self, row: Mapping[str, Any], fields: Mapping[str, str], told: Told) -> list[dict[str, str]]:
        """Render a unit's messages. Raises UserError where the template or the guideline can't."""
        guideline = self._guideline.guideline_for(row["dimension"])
        if guideline is None:
            raise UserError("the guideline has no section for the dimension")
        return self._renderer.render(fields, guideline, row["dimension"], self._scale(row), told.variables)

    def _scale(self, row: Mapping[str, Any]) -> Scale:
        scale = self._scales.of(row["dimension"])
        assert scale is not None, f"prepare_corpus lets no unit of dimension {row['dimension']!r} through"
        return scale

    def _admit(self, row: Mapping[str, Any], prompt: Prompt, told: Told) -> AskedUnit:
        # An estimate may be far off, as for code or other languages: an item that fits must not be lost to it.
        if self._room is None or prompt.is_estimated or prompt.num_tokens <= self._room:
            return self._make(row, prompt, told)
        found = f"the prompt has {prompt.num_tokens} tokens, the model takes {self._room} besides its output"
        shorter = None
        if self._config.on_overlong == "shorten":
            fields = json.loads(row["fields"])
            shorter = shorten_fields(fields, lambda some: self._make_prompt(row, some, told).num_tokens, self._room)
        if shorter is None:
            return self._make(row, Prompt(0), told, refused=found)
        return self._make(row, self._make_prompt(row, shorter, told), told, shortened=True)

    def _make_prompt(self, row: Mapping[str, Any], fields: Mapping[str, str], told: Told) -> Prompt:
        return self._engine.make_prompts([self._render(row, fields, told)])[0]

    def _leave_out(self, row: Mapping[str, Any], told: Told, why: str) -> AskedUnit:
        if told.skipped:
            return self._make(row, Prompt(0), told, skipped=told.skipped)
        return self._make(row, Prompt(0), told, refused=why)

    def _make(self, row: Mapping[str, Any], prompt: Prompt, told: Told, **more: Any) -> AskedUnit:
        labels = tuple(row["accepted_labels"]), tuple(row["annotator_labels"])
        return AskedUnit(unit_key(row), *labels, self._scale(row), prompt, facts=told.facts, **more)
