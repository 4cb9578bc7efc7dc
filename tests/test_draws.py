"""One draw: think, rate, parse, accept."""

import asyncio
import math

import pytest

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.asking import AskedUnit
from judgetrace.decisions import TraceDecider
from judgetrace.draws import DrawSampler
from judgetrace.engine import Completion, EngineDeadError, LevelScores, Prompt, PromptRefusedError
from judgetrace.parsing import ThinkingConfig
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.sampling import SamplingConfig, draw_seed
from judgetrace.scale import Scale

KEY = ("item", "", "aggregate")
UNIT = AskedUnit(KEY, ("4",), ("4", "2"), Scale(values=(1, 2, 3, 4, 5)), Prompt(30, [0] * 30))


class Engine:
    """Answers with what it was given, in turn; keeps the requests, and which prompts it scored levels behind."""

    max_model_tokens = 1000
    special_tokens = ()

    def __init__(self, *answers, probabilities=(0.0, 0.1, 0.1, 0.2, 0.0)):
        self.answers, self.requests = list(answers), []
        self.probabilities, self.scored = probabilities, []

    def continue_prompt(self, prompt, text):
        self.appended = text
        added = [1] * len(text.split())
        return Prompt(prompt.num_tokens + len(added), [*prompt.token_ids, *added])

    async def generate(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def score_levels(self, request_id, prompt, levels):
        self.scored.append((prompt, tuple(levels)))
        return LevelScores(tuple(math.log(p) if p else -math.inf for p in self.probabilities), None, len(levels))


def draw(engine, thinking=None, acceptance=None, index=0):
    decider = TraceDecider(SamplingConfig(max_tokens=100, seed=7), acceptance or AcceptanceConfig())
    sampler = DrawSampler(engine, thinking or ThinkingConfig(), decider)
    return asyncio.run(sampler.sample(UNIT, index, False))


def draw_expected(engine, thinking):
    decider = RatingDecider("rater", DecodingConfig(rating="expected", max_tokens=100))
    return asyncio.run(DrawSampler(engine, thinking, decider).sample(UNIT, 0, False))


PLAIN = ThinkingConfig()
TAGS = ThinkingConfig(format="tags")
PARSER = ThinkingConfig(format="parser", parser="deepseek_r1")
NONE = ThinkingConfig(format="none")


@pytest.mark.parametrize(
    ("text", "finish", "reason", "rating"),
    [
        ("Good. <rating>4</rating>", "stop", "accepted", "4"),
        ("Poor. <rating>2</rating>", "stop", "disagrees", "2"),
        ("Well.", "stop", "unparsed", None),
        ("Well, well,", "length", "truncated", None),
    ],
)
def test_a_draw_has_the_reason_that_its_output_gives(text, finish, reason, rating):
    result = draw(Engine(Completion(text, finish, 12)), index=3)
    assert (result.reason, result.rating) == (reason, rating)
    assert (result.index, result.seed) == (3, draw_seed(7, KEY, 3))
    assert (result.prompt_tokens, result.output_tokens, result.text) == (30, 12, text)


def test_a_rating_that_some_annotator_gave_is_tagged():
    result = draw(
        Engine(Completion("<rating>2</rating>", "stop", 5)), acceptance=AcceptanceConfig(rule="any_annotator")
    )
    assert (result.reason, result.accepted_by) == ("accepted", "any_annotator")


def test_a_constrained_rating_follows_the_thinking_and_is_tagged():
    engine = Engine(Completion("It is good.<rating>", "stop", 6), Completion("4", "stop", 1))
    result = draw(engine, ThinkingConfig(constrained_rating="always"))
    assert (result.reason, result.rating, result.constrained) == ("accepted", "4", True)
    assert (result.trace, result.output_tokens) == ("It is good.", 7)
    thinking, rating = engine.requests
    assert "<rating>" in thinking.stop
    assert rating.choices == ("1", "2", "3", "4", "5")
    assert engine.appended == "It is good.\n<rating>"
    assert list(rating.prompt.token_ids) == [0] * 30 + [1] * 4


def test_the_fallback_rates_only_what_ended_without_a_rating():
    given = Engine(Completion("Good. <rating>4</rating>", "stop", 9))
    assert not draw(given, ThinkingConfig(constrained_rating="fallback")).constrained
    forced = Engine(Completion("Good.", "stop", 3), Completion("2", "stop", 1))
    result = draw(forced, ThinkingConfig(constrained_rating="fallback"))
    assert (result.constrained, result.rating, result.reason) == (True, "2", "disagrees")


def test_thinking_that_was_cut_off_is_never_given_a_rating():
    for mode in ("fallback", "always"):
        result = draw(Engine(Completion("On and on", "length", 84)), ThinkingConfig(constrained_rating=mode))
        assert (result.reason, result.rating, result.constrained) == ("truncated", None, False)


def test_thinking_tags_are_closed_before_the_constrained_rating():
    engine = Engine(Completion("<think>Hm.", "stop", 3), Completion("4", "stop", 1))
    result = draw(engine, ThinkingConfig(format="tags", constrained_rating="fallback"))
    assert engine.appended == "<think>Hm.\n</think>\n<rating>"
    assert (result.trace, result.rating) == ("Hm.", "4")
    engine = Engine(Completion("[THINK]Hm.", "stop", 3), Completion("4", "stop", 1))
    own = ThinkingConfig(format="tags", tags=("[THINK]", "[/THINK]"), constrained_rating="fallback")
    assert draw(engine, own).trace == "Hm."
    assert engine.appended == "[THINK]Hm.\n[/THINK]\n<rating>"


def test_thinking_with_an_end_of_its_own_may_quote_the_rating_tag():
    for mode in ("never", "fallback", "always"):
        thinking = Completion("<think>I must end with <rating>2</rating>. Good.</think>", "stop", 9)
        engine = Engine(thinking, Completion("4", "stop", 1))
        result = draw(engine, ThinkingConfig(format="tags", constrained_rating=mode))
        assert not {"<rating>", "</rating>"} & set(engine.requests[0].stop)
        assert result.rating == (None if mode == "never" else "4")
        assert result.trace == "I must end with <rating>2</rating>. Good."


def test_a_thinking_too_long_to_be_followed_by_a_rating_is_a_draw_without_one():
    engine = Engine(Completion("Long.", "stop", 9), PromptRefusedError("too long"))
    result = draw(engine, ThinkingConfig(constrained_rating="always"))
    assert (result.reason, result.rating) == ("truncated", None)


@pytest.mark.parametrize("mode", ["never", "fallback", "always"])
def test_a_sample_that_is_refused_or_filtered_has_no_rating_and_says_why(mode):
    """Whatever its text holds; the prompt was taken, so the unit's other draws go on."""
    refused = Completion("Hm <rating>4</rating>", "stop", 9, prompt_tokens=11, error="the content filter stopped it")
    engine = Engine(refused)
    result = draw(engine, ThinkingConfig(constrained_rating=mode))
    assert (result.reason, result.rating, result.error) == ("unparsed", None, "the content filter stopped it")
    assert (result.prompt_tokens, result.output_tokens, len(engine.requests)) == (11, 9, 1)


def test_a_rating_that_is_refused_after_the_thinking_leaves_none():
    engine = Engine(Completion("Good.", "stop", 9), Completion("4", "stop", 1, error="filtered"))
    result = draw(engine, ThinkingConfig(constrained_rating="always"))
    assert (result.reason, result.rating, result.error, result.output_tokens) == ("unparsed", None, "filtered", 10)


def test_levels_that_an_answer_does_not_show_are_a_draw_without_a_rating_and_with_its_tokens():
    class Blind(Engine):
        async def score_levels(self, request_id, prompt, levels):
            return LevelScores((-math.inf,) * len(levels), 40, 16, "none of the levels")

    decider = RatingDecider("r", DecodingConfig(rating="expected", max_tokens=100))
    sampler = DrawSampler(Blind(), ThinkingConfig(format="none"), decider)
    result = asyncio.run(sampler.sample(UNIT, 0, False))
    assert (result.reason, result.rating, result.error) == ("unparsed", None, "none of the levels")
    assert (result.prompt_tokens, result.output_tokens) == (40, 16)


def test_a_reasoning_parsers_split_is_used():
    completion = Completion("raw", "stop", 9, reasoning="Hm <rating>1</rating>.", content="<rating>4</rating>")
    result = draw(Engine(completion), ThinkingConfig(format="parser", parser="deepseek_r1"))
    assert (result.trace, result.rating) == ("Hm <rating>1</rating>.", "4")
    endless = Completion("raw", "length", 9, reasoning="On and on", content=None)
    assert draw(Engine(endless), ThinkingConfig(format="parser", parser="deepseek_r1")).reason == "truncated"


def test_thinking_that_nobody_split_off_is_found_in_the_answer():
    """As of a server that runs without its reasoning parser; and of a model that reasons in its answer."""
    parser = ThinkingConfig(format="parser", parser="deepseek_r1")
    for content in ("<think>\nHm <rating>1</rating>.</think>\n<rating>4</rating>", "Hm. <rating>4</rating>"):
        result = draw(Engine(Completion(content, "stop", 9, content=content)), parser)
        assert (result.trace, result.rating) == (
            content.partition("<think>\n")[2].partition("</think>")[0] or "Hm.",
            "4",
        )


def test_a_constrained_rating_has_room_for_its_longest_level():
    levels = ("no", "Das ist eine sehr ausführliche Stufe")
    unit = AskedUnit(KEY, ("no",), (), Scale(values=levels, type="nominal"), Prompt(30, [0] * 30))
    engine = Engine(Completion("Hm.", "stop", 3), Completion(levels[1], "stop", 20))
    decider = TraceDecider(SamplingConfig(max_tokens=100), AcceptanceConfig())
    thinking = ThinkingConfig(constrained_rating="always")
    result = asyncio.run(DrawSampler(engine, thinking, decider).sample(unit, 0, False))
    assert result.rating == levels[1]
    # 37 bytes, one of its letters has two; no tokenizer makes more tokens of them.
    assert [request.max_tokens for request in engine.requests] == [100 - 39, 39]


@pytest.mark.parametrize(
    ("thinking", "thought", "before", "trace"),
    [
        (PLAIN, Completion("Good.<rating>", "stop", 3), "Good.\n", "Good."),
        (PLAIN, Completion("Good.", "stop", 3), "Good.\n", "Good."),
        (TAGS, Completion("<think>Good.</think>", "stop", 3), "<think>Good.</think>\n", "Good."),
        (TAGS, Completion("<think>Good.", "stop", 3), "<think>Good.\n</think>\n", "Good."),
        (
            PARSER,
            Completion("Good.</think>", "stop", 3, reasoning="Good.", content=None),
            "Good.</think>\n",
            "Good.",
        ),
        (
            PARSER,  # one with other marks than <think>: its answer came too
            Completion("[A <rating>1</rating>?] So <rating>2</rating>", "stop", 3, "A?", "So <rating>2</rating>"),
            "[A <rating>1</rating>?] So\n",
            "A?",
        ),
        (NONE, None, "", None),
    ],
)
def test_levels_are_scored_behind_the_thinking_and_before_any_rating_of_the_models_own(
    thinking, thought, before, trace
):
    engine = Engine(*([] if thought is None else [thought]))
    result = draw_expected(engine, thinking)
    assert engine.appended == f"{before}<rating>"
    ((_, levels),) = engine.scored
    assert levels == UNIT.scale.values
    assert (result.reason, result.rating, result.trace) == ("rated", "4", trace)
    # Of 0.4 in all: (2 * .1 + 3 * .1 + 4 * .2) / .4 = 1.3 / .4.
    assert result.expected == pytest.approx(3.25)
    assert result.level_probabilities == pytest.approx((0.0, 0.1, 0.1, 0.2, 0.0))
    # Five tokens for the scores; what the engine did not count itself is the prompt's own length.
    assert (result.prompt_tokens, result.output_tokens) == (30, 5 if thought is None else 8)
    assert result.text == f"{before}<rating>4</rating>"


UNCLOSED = [
    (TAGS, Completion("<think>Poor. <rating>2</rating>", "stop", 9)),
    (TAGS, Completion("Poor. <rating>2</rating>", "stop", 9)),
    (PARSER, Completion("Poor. <rating>2</rating>", "stop", 9, reasoning="Poor. <rating>2</rating>", content=None)),
    (PARSER, Completion("Poor. <rating>2</rating>", "stop", 9, reasoning=None, content="Poor. <rating>2</rating>")),
]


@pytest.mark.parametrize(("thinking", "thought"), UNCLOSED)
def test_a_rating_inside_thinking_that_never_closed_is_not_followed_by_another(thinking, thought):
    # The levels' probabilities behind "<rating>2</rating>" tell what was written there, not what the item is worth.
    engine = Engine(thought)
    result = draw_expected(engine, thinking)
    assert (result.reason, result.rating, result.expected) == ("unparsed", None, None)
    assert (engine.scored, len(engine.requests), result.text) == ([], 1, thought.text)
    engine = Engine(thought)
    result = draw(engine, thinking.model_copy(update={"constrained_rating": "always"}))
    assert (result.reason, result.rating, result.constrained, len(engine.requests)) == ("unparsed", None, False, 1)


def test_a_stop_string_of_the_configs_own_ends_thinking_that_quotes_a_rating():
    engine = Engine(Completion("<think>Not <rating>2</rating>. END", "stop", 9))
    result = draw_expected(engine, ThinkingConfig(format="tags", stop=("END",)))
    assert (result.rating, engine.appended) == ("4", "<think>Not <rating>2</rating>. END\n</think>\n<rating>")


@pytest.mark.parametrize("thinking", [PLAIN, TAGS, PARSER])
def test_levels_are_not_scored_behind_thinking_that_was_cut_off(thinking):
    engine = Engine(Completion("<think>On and", "length", 84, reasoning="On and", content=None))
    result = draw_expected(engine, thinking)
    assert (result.reason, result.rating, result.expected, engine.scored) == ("truncated", None, None, [])


def test_a_rating_of_the_models_own_in_an_answer_that_was_cut_stands_in_for_no_scored_one():
    engine = Engine(Completion("<think>Hm</think> <rating>4</rating> and", "length", 84))
    result = draw_expected(engine, TAGS)
    assert (result.reason, result.rating, result.expected, engine.scored) == ("truncated", None, None, [])


def test_levels_that_are_all_out_of_sight_are_no_rating():
    engine = Engine(Completion("Good.<rating>", "stop", 3), probabilities=(0.0,) * 5)
    result = draw_expected(engine, PLAIN)
    assert (result.reason, result.rating, result.expected, result.level_probabilities) == ("unparsed", None, None, None)
    assert (result.trace, result.output_tokens) == ("Good.", 8)


def test_a_passing_fault_is_tried_again_with_the_same_seed():
    engine = Engine(RuntimeError("hiccup"), Completion("<rating>4</rating>", "stop", 2))
    assert draw(engine).reason == "accepted"
    assert engine.requests[0].seed == engine.requests[1].seed
    assert engine.requests[0].request_id != engine.requests[1].request_id


def test_a_lasting_fault_is_a_failed_draw_that_says_why():
    result = draw(Engine(*[RuntimeError("no luck")] * 3))
    assert (result.reason, result.error) == ("failed", "RuntimeError: no luck")


def test_a_draw_that_fails_after_its_thinking_counts_the_tokens_of_every_try():
    """A budget that does not see them would be overdrawn by a server whose ratings fail."""
    tries = [answer for _ in range(3) for answer in (thought_of(40), RuntimeError("no luck"))]
    result = draw(Engine(*tries), ThinkingConfig(constrained_rating="always"))
    assert (result.reason, result.prompt_tokens, result.output_tokens) == ("failed", 3 * 35, 3 * 40)


def test_a_draw_that_succeeds_at_last_counts_the_tries_before_too():
    engine = Engine(thought_of(40), RuntimeError("hiccup"), thought_of(40), Completion("4", "stop", 1))
    result = draw(engine, ThinkingConfig(constrained_rating="always"))
    assert (result.reason, result.prompt_tokens, result.output_tokens) == ("accepted", 2 * 35, 81)


def test_a_cancelled_draw_counts_what_has_come_of_all_its_requests():
    class Streaming(Engine):
        async def generate(self, request):
            if request.choices is None:
                request.on_tokens(40)
                return thought_of(40)
            await asyncio.sleep(30)

    async def cancel():
        decider = TraceDecider(SamplingConfig(max_tokens=100), AcceptanceConfig())
        sampler = DrawSampler(Streaming(), ThinkingConfig(constrained_rating="always"), decider)
        task = asyncio.create_task(sampler.sample(UNIT, 0, True))
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    result = asyncio.run(cancel())
    assert (result.reason, result.prompt_tokens, result.output_tokens) == ("cancelled", 35, 40)


def thought_of(num_tokens):
    return Completion("Good.", "stop", num_tokens, prompt_tokens=35)


@pytest.mark.parametrize("error", [EngineDeadError("dead"), PromptRefusedError("refused")])
def test_what_is_not_the_draws_fault_is_raised(error):
    with pytest.raises(type(error)):
        draw(Engine(error))
