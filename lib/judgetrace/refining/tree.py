"""Plan a reduce as a tree: any number of texts, each call within the context, until one text is left.

Knows token counts, no texts and no model. The sizes of results are not known when the plan is made: each is taken to
be as long as a call may make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReduceLimits:
    """What a call can hold, in tokens."""

    context: int  # prompt and output together
    prompt: int  # the prompt without any text
    output: int  # the longest result
    separator: int = 0  # what each text brings along: a heading, line breaks

    @property
    def room(self) -> int:
        """Tokens that the texts of one call may take, with their separators."""
        return self.context - self.prompt - self.output


@dataclass(frozen=True)
class ReducePlan:
    """The calls of a reduce."""

    levels: tuple[tuple[tuple[int, ...], ...], ...]
    """For each level its groups, for each group the positions of its texts among the results of the level before.

    The first level's positions are those of the texts; the last level has one group. In levels after the first, a
    group of one is carried over: its text is a result already.
    """

    @property
    def num_calls(self) -> int:
        """Calls of the whole reduce."""
        return sum(number == 0 or len(group) > 1 for number, level in enumerate(self.levels) for group in level)


def plan_reduce(token_counts: Sequence[int], limits: ReduceLimits) -> ReducePlan:
    """Plan the reduce of texts in their order; groups are neighbours, as few as fit, and about equally full.

    Raises ValueError for no texts, for a text that does not fit a call, and where not even two results do.
    """
    if not token_counts:
        raise ValueError("a reduce needs at least one text, found none")
    sizes = [count + limits.separator for count in token_counts]
    overlong = [position for position, size in enumerate(sizes) if size > limits.room]
    if overlong:
        raise ValueError(
            f"{len(overlong)} of {len(sizes)} texts do not fit a call: positions {overlong[:5]} with "
            f"{[token_counts[position] for position in overlong[:5]]} tokens, room for {limits.room}; "
            "leave them out, or take a longer context"
        )
    levels = [_group(sizes, limits.room)]
    while len(levels[-1]) > 1:
        results = [limits.output + limits.separator] * len(levels[-1])
        if 2 * results[0] > limits.room:
            raise ValueError(
                f"the results of a reduce can't be joined: two of {results[0]} tokens in room for {limits.room}; "
                "take a longer context, or shorter results"
            )
        levels.append(_group(results, limits.room))
    return ReducePlan(tuple(levels))


def _group(sizes: Sequence[int], room: int) -> tuple[tuple[int, ...], ...]:
    """Group neighbours: as few groups as `room` allows, then with the least room that gives as few."""
    fewest = len(_fill(sizes, room))
    low, high = max(sizes), room
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(sizes, middle)) <= fewest else (middle + 1, high)
    return tuple(tuple(group) for group in _fill(sizes, low))


def _fill(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Fill groups one after another; the fewest groups of neighbours that fit."""
    groups: list[list[int]] = []
    left = -1
    for position, size in enumerate(sizes):
        if size > left:
            groups.append([])
            left = room
        groups[-1].append(position)
        left -= size
    return groups
