"""Lint a candidate guideline as a model wrote it: a usable text, or the reasons why it is none.

Knows the scale, the names of dimensions, the texts of items and the words of our own prompts; knows no model. What the
original guideline says is never held against a candidate that keeps it. A candidate fails that does not name all
levels, lists them without a word for each, names other dimensions, copies an item, is too long, or says our prompt
again.

Copied text is found by n-grams of words, as benchmarks look for training data: Brown et al., "Language models are
few-shot learners" (2020), appendix C (8 to 13 words).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from judgetrace.config import STRICT
from judgetrace.guideline import normalise_heading
from judgetrace.refining.hollow import describe_bare_levels, describe_echo, list_undescribed
from judgetrace.refining.lint_words import is_named, list_grams, list_words
from judgetrace.scale import Scale

OPEN, CLOSE = "<codebook>", "</codebook>"
_TAG = re.compile(r"</?codebook>", re.IGNORECASE)


class LintConfig(BaseModel):
    """What a candidate guideline may be."""

    model_config = STRICT

    max_chars: int = Field(default=12_000, ge=200, description="Length of a guideline at most, in characters ...")
    max_growth: float = Field(
        default=2.0, ge=1, description="... or, where that is more, this many times the length of the original."
    )
    copied_words: int = Field(
        default=8,
        ge=4,
        description="So many words in a row that an item has, too, and the original has not, are copied. A character "
        "of Chinese or Japanese is a word.",
    )
    allowed_names: tuple[str, ...] = Field(
        default=(),
        description="Other dimensions or sections whose names are everyday words, which a guideline may use.",
    )
    other_names: tuple[str, ...] = Field(
        default=(),
        description="Names of other dimensions, which a guideline must not use, besides those of the corpus and the "
        "sections of its guideline.",
    )
    whole_item_words: int = Field(
        default=5, ge=2, description="An item shorter than copied_words is copied as a whole if it has so many words."
    )
    short_items: int = Field(
        default=5,
        ge=1,
        description="Still shorter items are words that any guideline may use; so many of them that the original has "
        "not are copied.",
    )
    described_words: int = Field(
        default=5,
        ge=0,
        description="What the generator wrote is a bare list of levels, if it names two or more and has fewer "
        "different words than this besides them (than there are levels, where those are fewer). Numbers and what only "
        "introduces a list (rate, level, possible, one of, ...) are not counted. 0 allows bare lists, and levels that "
        "a rubric names only in lists of all levels.",
    )
    echoed_words: int = Field(
        default=5,
        ge=3,
        description="So many words in a row that the generator's prompt has, too, and the original has not, are the "
        "prompt's, as is a whole clause of it. Levels and numbers are not counted.",
    )
    max_echoed: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the words that the generator wrote, but for those of the original, which may be the "
        "prompt's.",
    )


@dataclass(frozen=True)
class LintTask:
    """What a candidate is held against."""

    scale: Scale
    dimension: str
    other_dimensions: Sequence[str]
    """Names that do not belong into a guideline of this one."""
    original: str
    """The guideline that the candidate is to replace."""
    prompt: str = ""
    """What our own prompts say besides guideline, levels and traces."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a candidate."""

    reason: str
    """tags, text_outside, empty, level_missing, level_undescribed, other_dimension, copied, too_long, bare_levels, or
    echoed."""
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Linted:
    """A candidate's text where one can be told from the output, and all that is wrong with it."""

    text: str | None
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether the text may be shown to raters."""
        return self.text is not None and not self.findings


def lint_guideline(output: str, task: LintTask, items: Iterable[str], config: LintConfig) -> Linted:
    """Lint a model's output (without its thinking) against a task and the texts of items, read once.

    `items` are those whose text the model can have seen, in its prompt or through traces and critiques.
    """
    text, findings = extract_guideline(output)
    if text is None:
        return Linted(None, tuple(findings))
    return Linted(text, (*findings, *lint_text(text, task, items, config)))


def lint_text(
    text: str,
    task: LintTask,
    items: Iterable[str],
    config: LintConfig,
    *,
    rubric: str | None = None,
    procedure: str | None = None,
) -> list[Finding]:
    """Lint a guideline's text, whatever its tags were; else as lint_guideline.

    `rubric` and `procedure` are the parts of it that a model wrote; where neither is given, the whole is its rubric.
    What else the text says can't make up for a level that a rubric leaves out.
    """
    if rubric is None and procedure is None:
        rubric = text
    written = [part for part in (rubric, procedure) if part is not None]
    return [
        *find_missing_levels(text if rubric is None else rubric, task.scale),
        *find_undescribed_levels(rubric or "", task.scale, config),
        *find_other_dimensions(text, task, config.allowed_names),
        *find_copied(text, task.original, items, config),
        *find_overlong(text, task.original, config),
        *(finding for part in written for finding in find_hollow(part, task, config)),
    ]


def extract_guideline(output: str) -> tuple[str | None, list[Finding]]:
    """Extract what stands between the tags; None where there is not one pair with something in it.

    Text outside of the tags is a finding: the model did not keep to its task, or ended the guideline too early.
    """
    tags = [match.group().lower() for match in _TAG.finditer(output)]
    if tags != [OPEN, CLOSE]:
        return None, [Finding("tags", f"found {tags[:4]} ({len(tags)} tags), expected one {OPEN} and one {CLOSE}")]
    before, text, after = (part.strip() for part in _TAG.split(output))
    if not text:
        return None, [Finding("empty", f"nothing between {OPEN} and {CLOSE}")]
    outside = " ".join(part for part in (before, after) if part)
    return text, [Finding("text_outside", f"{len(outside)} characters: {outside[:80]!r}")] if outside else []


def find_missing_levels(text: str, scale: Scale) -> list[Finding]:
    """Find levels that the text never names.

    What names a level is `lint_words.is_named`'s to say.
    """
    missing = [level for level in scale.values if not is_named(level, text, scale.values)]
    return [Finding("level_missing", f"{len(missing)} of {len(scale.values)}: {missing[:5]}")] if missing else []


def find_undescribed_levels(rubric: str, scale: Scale, config: LintConfig) -> list[Finding]:
    """Find levels that a rubric names, but only in lists of all levels."""
    found = list_undescribed(rubric, scale.values) if config.described_words else []
    return [Finding("level_undescribed", f"{len(found)} of {len(scale.values)}: {found[:5]}")] if found else []


def choose_other_names(dimension: str, names: Iterable[str]) -> tuple[str, ...]:
    """Choose those of some names that are not the dimension's, sorted; the first spelling of each."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(_normalise(name), name)
    return tuple(found[name] for name in sorted({*found} - {"", _normalise(dimension)}))


def find_other_dimensions(text: str, task: LintTask, allowed: Sequence[str] = ()) -> list[Finding]:
    """Find names of other dimensions that are not `allowed`, where the text has them more often than the original.

    "Narrative Pacing" names "Fluency/Narrative Pacing", too. Case, and blanks around "/", do not matter; "_" is one.
    A name inside of this dimension's own is not counted.
    """
    own, may = _list_names(task.dimension), {_normalise(name) for name in allowed}
    found = sorted(
        other
        for other in set(task.other_dimensions)
        if _normalise(other) not in may
        for name in _list_names(other)
        if name not in own and _count_name(name, text, own) > _count_name(name, task.original, own)
    )
    found = list(dict.fromkeys(found))
    return [Finding("other_dimension", f"{len(found)}: {found[:5]}")] if found else []


def _list_names(dimension: str) -> list[str]:
    """List what a dimension is called: its whole name, and what follows the last "/"."""
    whole = _normalise(dimension)
    return [name for name in dict.fromkeys((whole, whole.rpartition("/")[2])) if name]


def _normalise(text: str) -> str:
    return normalise_heading(text.replace("_", " "))


def _count_name(name: str, text: str, own: list[str]) -> int:
    plain = _normalise(text)
    for longer in own:
        if name in longer:
            plain = re.sub(rf"(?<!\w){re.escape(longer)}(?!\w)", " ", plain)
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", plain))


def find_copied(text: str, original: str, items: Iterable[str], config: LintConfig) -> list[Finding]:
    """Find words in a row that items have, too, and the original has not; case and punctuation do not matter."""
    words, kept = list_words(text), list_words(original)
    sizes = range(1, config.copied_words + 1)
    own = {size: list_grams(words, size) - list_grams(kept, size) for size in sizes}
    shared = {gram for item in items for gram in _find_shared(item, own, config)}
    short = sorted(" ".join(gram) for gram in shared if len(gram) < config.whole_item_words)
    copied = sorted(" ".join(gram) for gram in shared if len(gram) >= config.whole_item_words)
    found = [Finding("copied", f"{len(copied)} runs of words: {copied[:3]}")] if copied else []
    if len(short) >= config.short_items:
        found.append(Finding("copied", f"{len(short)} short items: {short[:5]}"))
    return found


def _find_shared(item: str, own: dict[int, set[tuple[str, ...]]], config: LintConfig) -> Iterator[tuple[str, ...]]:
    words = list_words(item)
    size = min(len(words), config.copied_words)
    if own.get(size):
        yield from (gram for gram in zip(*(words[start:] for start in range(size)), strict=False) if gram in own[size])


def find_overlong(text: str, original: str, config: LintConfig) -> list[Finding]:
    """Find a text that is longer than allowed."""
    limit = max(config.max_chars, int(config.max_growth * len(original)))
    return [Finding("too_long", f"{len(text)} characters, at most {limit}")] if len(text) > limit else []


def find_hollow(part: str, task: LintTask, config: LintConfig) -> list[Finding]:
    """Find what says nothing of its own in a part that a model wrote: bare levels, words of our prompt."""
    levels = task.scale.values
    bare = describe_bare_levels(part, levels, config.described_words)
    echo = describe_echo(part, task.prompt, task.original, levels, run=config.echoed_words, max_share=config.max_echoed)
    found = {"bare_levels": bare, "echoed": echo}
    return [Finding(reason, detail) for reason, detail in found.items() if detail is not None]
