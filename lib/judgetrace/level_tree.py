"""The levels of a scale as a tree of tokens, to score whole levels with few requests. Pure.

"-4", "-3" and "4" share nothing but the first two's first token: one request scores "-" and "4", a second one what
follows "-".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Branching:
    """A point of the tree: the tokens that lead there, and those that may come next."""

    path: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class LevelTree:
    """The token sequences of levels, none of which is the beginning of another, and where they branch."""

    sequences: tuple[tuple[int, ...], ...]
    branchings: tuple[Branching, ...]

    @classmethod
    def grow(cls, spelled: Sequence[tuple[Sequence[int], Sequence[int]]]) -> LevelTree:
        """Grow the tree of levels, each given as the tokens of the level alone and of the level with what closes it.

        A level takes in closing tokens only where it would else be the beginning of another ("1" and "10").
        Raises ValueError where closing does not tell them apart.
        """
        closed = [tuple(tokens) for _, tokens in spelled]
        # Where the last token of a level merges with what closes it, the level is scored with its closing.
        alone = [
            tuple(level) if tokens[: len(level)] == tuple(level) else tokens
            for (level, _), tokens in zip(spelled, closed, strict=True)
        ]
        sequences = tuple(_extend(n, alone[n], closed) for n in range(len(closed)))
        followers: dict[tuple[int, ...], dict[int, None]] = {}
        for sequence in sequences:
            for position, token in enumerate(sequence):
                followers.setdefault(sequence[:position], {})[token] = None
        return cls(sequences, tuple(Branching(path, tuple(tokens)) for path, tokens in followers.items()))

    def add_up(self, scored: Mapping[Branching, Mapping[int, float]]) -> tuple[float, ...]:
        """Add up the log-probabilities along each level's tokens; `scored` has those of every branching's tokens."""
        by_path = {node.path: tokens for node, tokens in scored.items()}
        return tuple(
            math.fsum(by_path[sequence[:position]][token] for position, token in enumerate(sequence))
            for sequence in self.sequences
        )


def find_within_tag(opening: Sequence[int], whole: Sequence[int], alone: Sequence[int]) -> list[int]:
    """Find the tokens of a text behind an opening tag: the rest of `whole` (tag and text), if it begins with the tag's.

    Some tokenizers put a blank before a text that stands `alone`.
    """
    return list(whole[len(opening) :] if list(whole[: len(opening)]) == list(opening) else alone)


def _extend(number: int, sequence: tuple[int, ...], closed: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    others = [tokens for n, tokens in enumerate(closed) if n != number]
    whole = closed[number]
    while any(tokens[: len(sequence)] == sequence for tokens in others):
        if len(sequence) == len(whole):
            raise ValueError(f"two levels can't be told apart by their tokens {list(whole)}")
        sequence = whole[: len(sequence) + 1]
    return sequence
