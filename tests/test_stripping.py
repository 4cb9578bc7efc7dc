# ruff: noqa: RUF001 - minus signs and full stops as models write them
"""Ratings stripped from traces, by literal examples."""

import time

import pytest

from judgetrace.scale import Scale
from judgetrace.stripping import mentions_hint, names_level, strip_ratings

FIVE = Scale(values=("1", "2", "3", "4", "5"))
SIGNED = Scale(values=tuple(str(n) for n in range(-4, 5)))
WORDS = Scale(values=("bad", "good", "very good"))
SEXISM = Scale(values=("not sexist", "sexist"), type="nominal")
BOOL = Scale(values=("No", "Yes"))
LETTERS = Scale(values=("A", "B"), type="nominal")
PAIR = Scale(values=("a1", "equal", "a2"), type="nominal")

END = " The end."
"""Keeps what stands before it from being the verdict at the end."""


@pytest.mark.parametrize(
    ("trace", "left"),
    [
        ("It is dull. <rating>2</rating>", "It is dull."),
        ("It is dull. <rating>2", "It is dull."),
        ("It is dull. ‹rating›2‹/rating›", "It is dull."),
        ("Well made. I'd give it a 4.", "Well made."),
        ("Well made. Overall, this deserves a rating of 4 out of 5.", "Well made."),
        ("Well made.\n\nScore: 4/5", "Well made."),
        ("Well made.\n\n**Rating: 4**", "Well made."),
        ("Well made. So: 4.", "Well made."),
        ("Well made. I think 3 or 4. Let me say 4.", "Well made."),
        ("Well made. A solid four.", "Well made."),
        ("Well made. It earns the highest rating.", "Well made."),
        ("Well made. This is at the top of the scale.", "Well made."),
        ("I'd give it a 4 since it is well made.", "I'd give it a [removed] since it is well made."),
    ],
)
def test_the_verdict_at_the_end_goes_as_a_whole_unless_nothing_else_is_there(trace, left):
    assert strip_ratings(trace, FIVE) == left


@pytest.mark.parametrize(
    ("trace", "left"),
    [
        ("I'd give it a 4 because it is dense.", "I'd give it a [removed] because it is dense."),
        ("A score of 3.5 seems fair, so 3 or 4.", "A score of [removed] seems fair, so [removed] or [removed]."),
        ("It is between 3 and 4, say.", "It is between [removed] and [removed], say."),
        ("A 3-4 range fits.", "A [removed] range fits."),
        ("It is worth 4 stars.", "It is worth [removed] stars."),
        ("This is a four-star story.", "This is a [removed]-star story."),
        ("It merits four out of five here.", "It merits [removed] here."),
        ("Level 2 asks for depth.", "Level [removed] asks for depth."),
        ("Not a 5, though.", "Not a [removed], though."),
        ("I lean towards 2, for now.", "I lean towards [removed], for now."),
        ("This could be rated as three, perhaps.", "This could be rated as [removed], perhaps."),
        ("The rating should be: 5!", "The rating should be: [removed]!"),
        ("My final answer is **4**, then.", "My final answer is **[removed]**, then."),
        ("4 = good, and that fits.", "[removed] = good, and that fits."),
        ("No full marks here.", "No [removed] here."),
        ("Not the lowest possible score.", "Not [removed]."),
        ("Rate it 4.", "Rate it [removed]."),
        ("My score is 4 - the prose sings.", "My score is [removed] - the prose sings."),
        ("It is a 4 – lively prose.", "It is a [removed] – lively prose."),
        ("So 4 - lively prose.", "So [removed] - lively prose."),
        ("I'd give it four - the prose is good.", "I'd give it [removed] - the prose is good."),
        ("A rating of 4 - the prose is good.", "A rating of [removed] - the prose is good."),
        ("Rated: 4\nReasons follow here.", "Rated: [removed]\nReasons follow here."),
        ("So I say 4\nReasons follow here.", "So I say [removed]\nReasons follow here."),
        (
            "So ends my answer to the question\n4\nIt is dull.",
            "So ends my answer to the question\n[removed]\nIt is dull.",
        ),
        ("So it is\n4.\nIt is dull.", "So it is\n[removed].\nIt is dull."),
        ("A score of $4$ fits, not $$3.5$$.", "A score of [removed] fits, not 3.5."),
        ("A score of $3.5$ fits.", "A score of [removed] fits."),
        ("It has $4$ characters, so $4$ it is.", "It has 4 characters, so [removed] it is."),
        ("It is at the fourth level of the scale.", "It is at the [removed] level of the scale."),
        ("It is the 4th level, plainly.", "It is the [removed] level, plainly."),
        ("This is fifth category work.", "This is [removed] category work."),
        ("The fourth point on this five-point scale fits.", "The [removed] point on this [removed]-point scale fits."),
        ("It is the fourth of the five levels.", "It is the [removed] of the [removed] levels."),
        ("It merits the second-highest rating here.", "It merits [removed] here."),
        ("I go with second lowest, then.", "I go with [removed], then."),
        ("It is the next-to-highest, then.", "It is [removed], then."),
        ("It gets the second best rating.", "It gets [removed]."),
        ("I say ★★★★☆ for its style.", "I say [removed] for its style."),
        ("I say ⭐️⭐️⭐️⭐️ for its style.", "I say [removed] for its style."),
        ("Style: ★★★½, or 4★.", "Style: [removed], or [removed]★."),
        ("Style: ●●●●○, and ■ ■ □ □ □.", "Style: [removed], and [removed]."),
        ("So I say #4, not #3.", "So I say #[removed], not #[removed]."),
        ("Level #4 fits.", "Level #[removed] fits."),
        ("評価は4点です。", "評価は[removed]点です。"),
        ("我给4分，因为它好。", "我给[removed]分，因为它好。"),
        ("我给4，因为它好。", "我给[removed]，因为它好。"),
        ("这部是第4级，是4星。", "这部是第[removed]级，是[removed]星。"),
        ("점수는 4점이다.", "점수는 [removed]점이다."),
        ("A score of 4 reflects its depth.", "A score of [removed] reflects its depth."),
        ("A score of 4 characters' worth.", "A score of [removed] characters' worth."),
        ("I'd give it a 4 after all.", "I'd give it a [removed] after all."),
        ("I think a 3 captures this.", "I think a [removed] captures this."),
        ("A solid four acknowledges the effort.", "A solid [removed] acknowledges the effort."),
        ("A rating of 2 will do.", "A rating of [removed] will do."),
        ("The grade should be a low 2 given the plot.", "The grade should be a low [removed] given the plot."),
        ("So 4 reflects it well.", "So [removed] reflects it well."),
        ("Here 3 accurately says it.", "Here [removed] accurately says it."),
        ("I think 4 can be defended.", "I think [removed] can be defended."),
        ("I feel 2 appropriate.", "I feel [removed] appropriate."),
        ("Thus 4 has my vote.", "Thus [removed] has my vote."),
    ],
)
def test_a_rating_inside_the_reasoning_is_masked_and_its_sentence_stays(trace, left):
    assert strip_ratings(trace + END, FIVE) == left + END


@pytest.mark.parametrize(
    "trace",
    [
        "There are 4 characters and three scenes.",
        "It has 40 words, 4.5 pages and 12 chapters.",
        "In paragraph 4 the tone shifts; see line 2.",
        "1. The plot is thin.\n2. The style is flat.\n3) It ends well.",
        "A 4-year-old could follow it.",
        "The 4th act drags, 5% of it at least.",
        "One of the best passages, and no one dies.",
        "The two are siblings.",
        "It gives one another reason to read on.",
        "It gives three reasons to read on.",
        "At 4:30 they met, for $5.",
        "A one-off joke in a two-part story.",
        "This level of detail is rare, and the score is by a composer.",
        "In 2004 they moved.",
        "It has 3-4 characters, or 2 to 3 scenes.",
        "She writes: [...] and goes on.",
        "They are only given two or three sentences of description.",
        "I am not sure how to answer this one.",
        "If I have to pick one, it is hard.",
        "At one point, she bemoans the fact.",
        "It is richer than Stories 2 and 3, and than Story 1.",
        "It happens in para. 12 and 15/16.",
        "It is a 4-part story, for 4 reasons.",
        "A 3- or 4-part story of 4\u00a0characters.",
        "It has 3 - 4 scenes.",
        "It costs $4, or $4 and $5 with tax.",
        "The fourth paragraph is dull, and the 4th act is, too.",
        "The second point is that it drags; my first point stands.",
        "On a second level it mocks, on another second level it does not.",
        "It works on the second level of meaning, as the first category of readers sees.",
        "It is the fourth of five children.",
        "The second-highest mountain, the second-best story.",
        "Chapter #4 of the story, paragraphs #2 and #3.",
        "Reviewer #4 says so; see issue #4, and the #1 fan.",
        "#4ever and &#4; too, on an F#4.",
        "★ The plot.\n● The style.\n●●●\nIt ends.",
        "4分钟后他走了。4人、4点钟、图4、第4章。以下の4点。",
        "A 4 page story in a three act form, of 4 families; a 2 minute read.",
        "It shows 4 butterflies, 3 replies and 2 assemblies.",
        "In all 4 scenes we see 3 old men and 2 weeping women.",
        "There are 3 good reasons, 4 fair points and 2 low walls; 5 more walls stand.",
    ],
)
def test_counts_parts_lists_and_other_numbers_stay(trace):
    assert strip_ratings(trace + END, FIVE) == trace + END


@pytest.mark.parametrize(
    ("scale", "trace", "left"),
    [
        (SIGNED, "The word is warm. So -2 fits.", "The word is warm. So [removed] fits."),
        (SIGNED, "A score of minus three is too harsh.", "A score of [removed] is too harsh."),
        (SIGNED, "I'd say −4, or 0 at best.", "I'd say [removed], or [removed] at best."),
        (WORDS, "It is very good, not just good.", "It is [removed], not just [removed]."),
        (WORDS, "The goods arrive late.", "The goods arrive late."),
        (
            SEXISM,
            "This is not_sexist, or Not Sexist; hardly sexist.",
            "This is [removed], or [removed]; hardly [removed].",
        ),
        (BOOL, "There is no proof, so I say yes to that.", "There is no proof, so I say yes to that."),
        (BOOL, "Yes, it holds.", "[removed], it holds."),
        (BOOL, "I'd say No because it is flat.", "I'd say [removed] because it is flat."),
        (BOOL, "I conclude no, for it is flat.", "I conclude [removed], for it is flat."),
        (BOOL, "She says no to him and answers no one.", "She says no to him and answers no one."),
        (BOOL, 'The answer is "No", it fails.', 'The answer is "[removed]", it fails.'),
        (BOOL, "It is a clear yes.", "It is a clear [removed]."),
        (BOOL, "So yes, it passes.", "So [removed], it passes."),
        (BOOL, "So, no.", "So, [removed]."),
        (BOOL, "I lean no.", "I lean [removed]."),
        (BOOL, "This should be Yes.", "This should be [removed]."),
        (BOOL, "That makes it a no for me.", "That makes it a [removed] for me."),
        (BOOL, "So no proof is given by a no-go.", "So no proof is given by a no-go."),
        (BOOL, "He gave a no-nonsense answer.", "He gave a no-nonsense answer."),
        (FIVE, "I find it 4-ish.", "I find it [removed]-ish."),
        (FIVE, "It took 4-ish minutes, 20-ish in all.", "It took 4-ish minutes, 20-ish in all."),
        (FIVE, "Level IV fits.", "Level [removed] fits."),
        (FIVE, "Chapter IV is long; at this level I stop.", "Chapter IV is long; at this level I stop."),
        (BOOL, "The label: yes, since it holds.", "The label: [removed], since it holds."),
        (LETTERS, "A story is told. I choose B, for its end.", "A story is told. I choose [removed], for its end."),
        (LETTERS, "The answer is a clear improvement.", "The answer is a clear improvement."),
        (PAIR, "Essay A1 is richer than a2; not equal.", "Essay [removed] is richer than [removed]; not [removed]."),
    ],
)
def test_levels_that_are_negative_or_words_are_masked_too(scale, trace, left):
    assert strip_ratings(trace + END, scale) == left + END


@pytest.mark.parametrize("scale", [FIVE, SIGNED, WORDS, BOOL])
@pytest.mark.parametrize("trace", ["", "  ", "No rating here at all", "Line one\n\nLine two\n"])
def test_a_trace_without_a_rating_keeps_all_but_outer_blanks(scale, trace):
    assert strip_ratings(trace, scale) == trace.strip()


@pytest.mark.parametrize(
    ("scale", "text", "leaks"),
    [
        (FIVE, "It is dull and has 4 characters.", False),
        (FIVE, "It is [removed] and dull.", False),
        (FIVE, "It is a matter of four or so.", True),
        (FIVE, "Four characters meet.", False),
        (FIVE, "Of ten it is six.", False),
        (FIVE, "This is 4, plainly.", True),
        (FIVE, "It is 4 - the prose sings.", True),
        (FIVE, "It is 4\nReasons follow here.", True),
        (FIVE, "It is four – lively prose.", True),
        (FIVE, "A 4-part story, a four-part story.", False),
        (FIVE, "It reaches the upper end of the scale.", True),
        (FIVE, "It is at the fourth level of quality.", True),
        (FIVE, "On a fourth level it mocks; the fourth paragraph.", False),
        (FIVE, "It is $4$, plainly.", True),
        (FIVE, "It is #4, plainly, or second-highest.", True),
        (FIVE, "Chapter #4 costs $4.", False),
        (FIVE, "Style: ★★★★☆", True),
        (FIVE, "評価は4点です。", True),
        (WORDS, "Its goodness shows.", True),
        (FIVE, "A rating as high as 4 characters allow.", True),
        (FIVE, "It is scored, like the others, 4 times.", True),
        (FIVE, "The score, as one hears, is by 4 composers.", False),
        (FIVE, "He rates films. There are 4 characters.", False),
        (BOOL, "No proof is given.", False),
        (BOOL, "It is what it is: yes.", True),
        (BOOL, "He would answer with a no", True),
        (FIVE, "It gets 4s from most.", True),
        (FIVE, "In the 1960s it took 4s runs.", False),
        (SEXISM, "It shows sexist language.", True),
    ],
)
def test_what_is_left_is_looked_at_again_and_wider(scale, text, leaks):
    assert names_level(text, scale) == leaks


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ("I was told that it is a 4.", True),
        ("The target label is 4, so it must be rich.", True),
        ("We have been given a rating to justify.", True),
        ("An annotator rated it 4.", True),
        ("The label that was given fits.", True),
        ("The story was told by a child, given its age.", False),
        ("Given the pace, it is rich.", False),
    ],
)
def test_a_trace_that_says_that_it_was_told_is_found(trace, told):
    assert mentions_hint(trace) == told


def test_stripping_twice_changes_nothing_more():
    once = strip_ratings("I'd give it a 4 because of 4 characters. It ends. Score: 4/5", FIVE)
    assert strip_ratings(once, FIVE) == once == "I'd give it a [removed] because of 4 characters. It ends."


@pytest.mark.parametrize(
    "piece",
    [
        *("=", "score is ", "4 ", "\n", "**", "- ", "a a ", "rating: * ", "[removed]-", "<rating>"),
        *("$", "$4 ", "★ ", "●○ ", "● ", "#4 ", "second ", "second level of ", "second point on the ", "4点"),
        *("score of ", "score of 4 ", "a 4 ", "a solid ", "4 aly ", "rate it, ", "say "),
    ],
)
def test_text_that_means_to_be_slow_takes_no_longer_than_any_other(piece):
    trace = "I'd rate it" + piece * (20_000 // len(piece)) + "x"
    began = time.process_time()
    names_level(strip_ratings(trace, SIGNED), SIGNED)
    assert time.process_time() - began < 2.0
