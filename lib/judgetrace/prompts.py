"""Render the prompt of a unit: the guideline, the item and the output form; keep the item from posing as any of them.

Knows no tokenizer but through a function that counts tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, Field

from judgetrace.config import STRICT, UserError
from judgetrace.scale import Scale

SHORTENED_MARK = "\n[... shortened ...]\n"
_CONTROL_TAG = re.compile(r"<(/?\s*(?:rating|think|thinking|reasoning)\s*)>", re.IGNORECASE)


class PromptConfig(BaseModel):
    """How a unit becomes a prompt."""

    model_config = STRICT

    template: str | None = Field(
        default=None,
        description="A Jinja file with the variables guideline, dimension, fields (name -> text), levels, "
        "thinks (whether to reason first), severity (strict, lenient or none), hint (the target label to argue for, or "
        "none), and for verify_traces trace; the one that judgetrace ships by default.",
    )
    severity: Literal["strict", "lenient"] | None = Field(
        default=None,
        description="Ask for a strict or a lenient rater: a sentence in the default template. For a further proposal, "
        "where a generator's own severity keeps it from some levels.",
    )
    system: str | None = Field(default=None, description="A system message, for models that want one.")
    on_overlong: Literal["quarantine", "shorten"] = Field(
        default="quarantine",
        description="An item whose prompt does not fit the model: quarantine the unit, or shorten its longest field, "
        "keeping head and tail around a mark, and say so in the row's column `shortened` (not with an endpoint, whose "
        "server alone counts tokens and says what is too long).",
    )
    chat_template_args: dict[str, object] = Field(
        default_factory=dict, description="Arguments of the model's chat template, as enable_thinking."
    )


def load_template(path: str | None, shipped: str = "rate_item.jinja") -> str:
    """Read a prompt template, by default one that is shipped. Raises UserError."""
    if path is None:
        return (files("judgetrace") / "templates" / shipped).read_text(encoding="utf-8")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt.template = {path}: can't be read ({error}); expected a UTF-8 Jinja file") from error


def check_variables(template: str, **wanted: bool) -> None:
    """Raise UserError where a template ignores a variable that the config sets: it would change no prompt."""
    try:
        used = meta.find_undeclared_variables(SandboxedEnvironment().parse(template))
    except TemplateError as error:
        raise UserError(f"prompt template: {error}; expected Jinja") from error
    for name in sorted(name for name, is_set in wanted.items() if is_set and name not in used):
        raise UserError(
            f"prompt.template: does not use `{name}`, so that setting it changes no prompt\nuse it in the template (as "
            "lib/judgetrace/templates/rate_item.jinja does), or leave the setting out"
        )


class PromptRenderer:
    """Renders the messages of units from one template."""

    def __init__(
        self,
        template: str,
        system: str | None = None,
        special_tokens: Sequence[str] = (),
        *,
        thinks: bool = True,
        severity: str | None = None,
    ):
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False, trim_blocks=True)
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise UserError(f"prompt template: {error}; expected Jinja") from error
        self._system, self._thinks, self._severity = system, thinks, severity
        self._special_tokens = tuple(special_tokens)

    def render(
        self,
        fields: Mapping[str, str],
        guideline: str,
        dimension: str,
        scale: Scale,
        told: Mapping[str, str] | None = None,
    ) -> list[dict[str, str]]:
        """Render the chat messages of one unit; item text can't carry tags or special tokens into the prompt.

        Nor can the guideline carry special tokens; it may speak of tags.

        `told` is what the prompt tells beside the item: hint, trace. Raises UserError where the template names an
        unknown variable.
        """
        safe = {name: neutralise(text, self._special_tokens) for name, text in fields.items()}
        try:
            text = self._template.render(
                # A model may have written it.
                guideline=split_tokens(guideline.strip(), self._special_tokens),
                dimension=dimension,
                fields=safe,
                levels=list(scale.values),
                thinks=self._thinks,
                severity=self._severity,
                **{"hint": None}
                | {name: neutralise(text, self._special_tokens) for name, text in (told or {}).items()},
            )
        except TemplateError as error:
            known = [
                "guideline",
                "dimension",
                "fields",
                "levels",
                "thinks",
                "severity",
                *sorted({"hint", *(told or {})}),
            ]
            raise UserError(f"prompt template: {error}; known variables: {', '.join(known)}") from error
        system = [{"role": "system", "content": self._system}] if self._system else []
        return [*system, {"role": "user", "content": text.strip()}]


def neutralise(text: str, special_tokens: Sequence[str] = ()) -> str:
    """Rewrite what would act as a control tag or special token, so that a person still reads the same.

    "<rating>5</rating>" becomes "‹rating›5‹/rating›"; a special token is split by a zero-width space; half a surrogate
    pair, which no tokenizer takes, becomes "?".
    """
    text = text.encode("utf-8", "replace").decode()
    return split_tokens(_CONTROL_TAG.sub("‹\\1›", text), special_tokens)


def split_tokens(text: str, special_tokens: Sequence[str]) -> str:
    """Split special tokens by a zero-width space, so that a person still reads the same."""
    found = _compile_tokens(tuple(special_tokens))
    if found is None:
        return text
    parts, begun = [], 0
    # One may lie within another, or begin in it: the search goes on behind the first character.
    while match := found.search(text, begun):
        parts.append(text[begun : match.start() + 1])
        begun = match.start() + 1
    return "\u200b".join([*parts, text[begun:]])


@lru_cache(maxsize=16)
def _compile_tokens(special_tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    """Make one pattern of all tokens: some models have thousands, and every text is searched for each."""
    known = "|".join(re.escape(token) for token in special_tokens if token)
    return re.compile(known) if known else None


def shorten_fields(
    fields: Mapping[str, str], count_tokens: Callable[[Mapping[str, str]], int], max_tokens: int
) -> dict[str, str] | None:
    """Shorten the longest field until the prompt fits: its head and tail stay, a mark stands between them.

    Returns None where the prompt does not fit even without that field's text. Takes about ten token counts.
    """
    longest = max(fields, key=lambda name: len(fields[name]))
    text = fields[longest]

    def cut(keep: int) -> dict[str, str]:
        head, tail = (keep + 1) // 2, keep // 2
        return {**fields, longest: text[:head] + SHORTENED_MARK + (text[-tail:] if tail else "")}

    if count_tokens(cut(0)) > max_tokens:
        return None
    low, high = 0, len(text)
    while high - low > max(16, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if count_tokens(cut(middle)) <= max_tokens else (low, middle)
    return cut(low)
