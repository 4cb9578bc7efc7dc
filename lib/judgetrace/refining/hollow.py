"""Find texts that say nothing of their own: a bare list of the levels, or our own prompt said again. Pure.

Both are what small models write in place of a guideline. Numbers are no words here, since levels and steps are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from judgetrace.refining.lint_words import find_levels, is_named, list_grams, list_words, remove_levels

_CLAUSE_END = re.compile(r"[.:;!?\n]+")
LIST_WORDS = frozenset(
    list_words(
        "a an and answer are as between by choose exactly following from give guideline in is it item label labels "
        "level levels of one option options or possible rate rated rating ratings scale score scores select text the "
        "these this to value values with"
    )
)
"""What only introduces a list of levels."""


def describe_bare_levels(text: str, levels: Sequence[str], least: int) -> str | None:
    """Say why a text is a bare list of levels; None where it is none.

    It is one where it names two levels or more and has fewer than `least` different words besides the levels and
    LIST_WORDS, or fewer than there are levels where those are less.
    """
    if sum(is_named(level, text, levels) for level in levels) < 2:
        return None
    words = set(_list_own_words(text, levels)) - LIST_WORDS
    needed = min(least, len(levels))
    if len(words) >= needed:
        return None
    return f"{len(words)} words besides the levels: {sorted(words)}, expected {needed} or more"


def list_undescribed(text: str, levels: Sequence[str]) -> list[str]:
    """List the levels that a text names only in lists of all levels, with nothing but LIST_WORDS between them.

    What stands beside such a list tells no level from another; what stands beside one or some levels may be theirs.
    """
    named: set[str] = set()
    described: set[str] = set()
    for row in _list_rows(text, levels):
        named |= row
        described |= row if len(row) < len(levels) else set()
    return [level for level in levels if level in named - described]


def _list_rows(text: str, levels: Sequence[str]) -> list[set[str]]:
    """List the levels that a text names one after the other, without a word of its own between them, each once."""
    rows: list[set[str]] = []
    end = 0
    for level, start, stop in find_levels(text, levels):
        words = {word for word in list_words(text[end:start]) if not word.isdecimal()} - LIST_WORDS
        if words or not rows or level in rows[-1]:
            rows.append(set())
        rows[-1].add(level)
        end = stop
    return rows


def describe_echo(
    text: str, prompt: str, original: str, levels: Sequence[str], *, run: int, max_share: float
) -> str | None:
    """Say why a text is mostly the words of our own `prompt`; None where it is not.

    A word is the prompt's where it stands in a run of `run` words that the prompt has, too, or in a clause that is a
    whole clause of the prompt. Words in such runs of the original are not counted: to keep them is no fault.
    """
    clauses = [_list_own_words(clause, levels) for clause in _CLAUSE_END.split(text)]
    known = {tuple(_list_own_words(clause, levels)) for clause in _CLAUSE_END.split(prompt)}
    kept, asked = ({*list_grams(_list_own_words(some, levels), run)} for some in (original, prompt))
    words = [word for clause in clauses for word in clause]
    is_whole = [found for clause in clauses for found in [tuple(clause) in known] * len(clause)]
    is_kept, is_asked = _mark_runs(words, kept, run), _mark_runs(words, asked - kept, run)
    counted = [n for n in range(len(words)) if not is_kept[n]]
    echoed = [n for n in counted if is_asked[n] or is_whole[n]]
    if len(echoed) <= max_share * len(counted):
        return None
    shown = " ".join(words[n] for n in echoed[:12])
    return f"{len(echoed)} of {len(counted)} words are those of the generator's prompt: {shown!r}"


def _list_own_words(text: str, levels: Sequence[str]) -> list[str]:
    """List a text's words without levels and numbers."""
    return [word for word in list_words(remove_levels(text, levels)) if not word.isdecimal()]


def _mark_runs(words: Sequence[str], grams: set[tuple[str, ...]], size: int) -> list[bool]:
    """Mark the words that stand in one of the runs."""
    marks = [False] * len(words)
    for start in range(len(words) - size + 1):
        if tuple(words[start : start + size]) in grams:
            marks[start : start + size] = [True] * size
    return marks
