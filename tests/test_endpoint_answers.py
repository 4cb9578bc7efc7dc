"""Reading what servers answer."""

import math

import pytest

from judgetrace.endpoint_answers import (
    MalformedAnswerError,
    cut_behind_stop,
    estimate_prompt,
    read_chat,
    read_chosen_log_probabilities,
    read_model_length,
    read_text,
    read_tokens,
)
from judgetrace.parsing import ThinkingConfig, parse_answer, parse_output
from judgetrace.scale import Scale
from tests.loopback import chat_answer

SCALE = Scale(values=(1, 2, 3, 4, 5))


def test_an_answer_has_its_text_its_end_and_the_servers_counts():
    read = read_chat(chat_answer("Good. <rating>4</rating>"))
    assert (read.text, read.finish_reason) == ("Good. <rating>4</rating>", "stop")
    assert (read.prompt_tokens, read.output_tokens) == (11, 7)
    assert (read.reasoning, read.content) == (None, None)
    assert read_chat(chat_answer("Good", "length")).finish_reason == "length"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_in_a_field_of_its_own_is_kept_apart_and_written_as_tags(name):
    read = read_chat(chat_answer("So <rating>4</rating>", **{name: "Not <rating>1</rating>."}))
    assert (read.reasoning, read.content) == ("Not <rating>1</rating>.", "So <rating>4</rating>")
    for parsed in (
        parse_answer(read.reasoning, read.content, False, SCALE),
        parse_output(read.text, False, ThinkingConfig(format="tags"), SCALE),
    ):
        assert (parsed.trace, parsed.rating) == ("Not <rating>1</rating>.", "4")


def test_reasoning_that_was_cut_has_no_answer():
    read = read_chat(chat_answer(None, "length", reasoning="On and on <rating>3</rating>"))
    assert (read.content, read.finish_reason) == (None, "length")
    parsed = parse_output(read.text, True, ThinkingConfig(format="tags"), SCALE)
    assert (parsed.rating, parsed.reason) == (None, "truncated")


def test_inline_thinking_stays_in_the_text():
    read = read_chat(chat_answer("<think>Hm.</think><rating>2</rating>", reasoning=None))
    assert (read.text, read.reasoning) == ("<think>Hm.</think><rating>2</rating>", None)


def test_an_answer_of_a_server_that_splits_is_all_answer_where_it_did_not_reason():
    assert read_chat(chat_answer("<rating>2</rating>"), splits_reasoning=True).content == "<rating>2</rating>"


def test_an_answer_is_cut_behind_the_stop_that_ends_first():
    assert cut_behind_stop("a</rating>b.</rating>", [".", "</rating>"]) == ("a</rating>", True)
    assert cut_behind_stop("abc", ["d"]) == ("abc", False)
    read = read_chat(chat_answer("<rating>4</rating> or <rating>5</rat", "length"), ["</rating>"])
    assert (read.text, read.finish_reason) == ("<rating>4</rating>", "stop")


def test_contents_in_parts_are_joined():
    read = read_chat(chat_answer([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
    assert read.text == "ab"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (chat_answer(None, refusal="I can't rate this."), "the model refuses to answer: I can't rate this."),
        (chat_answer("Half an ans", "content_filter"), "the content filter stopped the answer"),
    ],
)
def test_a_refused_sample_is_a_completion_with_its_tokens_and_says_why(answer, said):
    """The prompt was taken and paid for, and another sample may be answered: the unit is not at its end."""
    read = read_chat(answer)
    assert (read.error, read.prompt_tokens, read.output_tokens) == (said, 11, 7)


def test_a_filter_stops_the_completion_of_a_bare_prompt_too():
    answer = {"choices": [{"text": "4", "finish_reason": "content_filter"}]}
    assert read_text(answer).error == "the content filter stopped the answer"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": None, "error": {"message": "upstream"}},
        chat_answer("Ha", "error"),
        chat_answer("Ha", "abort"),
    ],
)
def test_what_is_no_answer_may_be_asked_again(answer):
    with pytest.raises(MalformedAnswerError):
        read_chat(answer)
    with pytest.raises(MalformedAnswerError):
        read_text(answer)
    with pytest.raises(MalformedAnswerError):
        read_chosen_log_probabilities(answer, [1])
    with pytest.raises(MalformedAnswerError):
        read_tokens(answer)
    with pytest.raises(MalformedAnswerError):
        read_model_length(answer, "m")


def test_an_adapter_takes_as_many_tokens_as_its_base():
    listed = {"data": [{"id": "base", "max_model_len": 4096}, {"id": "mine", "max_model_len": None, "parent": "base"}]}
    assert [read_model_length(listed, name) for name in ("base", "mine", "none")] == [4096, 4096, None]


def test_tokens_are_estimated_where_the_server_counts_none():
    answer = chat_answer("x" * 41)
    del answer["usage"]
    read = read_chat(answer)
    assert (read.prompt_tokens, read.output_tokens) == (None, 11)
    assert estimate_prompt([{"role": "user", "content": "x" * 100}], "y" * 8).num_tokens == 25 + 4 + 2


def test_log_probabilities_of_chosen_tokens_are_read_by_their_ids():
    told = {"token_id:5": -0.5, "token_id:7": -9999.0, "token_id:9": -2.0}
    answer = {"choices": [{"text": "4", "logprobs": {"top_logprobs": [told]}}]}
    assert read_chosen_log_probabilities(answer, [7, 5]) == {5: -0.5, 7: -math.inf}
    with pytest.raises(LookupError):
        read_chosen_log_probabilities(answer, [5, 6])
