"""The guideline that annotators worked by: one text, or a preamble and a section for each dimension.

Sections are Markdown headings of the second level. Knows nothing of corpora or prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

_HEADING = re.compile(r"##[ \t]+(?P<title>.*?)[ \t]*#*\s*$")
_FENCE = re.compile(r"\s*(```|~~~)")


class GuidelineConfig(BaseModel):
    """What annotators were told."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="A UTF-8 text file, by local path or URL.")
    by_section: bool = Field(
        default=False,
        description="The rater of a dimension sees the text before the first '## ' heading and the section whose "
        "heading is the dimension's name (case, and blanks around '/', do not matter). Else everyone sees everything.",
    )


@dataclass(frozen=True)
class Guideline:
    """A guideline, cut into sections where `by_section`; section keys are normalised headings."""

    text: str
    by_section: bool = False
    preamble: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)

    def guideline_for(self, dimension: str) -> str | None:
        """Return what the rater of a dimension is told; None where no section names the dimension."""
        if not self.by_section:
            return self.text
        section = self.sections.get(normalise_heading(dimension))
        return None if section is None else "\n\n".join(part for part in (self.preamble, section) if part)


def normalise_heading(text: str) -> str:
    """Make headings and dimension names comparable: "Fluency / Pacing" is "fluency/pacing"."""
    return re.sub(r"\s*/\s*", "/", re.sub(r"\s+", " ", text.strip())).casefold()


def parse_guideline(text: str, by_section: bool = False) -> Guideline:
    """Parse a guideline; headings inside fenced code do not start a section.

    Raises ValueError for an empty text, and by section for no or repeated headings.
    """
    if not text.strip():
        raise ValueError("the guideline is empty")
    if not by_section:
        return Guideline(text)
    parts = _cut_at_headings(text)
    titles = [normalise_heading(title) for title, _ in parts[1:]]
    if not titles:
        raise ValueError("the guideline has no '## ' heading; add a section for each dimension, or drop by_section")
    repeated = sorted({title for title in titles if titles.count(title) > 1})
    if repeated:
        raise ValueError(f"the guideline has more than one section for {repeated[:5]}; keep one of each")
    bodies = ["\n".join(lines).strip() for _, lines in parts]
    return Guideline(text, True, bodies[0], dict(zip(titles, bodies[1:], strict=True)))


def _cut_at_headings(text: str) -> list[tuple[str, list[str]]]:
    """Cut into the preamble (title "") and sections, each with its heading as first line."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        heading = None if fence else _HEADING.match(line)
        if heading:
            parts.append((heading["title"], []))
        parts[-1][1].append(line)
    return parts
