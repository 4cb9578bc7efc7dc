import pytest

from judgetrace.refining.lint import (
    Finding,
    LintConfig,
    LintTask,
    choose_other_names,
    extract_guideline,
    find_copied,
    find_missing_levels,
    lint_guideline,
    lint_text,
)
from judgetrace.scale import Scale

SCALE = Scale(values=("1", "2", "3"))
TASK = LintTask(SCALE, "complexity", ("engagement", "story_structure"), "Rate complexity. 1 is flat, 3 is rich.")
GOOD = "Rate how complex the story is.\nLevel 1: flat.\nLevel 2: some layers.\nLevel 3: rich."
ITEM = "The old ferryman counted his coins twice before the river took the last of the daylight."
CONFIG = LintConfig()


def list_reasons(text: str, task: LintTask = TASK, items: tuple[str, ...] = (ITEM,)) -> list[str]:
    return [found.reason for found in lint_guideline(f"<codebook>{text}</codebook>", task, items, CONFIG).findings]


def test_a_sound_guideline_is_returned_without_its_tags() -> None:
    found = lint_guideline(f"\n<codebook>\n{GOOD}\n</codebook>\n", TASK, [ITEM], CONFIG)

    assert found.is_sound
    assert found.text == GOOD


@pytest.mark.parametrize(
    ("output", "text", "reasons"),
    [
        ("no tags at all", None, ["tags"]),
        ("<codebook>never closed", None, ["tags"]),
        ("</codebook>a<codebook>", None, ["tags"]),
        ("<codebook>a</codebook><codebook>b</codebook>", None, ["tags"]),
        ("<codebook> \n </codebook>", None, ["empty"]),
        ("<CodeBook>a</CodeBook>", "a", []),
        ("Here it is: <codebook>a</codebook>", "a", ["text_outside"]),
        ("<codebook>a</codebook> I hope this helps!", "a", ["text_outside"]),
    ],
)
def test_the_guideline_is_what_stands_between_one_pair_of_tags(
    output: str, text: str | None, reasons: list[str]
) -> None:
    found, findings = extract_guideline(output)

    assert found == text
    assert [finding.reason for finding in findings] == reasons


@pytest.mark.parametrize(
    ("levels", "text", "missing"),
    [
        (("1", "2", "3"), "1 = low, **2** = middling, (3) high", []),
        (("1", "2", "3"), "1: low\n2: middling", ["3"]),
        (("1", "2", "3"), "1. Read.\n2. Think.\n 3) Rate.", ["1", "2", "3"]),
        (("1", "2", "3"), "Rate from 1-3, give 2 if unsure", ["1", "3"]),
        (("1", "2", "3"), "1 and 2.5 and 13 and 3.", ["2"]),
        (("1", "10"), "Give 10.", ["1"]),
        (("-1", "0", "1"), "0 is neutral, -1 is bad", ["1"]),
        (("No", "Yes"), "answer YES when sure, otherwise no", []),
        (("-1", "0", "1"), "0 is neutral, \u22121 is bad, +1 is good", []),
        (("not sexist", "sexist"), "sexist: a slur. Not\nsexist: all else.", []),
        (("not sexist", "sexist"), "Not sexist: all else.", ["sexist"]),
        (("1. threats", "2. slurs"), "1. Threats\n2. Animosity", ["2. slurs"]),
        (("1", "5"), "On this 5-point scale 1 is worst.", ["5"]),
    ],
)
def test_levels_must_be_named(levels: tuple[str, ...], text: str, missing: list[str]) -> None:
    expected = [Finding("level_missing", f"{len(missing)} of {len(levels)}: {missing}")] if missing else []

    assert find_missing_levels(text, Scale(values=levels)) == expected


def test_what_surrounds_a_rubric_can_not_name_a_level_for_it() -> None:
    rubric = "Level 1: flat. Level 2: some layers."
    text = f"## Complexity from 1 to 3\n\n{rubric}\n\nGive 3 where it is rich."

    assert lint_text(text, TASK, [], CONFIG, procedure="Give 3 where it is rich.") == []
    assert lint_text(text, TASK, [], CONFIG, rubric=rubric) == [Finding("level_missing", "1 of 3: ['3']")]


@pytest.mark.parametrize(
    ("levels", "text", "undescribed"),
    [
        (("1", "2", "3"), "Answer with 1, 2 or 3. Mind mood, pace, voice, plot and style.", ["1", "2", "3"]),
        (("1", "2", "3"), "Answer with 1, 2 or 3. Mind mood, pace, voice and plot. 3 is rich.", ["1", "2"]),
        (("1", "2", "3"), "Answer with 1, 2 or 3. Flat texts get a 1, rich ones 2 or 3.", []),
        (("1", "2", "3"), "| 1 | flat |\n| 2 | some layers |\n| 3 | rich |", []),
        (("1", "2", "3"), "### 1\nFlat.\n### 2\nSome layers.\n### 3\nRich.", []),
        (("-1", "0", "1"), "\u22121, 0 or 1, by mood, pace, voice, plot and style.", ["-1", "0", "1"]),
        (("No", "Yes"), "Yes where it convinces, else No.", []),
        (("No", "Yes"), "Answer Yes or No. Mind mood, pace and voice.", ["No", "Yes"]),
        (("not sexist", "sexist"), "Answer sexist or not sexist. It is sexist where it slurs.", ["not sexist"]),
    ],
)
def test_a_level_that_is_only_in_lists_of_all_is_not_described(
    levels: tuple[str, ...], text: str, undescribed: list[str]
) -> None:
    task = LintTask(Scale(values=levels), "complexity", (), "Rate it.")
    expected = [Finding("level_undescribed", f"{len(undescribed)} of {len(levels)}: {undescribed}")]

    assert lint_text(text, task, [], CONFIG) == (expected if undescribed else [])
    assert lint_text(text, task, [], LintConfig(described_words=0)) == []


def test_other_names_are_those_of_dimensions_and_sections_in_their_first_spelling() -> None:
    names = ["style", "Story_Structure", "story structure", "fluency / pacing", "Style", ""]

    assert choose_other_names("Style", names) == ("fluency / pacing", "Story_Structure")
    assert choose_other_names("", ["", "Style"]) == ("Style",)


def test_the_names_of_other_dimensions_do_not_belong() -> None:
    assert list_reasons(GOOD + " Mind its Engagement.") == ["other_dimension"]
    assert list_reasons(GOOD + " Mind the story structure.") == ["other_dimension"]
    assert list_reasons(GOOD + " Be engaged.") == []


def test_a_name_that_the_original_has_may_stay_but_not_spread() -> None:
    task = LintTask(SCALE, "complexity", ("engagement",), "Rate complexity, not engagement.")

    assert list_reasons(GOOD + " Not engagement.", task) == []
    assert list_reasons(GOOD + " Not engagement. High engagement is a 3.", task) == ["other_dimension"]


def test_a_name_inside_of_the_own_name_is_the_own_one() -> None:
    task = LintTask(SCALE, "story coherence", ("coherence", ""), "Rate it.")

    assert list_reasons(GOOD + " Story coherence counts.", task) == []
    assert list_reasons(GOOD + " Coherence counts.", task) == ["other_dimension"]


def test_a_dimension_may_be_named_without_what_stands_before_the_slash() -> None:
    task = LintTask(SCALE, "Fluency/Narrative Ending", ("Fluency/Narrative Pacing", "Originality/Form"), "Rate it.")

    assert list_reasons(GOOD + " A narrative ending.", task) == []
    assert list_reasons(GOOD + " Fluency / narrative pacing.", task) == ["other_dimension"]
    assert list_reasons(GOOD + " The narrative pacing.", task) == ["other_dimension"]


def test_an_everyday_word_can_be_allowed() -> None:
    config = LintConfig(allowed_names=("Engagement",))

    assert lint_guideline(f"<codebook>{GOOD} Engagement.</codebook>", TASK, [], config).is_sound


def test_eight_words_of_an_item_are_copied_and_seven_are_not() -> None:
    eight = "counted his coins twice, before THE river took"
    seven = "counted his coins twice before the river"

    assert list_reasons(f"{GOOD} For example: {eight}.") == ["copied"]
    assert list_reasons(f"{GOOD} For example: {seven}.") == []


def test_what_the_original_quotes_is_not_copied() -> None:
    quote = "counted his coins twice before the river took"

    assert find_copied(f"{GOOD} {quote}", f"As in: {quote}.", [ITEM], CONFIG) == []


def test_a_short_item_is_copied_as_a_whole() -> None:
    text = "As: women can't drive at all."
    found = find_copied(text, "", ["Women can\u2019t drive at all"], CONFIG)

    assert [finding.reason for finding in found] == ["copied"]
    assert find_copied(text, "", ["Women can't drive"], CONFIG) == []


def test_many_items_of_a_word_or_two_are_copied_and_a_few_are_not() -> None:
    items = ["awful", "Very nice", "so-so", "plain", "lovely", ":-)"]
    few = "Awful and plain things rate 1, lovely and very nice ones 5."

    assert find_copied(few, "", items, CONFIG) == []
    found = find_copied(f"{few} So-so ones rate 3.", "", items, CONFIG)
    assert [finding.detail for finding in found] == [
        "5 short items: ['awful', 'lovely', 'plain', 'so so', 'very nice']"
    ]
    assert find_copied(f"{few} So-so ones rate 3.", "Plain is 2.", items, CONFIG) == []


def test_text_without_blanks_is_compared_by_character() -> None:
    item = "昔々あるところにおじいさんがいました"

    assert [found.reason for found in find_copied(f"例: {item}。", "", [item], CONFIG)] == ["copied"]


def test_a_guideline_has_a_longest_length() -> None:
    long = GOOD + " More." * 2000
    (found,) = lint_guideline(f"<codebook>{long}</codebook>", TASK, [], CONFIG).findings

    assert found == Finding("too_long", f"{len(long)} characters, at most 12000")
    assert list_reasons(long, LintTask(SCALE, "complexity", (), GOOD * 100)) == []


def test_all_that_is_wrong_is_told_at_once() -> None:
    output = f"Sure! <codebook>Level 1 and level 2; see engagement. {ITEM}</codebook>"
    found = lint_guideline(output, TASK, iter([ITEM]), CONFIG)

    assert not found.is_sound
    assert [finding.reason for finding in found.findings] == [
        "text_outside",
        "level_missing",
        "other_dimension",
        "copied",
    ]
