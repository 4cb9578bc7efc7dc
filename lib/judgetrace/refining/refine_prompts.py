"""Render what a generator is asked: critiques of a trace, a guideline from parts, one guideline from several drafts.

Traces, critiques and drafts come from items in the end, so none of them can carry control tags into a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from judgetrace.config import UserError
from judgetrace.prompts import neutralise
from judgetrace.refining.candidate_config import CandidatesConfig

TemplateName = Literal["critiques", "instructions", "rubric", "merge"]
TEMPLATE_NAMES: tuple[TemplateName, ...] = ("critiques", "instructions", "rubric", "merge")
_CODEBOOK_TAG = re.compile(r"<(/?\s*codebook\s*)>", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A text that a guideline is written from, and the level that it argues for; "" for a draft."""

    level: str
    text: str


def load_templates(config: CandidatesConfig) -> dict[TemplateName, str]:
    """Read the four templates. Raises UserError."""
    return {name: _load_template(name, getattr(config, f"{name}_template")) for name in TEMPLATE_NAMES}


def _load_template(name: str, path: str | None) -> str:
    if path is None:
        return (files("judgetrace") / "templates" / f"refine_{name}.jinja").read_text(encoding="utf-8")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        key = f"candidates.{name}_template"
        raise UserError(f"{key} = {path}: can't be read ({error}); expected a UTF-8 Jinja file") from error


class RefinePrompts:
    """Renders the messages of calls about one guideline."""

    def __init__(
        self,
        templates: dict[TemplateName, str],
        dimension: str,
        levels: Sequence[str],
        system: str | None = None,
        special_tokens: Sequence[str] = (),
    ):
        """Compile the templates. Raises UserError for one that is no Jinja."""
        environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self._templates = {name: _compile(environment, name, text) for name, text in templates.items()}
        self._about: dict[str, Any] = {"dimension": dimension, "levels": list(levels)}
        self._system, self._special_tokens = system, tuple(special_tokens)

    def clean(self, text: str) -> str:
        """Rewrite what would act as a control tag, a tag of ours or a special token."""
        return neutralise(_CODEBOOK_TAG.sub("‹\\1›", text), self._special_tokens).strip()

    def ask_critiques(self, guideline: str, level: str, trace: str) -> list[dict[str, str]]:
        """Ask what speaks for the level of a trace."""
        return self._render("critiques", guideline=guideline, level=level, trace=self.clean(trace))

    def ask_guideline(
        self, name: TemplateName, guideline: str, parts: Sequence[Part], kind: str | None = None
    ) -> list[dict[str, str]]:
        """Ask for what is to be written from parts; by the template "merge", of a `kind`, from drafts."""
        cleaned = [{"level": part.level, "text": self.clean(part.text)} for part in parts]
        more: dict[str, Any] = {} if kind is None else {"kind": kind}
        return self._render(name, guideline=guideline, parts=cleaned, **more)

    def render_bare(self) -> str:
        """Render all prompts without guideline, levels and parts: what is left are words of our own."""
        blank: dict[str, Any] = {"guideline": "", "level": "", "trace": "", "levels": [""] * len(self._about["levels"])}
        blank["parts"] = [{"level": "", "text": ""}] * 2
        kinds = [(name, "") for name in TEMPLATE_NAMES[:-1]] + [("merge", "instructions"), ("merge", "rubric")]
        messages = [message for name, kind in kinds for message in self._render(name, kind=kind, **blank)]
        return "\n".join(message["content"] for message in messages)

    def _render(self, name: TemplateName, **variables: Any) -> list[dict[str, str]]:
        try:
            text = self._templates[name].render({**self._about, **variables})
        except TemplateError as error:
            known = ", ".join(sorted({*self._about, *variables}))
            raise UserError(f"candidates.{name}_template: {error}; known variables: {known}") from error
        system = [{"role": "system", "content": self._system}] if self._system else []
        return [*system, {"role": "user", "content": text.strip()}]


def _compile(environment: SandboxedEnvironment, name: str, text: str) -> Template:
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise UserError(f"candidates.{name}_template: {error}; expected Jinja") from error
