"""Levels by the most probable tokens. The numbers are logarithms of probabilities chosen by hand."""

import math

import pytest

from judgetrace.top_tokens import LevelsAlikeError, LevelsNotSeenError, find_rating_token, score_by_top_tokens


def told(*tops):
    """An answer's tokens, each the first of the (token, probability) pairs that could have stood there."""
    return [
        {
            "token": top[0][0],
            "logprob": math.log(top[0][1]),
            "top_logprobs": [{"token": token, "logprob": math.log(p)} for token, p in top],
        }
        for top in tops
    ]


def probabilities(top, levels):
    scores = score_by_top_tokens([(token, math.log(p)) for token, p in top], levels)
    return [pytest.approx(math.exp(score)) for score in scores]


def test_the_token_behind_the_rating_tag_counts():
    tokens = told([("<", 0.9), ("4", 0.1)], [("rating", 1.0)], [(">", 1.0)], [("4", 0.7), ("5", 0.3)], [("</", 1.0)])
    assert [token for token, _ in find_rating_token(tokens, "<rating>")] == ["4", "5"]
    assert [token for token, _ in find_rating_token(tokens, "")] == ["<", "4"]


def test_blanks_before_the_rating_are_passed_over():
    tokens = told([("\n", 1.0)], [("<rating", 1.0)], [(">", 1.0)], [(" ", 1.0)], [("4", 1.0)])
    assert [token for token, _ in find_rating_token(tokens, "<rating>\n")] == ["4"]


@pytest.mark.parametrize("words", [["The", " rating"], ["<rating", ">4"], ["<rating>"], []])
def test_an_answer_that_begins_otherwise_scores_nothing(words):
    with pytest.raises(LevelsNotSeenError, match="the answer begins with"):
        find_rating_token(told(*([(word, 1.0)] for word in words)), "<rating>")


def test_levels_have_the_probability_of_their_tokens_blanks_and_closing_included():
    top = [("4", 0.5), (" 4", 0.1), ("5", 0.2), ("3</", 0.05), ("good", 0.05)]
    assert probabilities(top, ["3", "4", "5", "6"]) == [0.05, 0.6, 0.2, 0.0]


def test_words_are_told_apart_by_their_first_token():
    top = [("neg", 0.5), ("neutral", 0.25), ("pos", 0.25)]
    assert probabilities(top, ["negative", "neutral", "positive"]) == [0.5, 0.25, 0.25]


def test_a_level_may_begin_another_where_that_is_a_token_of_its_own():
    assert probabilities([("1", 0.5), ("10", 0.4)], ["1", "10"]) == [0.5, 0.4]


@pytest.mark.parametrize(
    ("top", "levels"),
    [
        ([("-", 0.5), ("4", 0.5)], ["-4", "-3", "3", "4"]),
        ([("1", 0.5), ("2", 0.4)], ["1", "2", "10"]),
        ([("1", 0.9)], ["1", "10"]),
        ([("ne", 0.5), ("pos", 0.4)], ["negative", "neutral", "positive"]),
    ],
)
def test_a_token_that_may_begin_several_levels_tells_none_of_them(top, levels):
    with pytest.raises(LevelsNotSeenError, match="may begin several of the levels"):
        probabilities(top, levels)


@pytest.mark.parametrize(
    ("top", "levels"),
    [
        ([("-", 0.9), ("4", 0.01)], ["-4", "-3"]),
        ([("grade", 0.9)], ["grade A", "grade B"]),
    ],
)
def test_levels_that_all_begin_with_one_token_can_be_told_apart_by_no_item(top, levels):
    with pytest.raises(LevelsAlikeError, match="may begin several of the levels"):
        probabilities(top, levels)


def test_an_ambiguous_token_of_no_weight_is_passed_over():
    assert probabilities([("4", 0.9), ("-", 0.0001)], ["-4", "-3", "4"]) == [0.0, 0.0, 0.9]


def test_levels_that_no_token_tells_are_not_seen():
    with pytest.raises(LevelsNotSeenError, match="none of the levels"):
        probabilities([("good", 0.9), ("bad", 0.1)], ["1", "2"])
