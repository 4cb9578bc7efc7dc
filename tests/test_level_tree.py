"""Whole levels as paths of a tree of tokens."""

import math

import pytest

from judgetrace.level_tree import Branching, LevelTree

CLOSE = 99
MINUS, ONE, TWO, ZERO = 7, 1, 2, 0


def spell(*levels):
    return [(list(level), [*level, CLOSE]) for level in levels]


def test_levels_that_begin_alike_branch_where_they_differ():
    tree = LevelTree.grow(spell([MINUS, ONE], [MINUS, TWO], [ONE], [TWO]))
    assert tree.branchings == (Branching((), (MINUS, ONE, TWO)), Branching((MINUS,), (ONE, TWO)))
    scored = {
        tree.branchings[0]: {MINUS: math.log(0.5), ONE: math.log(0.3), TWO: math.log(0.1)},
        tree.branchings[1]: {ONE: math.log(0.25), TWO: math.log(0.75)},
    }
    assert [math.exp(p) for p in tree.add_up(scored)] == pytest.approx([0.125, 0.375, 0.3, 0.1])


def test_a_level_that_begins_another_is_scored_with_its_closing():
    tree = LevelTree.grow(spell([ONE], [ONE, ZERO], [TWO]))
    assert tree.sequences == ((ONE, CLOSE), (ONE, ZERO), (TWO,))
    assert Branching((ONE,), (CLOSE, ZERO)) in tree.branchings


def test_a_level_whose_last_token_merges_with_its_closing_is_scored_with_it():
    merged = 55
    assert LevelTree.grow([([ONE], [merged]), ([TWO], [TWO, CLOSE])]).sequences == ((merged,), (TWO,))


def test_levels_of_the_same_tokens_are_refused():
    with pytest.raises(ValueError, match="can't be told apart"):
        LevelTree.grow(spell([ONE], [ONE]))
