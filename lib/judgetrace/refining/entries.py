"""Which candidates enter the race, and what their raters are shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from judgetrace.guideline import Guideline
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.guideline_file import read_shown, replace_guideline
from judgetrace.refining.panel import Shown


@dataclass(frozen=True)
class Entry:
    """A candidate as a guideline file; `why_out` says why it does not enter the race."""

    candidate: Candidate
    file: str | None
    """The whole guideline file with the candidate in it; None where it has no text."""
    shown: Shown | None
    why_out: str | None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name


def list_entries(candidates: Sequence[Candidate], original: Guideline, dimension: str) -> list[Entry]:
    """List the candidates in their order, the original first. One of the same text as an earlier one is out."""
    assert candidates, "the original is always a candidate"
    assert candidates[0].kind == "original", candidates[0]
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for candidate in candidates:
        entry = _make_entry(candidate, original, dimension)
        if entry.shown is not None and entry.why_out is None:
            earlier = seen.setdefault(entry.shown.text, entry.name)
            if earlier != entry.name:
                entry = Entry(candidate, entry.file, entry.shown, f"the same text as {earlier}")
        entries.append(entry)
    return entries


def _make_entry(candidate: Candidate, original: Guideline, dimension: str) -> Entry:
    if candidate.kind == "original":
        told = original.guideline_for(dimension)
        assert told is not None, "checked before the start"
        return Entry(candidate, original.text, Shown(told), None)
    if not candidate.text:
        return Entry(candidate, None, None, candidate.error or "; ".join(candidate.problems) or "no text")
    file = replace_guideline(original, dimension, candidate.text)
    shown = Shown(read_shown(file, original.by_section, dimension))
    return Entry(candidate, file, shown, candidate.error or "; ".join(candidate.problems) or None)
