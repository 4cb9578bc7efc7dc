"""Reading thinking and rating out of an output."""

import time

import pytest

from judgetrace.parsing import ParsedOutput, ThinkingConfig, parse_answer, parse_output
from judgetrace.scale import Scale

STARS = Scale(values=(-4, 0, 10))
YES_NO = Scale(values=("No", "Yes"))
PLAIN, TAGS = ThinkingConfig(), ThinkingConfig(format="tags")


@pytest.mark.parametrize("level", ["A>>B", "A>B", "A=B", "B>A", "B>>A", "<1"])
def test_levels_may_hold_angle_brackets(level):
    scale = Scale(values=("A>>B", "A>B", "A=B", "B>A", "B>>A", "<1"), type="nominal")
    text = f"<rating>A=B</rating> is wrong, so <rating>{level}</rating>"
    assert parse_output(text, False, PLAIN, scale).rating == level
    assert parse_output(f"<rating>A=B <rating>{level}</rating>", False, PLAIN, scale).rating == level


@pytest.mark.parametrize(
    ("text", "was_cut", "expected"),
    [
        ("It is fine. <rating>10</rating>", False, ParsedOutput("It is fine.", "10", None)),
        ("Bad.\n<rating> -4 </rating>", False, ParsedOutput("Bad.", "-4", None)),
        ("<RATING>0.0</RATING>", False, ParsedOutput("", "0", None)),
        ("A <rating>0</rating>, no: <rating>10</rating>", False, ParsedOutput("A <rating>0</rating>, no:", "10", None)),
        ("Seven. <rating>7</rating>", False, ParsedOutput("Seven.", None, "unparsed")),
        ("No tag at all", False, ParsedOutput("No tag at all", None, "unparsed")),
        ("It goes on and", True, ParsedOutput("It goes on and", None, "truncated")),
        ("Cut in the tag <rating>1", True, ParsedOutput("Cut in the tag <rating>1", None, "truncated")),
        ("", False, ParsedOutput(None, None, "unparsed")),
        ("<rating></rating>", False, ParsedOutput(None, None, "unparsed")),
    ],
)
def test_plain_thinking_is_what_stands_before_the_last_rating(text, was_cut, expected):
    assert parse_output(text, was_cut, PLAIN, STARS) == expected


@pytest.mark.parametrize(
    ("text", "was_cut", "expected"),
    [
        ("<think>Hm.</think>So <rating>Yes</rating>", False, ParsedOutput("Hm.", "Yes", None)),
        # The chat template may have written the opening tag into the prompt.
        ("Hm.</think><rating>no</rating>", False, ParsedOutput("Hm.", "No", None)),
        ("<think>Maybe <rating>Yes</rating>", True, ParsedOutput("Maybe <rating>Yes</rating>", None, "truncated")),
        ("<think>Maybe <rating>Yes</rating>", False, ParsedOutput("Maybe <rating>Yes</rating>", None, "unparsed")),
        ("<think>One <rating>Yes</rating></think>", False, ParsedOutput("One <rating>Yes</rating>", None, "unparsed")),
        ("<think>Hm.</think>I will say", True, ParsedOutput("Hm.", None, "truncated")),
    ],
)
def test_a_rating_inside_the_thinking_tags_is_no_rating(text, was_cut, expected):
    assert parse_output(text, was_cut, TAGS, YES_NO) == expected


def test_a_model_may_have_tags_of_its_own():
    own = ThinkingConfig(format="tags", tags=("[THINK]", "[/THINK]"))
    assert parse_output("[THINK]Hm.[/THINK]<rating>no</rating>", False, own, YES_NO) == ParsedOutput("Hm.", "No", None)
    assert parse_output("<think>Hm.</think><rating>no</rating>", False, own, YES_NO).reason == "unparsed"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"tags": ("[THINK]", "[/THINK]")}, "need 'tags'"),
        ({"format": "tags", "tags": ("|", "|")}, "two different marks"),
        ({"format": "tags", "tags": ("", "]")}, "two different marks"),
    ],
)
def test_tags_that_can_not_be_told_apart_are_refused(fields, fault):
    with pytest.raises(ValueError, match=fault):
        ThinkingConfig(**fields)


def test_an_opened_tag_and_endless_blanks_are_parsed_at_once():
    began = time.monotonic()
    assert parse_output("<rating>" + " \n" * 50_000, True, PLAIN, STARS).reason == "truncated"
    assert time.monotonic() - began < 2


def test_an_answer_apart_from_its_thinking_gives_the_rating_alone():
    assert parse_answer("Hm.", "<rating>Yes</rating>", False, YES_NO) == ParsedOutput("Hm.", "Yes", None)
    assert parse_answer("", "<rating>Yes</rating>", False, YES_NO) == ParsedOutput("", "Yes", None)
