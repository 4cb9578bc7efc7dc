# ruff: noqa: RUF001 - quotes and dashes as models write them
"""Tell a level from the everyday word that is written like it: the answer "No" from "no clichés". Pure.

Only levels that are common words, as `judgetrace.stripping` has them, and single letters need this. Such a word is the
level where its neighbours or a capital within a sentence say so. In doubt it is: an honest guideline must not fail, and
what others are worth the raters will show.
"""

from __future__ import annotations

import re
from collections.abc import Container

from judgetrace.stripping import is_common

_ARTICLES = frozenset({"a", "i"})
"""Letters that are words, too. Any other single letter is a level wherever it is written as one."""
_NEARBY = 60
"""Characters that are looked at before a word: a long text costs no more for each of them."""
_STANDS_ALONE = re.compile(
    r"[\"'”’*_`]"  # what closes quotes or emphasis; before a word there would be a blank
    r"|[ \t]*(?:$|[.,;:!?)\]}|/=<>→(—]|[-–](?!\w)"
    r"|(?:where|when|whenever|wherever|if|unless|because|since|for|only|(?:and|or)(?! (?:few|little|hardly|very)\b)|nor"
    r"|but|otherwise|else|instead|to|in|at|is|was|are|should|must|may|might|can|could|will|would|(?<!by no )means"
    r"|applies|fits|goes|stands|says|indicates|denotes|represents|describes|belongs|requires|covers|includes|contains"
    r"|holds)\b)",
    re.IGNORECASE | re.MULTILINE,
)
"""What may follow an answer, and hardly an article or a "no" in everyday use: marks, ends of lines, some words."""
_AFTER_RATING = re.compile(
    r"\b(?:rating|score|grade|level|label|answer|verdict|option|category|class)(?:\s+(?:of|is|as|=)\s+|\s*[:=]\s*|\s+)$",
    re.IGNORECASE,
)
_MARKS = r"[ \t>*#+•\-–(\"'“‘_`]*"
LINE_MARKS = rf"({_MARKS}(?:\d+[.)]{_MARKS})?)"
"""What may stand before the first word of a line, as a group."""
_HEADS_SENTENCE = re.compile(rf"(?:^|[.!?:;)|\n]){_MARKS}$")
_HEADS_LINE = re.compile(rf"(?:^|\n){LINE_MARKS}$")


def is_everyday(level: str) -> bool:
    """Whether a level is written like an everyday word, or is a single letter."""
    return level.upper() != level.lower() and is_common(level)


def normalise_marks(marks: str) -> str:
    """Write the marks at the head of a line alike for all lines of a list."""
    return re.sub(r"\d+", "1", "".join(marks.split()))


def is_meant(level: str, text: str, start: int, end: int, listing: Container[str]) -> bool:
    """Whether an everyday level is meant by what stands between `start` and `end`, written in any case.

    `listing` has the normalised marks of lines that begin with several levels, as in "- A strong plot", "- B weak".
    """
    found, before = text[start:end], text[max(0, start - _NEARBY) : start]
    if len(level) == 1 and (found != level or level.casefold() not in _ARTICLES):
        return found == level
    if _STANDS_ALONE.match(text, end) or (len(level) > 1 and _AFTER_RATING.search(before)):
        return True
    if found.islower() and found != level:
        return False
    if not _HEADS_SENTENCE.search(before):
        return not found.islower()
    # Any word may have a capital here.
    line = _HEADS_LINE.search(before)
    return line is not None and ("#" in line[1] or normalise_marks(line[1]) in listing)
