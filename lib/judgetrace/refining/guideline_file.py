"""Put a candidate's text where the original guideline stood, in a file that may have a section for each dimension.

What raters are shown, and what is scored, is what `parse_guideline` makes of the resulting file: the guideline that the
job returns is the one that was scored. Pure.
"""

from __future__ import annotations

import difflib
import re

from judgetrace.guideline import Guideline, normalise_heading, parse_guideline

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"##[ \t]")


def replace_guideline(original: Guideline, dimension: str, text: str) -> str:
    """Write the whole file with a candidate's text in place of what the original tells the rater of a dimension.

    By section the text takes the place of the section alone: a preamble that it repeats is left out, its own headings
    of the second level become ones of the third, code that it leaves open is closed, and the section keeps its heading.
    """
    if not original.by_section:
        return text.strip() + "\n"
    name = normalise_heading(dimension)
    section = original.sections[name]
    heading, _, _ = section.partition("\n")
    body = text.strip().removeprefix(original.preamble).strip()
    first, _, rest = body.partition("\n")
    if normalise_heading(first.lstrip("#")) == name:
        body = rest.strip()
    sections = {**original.sections, name: f"{heading}\n\n{_fit_into_section(body)}"}
    return "\n\n".join(part for part in (original.preamble, *sections.values()) if part) + "\n"


def _fit_into_section(text: str) -> str:
    """Make headings of the second level ones of the third, outside of fenced code, and close a fence that stays open.

    Else the headings of the sections behind it would be code, and their texts this section's.
    """
    lines, fence = [], ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        lines.append(f"#{line}" if not fence and _HEADING.match(line) else line)
    return "\n".join([*lines, fence] if fence else lines)


def read_shown(file: str, by_section: bool, dimension: str) -> str:
    """Read what a guideline file tells the rater of a dimension. Raises ValueError where it tells nothing."""
    shown = parse_guideline(file, by_section).guideline_for(dimension)
    if shown is None:
        raise ValueError(f"the guideline has no section for the dimension {dimension!r}")
    return shown


def diff_guidelines(before: str, after: str) -> str:
    """Write the unified difference of two guideline files; empty where they are equal."""
    names = ("the original guideline", "guideline.md")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return "".join(f"{line}\n" for line in lines)
