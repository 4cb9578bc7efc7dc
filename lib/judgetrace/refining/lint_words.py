"""Words of guidelines as the lint compares them: case and punctuation do not matter, levels are found by name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from judgetrace.refining.everyday_levels import LINE_MARKS, is_everyday, is_meant, normalise_marks

PLAIN = str.maketrans({"\u2019": "'", "\u2212": "-"})
_LIST_MARK = re.compile(r"^[ \t]*\d+[.)](?=[ \t])", re.MULTILINE)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:'[^\W_]+)*")
_NOT_AFTER, _NOT_BEFORE = r"(?<![\w.,/\u2013-])", r"(?![\w/]|[-\u2013.,]\d|-points?\b)"


def list_words(text: str) -> list[str]:
    """List words in lower case; a character of Chinese or Japanese is one."""
    return _WORD.findall(text.translate(PLAIN).casefold())


def list_grams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """List all runs of `size` words."""
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def is_named(level: str, text: str, levels: Sequence[str]) -> bool:
    """Whether a text names a level.

    A number that only marks a step ("3. Read ..."), ends a range ("1-5") or counts points ("5-point") does not name a
    level, nor does a level inside of another ("sexist" in "not sexist"), nor an everyday word ("no" in "no reason") as
    `everyday_levels.is_meant` has it.
    """
    text = text.translate(PLAIN)
    listing = _find_listing(text, levels) if is_everyday(level) else ()
    if level.isdecimal():
        text = _LIST_MARK.sub("", text)
    longer = [other for other in levels if len(other) > len(level) and level.casefold() in other.casefold()]
    text = remove_levels(text, longer)
    return any(
        not is_everyday(level) or is_meant(level, text, *match.span(), listing)
        for match in re.finditer(_match_phrase(level), text, re.IGNORECASE)
    )


def find_levels(text: str, levels: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Find where a text names levels, as `is_named` has it, in its order: (level, start, end)."""
    text = text.translate(PLAIN)  # one character for one: places stay
    longest_first = sorted(levels, key=len, reverse=True)
    marks = [match.span() for match in _LIST_MARK.finditer(text)]
    listing = _find_listing(text, levels) if any(map(is_everyday, levels)) else ()
    for match in re.finditer("|".join(f"({_match_phrase(level)})" for level in longest_first), text, re.IGNORECASE):
        level = longest_first[(match.lastindex or 1) - 1]
        if level.isdecimal() and any(start <= match.start() < stop for start, stop in marks):
            continue
        if not is_everyday(level) or is_meant(level, text, *match.span(), listing):
            yield level, *match.span()


def _find_listing(text: str, levels: Sequence[str]) -> set[str]:
    """Find the marks of lines that begin with two levels or more; a single letter counts only as it is written."""
    longest_first = sorted(levels, key=len, reverse=True)
    phrases = (_match_phrase(level) if len(level) == 1 else f"(?i:{_match_phrase(level)})" for level in longest_first)
    heads: dict[str, set[str]] = {}
    for match in re.finditer(f"^{LINE_MARKS}({'|'.join(phrases)})", text, re.MULTILINE):
        heads.setdefault(normalise_marks(match[1]), set()).add(match[2].casefold())
    return {marks for marks, found in heads.items() if len(found) > 1}


def remove_levels(text: str, levels: Sequence[str]) -> str:
    """Put a mark, which is no word, in place of every level that a text names; longer ones first."""
    text = text.translate(PLAIN)
    for level in sorted(levels, key=len, reverse=True):
        text = re.sub(_match_phrase(level), "|", text, flags=re.IGNORECASE)
    return text


def _match_phrase(phrase: str) -> str:
    words = r"\s+".join(re.escape(word) for word in phrase.translate(PLAIN).split())
    return f"{_NOT_AFTER}{words}{_NOT_BEFORE}"
