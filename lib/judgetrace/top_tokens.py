"""Score levels by the most probable next tokens, all that most servers tell. Pure; knows no tokenizer.

Works where a level's first token can be no other level's. "-4" and "-3" may both begin with a token "-", "1" may be the
level or the beginning of "10": what can't be told apart is not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NUM_TOP_TOKENS = 20
NEGLIGIBLE = 1e-3
"""An ambiguous token may have at most this share of the levels' probability."""


class LevelsNotSeenError(ValueError):
    """The most probable tokens of this answer don't tell how probable the levels are; another item's may."""


class LevelsAlikeError(ValueError):
    """All levels begin with one token: no answer to any item can tell them apart."""


def find_rating_token(tokens: Sequence[Any], begun: str) -> list[tuple[str, float]]:
    """Find the token behind `begun` in a chat answer's logprobs; returns what could have stood there.

    tokens  the answer's tokens as the server tells them: {token, logprob, top_logprobs: [{token, logprob}]}
    begun   what the answer should begin with, blanks aside

    Returns the texts and natural log-probabilities of the most probable tokens there.
    Raises LevelsNotSeenError where the answer begins otherwise.
    """
    written = ""
    for token in tokens:
        if written.strip() == begun.strip() and token["token"].strip():
            return [(str(other["token"]), float(other["logprob"])) for other in token["top_logprobs"]]
        written += token["token"]
    raise LevelsNotSeenError(f"the answer begins with {written[:40]!r}, expected {begun!r} and a level")


def score_by_top_tokens(top: Sequence[tuple[str, float]], levels: Sequence[str]) -> tuple[float, ...]:
    """Score levels by the most probable tokens (texts and natural log-probabilities) at the rating's place.

    Returns log-probabilities in the order of the levels, not normalised; -inf for a level whose token is not told.
    Raises LevelsNotSeenError where a token could begin several levels, or no level's token is told, LevelsAlikeError
    where that token could begin them all.
    """
    written = {text.strip() for text, _ in top}
    masses = [0.0] * len(levels)
    ambiguous: dict[str, float] = {}
    for text, log_probability in top:
        token = text.strip()
        fitting = _fitting_levels(token, levels, written) if token else []
        if len(fitting) == 1:
            masses[fitting[0]] += math.exp(log_probability)
        elif fitting:
            ambiguous[token] = ambiguous.get(token, 0.0) + math.exp(log_probability)
    worst = max(ambiguous, key=lambda token: ambiguous[token], default="")
    if ambiguous and sum(ambiguous.values()) > NEGLIGIBLE * sum(masses):
        found = f"the token {worst!r} may begin several of the levels {list(levels)}"
        # Whether "-" has any weight depends on the item: on a scale from -4 to 4 one that pleases is scored well. Nor
        # does "1" alone say that "10" is never a token. Only a mere beginning of every level comes with every item.
        is_always = not any(masses) and worst not in levels and all(level.startswith(worst) for level in levels)
        raise LevelsAlikeError(found) if is_always else LevelsNotSeenError(found)
    if not any(masses):
        raise LevelsNotSeenError(f"none of the levels {list(levels)} is among the tokens {sorted(written)}")
    return tuple(math.log(mass) if mass else -math.inf for mass in masses)


def _fitting_levels(token: str, levels: Sequence[str], written: set[str]) -> list[int]:
    """Find the levels that a token may begin or be.

    A token that is a level in full begins no longer one that is a token of its own: tokenizers take the longest.
    """
    fitting = [n for n, level in enumerate(levels) if level.startswith(token) or token.startswith(f"{level}<")]
    if token in levels and all(levels[n] == token or levels[n] in written for n in fitting):
        return [levels.index(token)]
    return fitting
