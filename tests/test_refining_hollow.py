"""Texts that say nothing of their own: bare levels, our own prompt."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from judgetrace.embedded import GUIDELINE as DEMO_GUIDELINE
from judgetrace.refining.candidate_config import CandidatesConfig
from judgetrace.refining.hollow import describe_bare_levels
from judgetrace.refining.lint import LintConfig, LintTask, lint_text
from judgetrace.refining.refine_prompts import Part, RefinePrompts, TemplateName, load_templates
from judgetrace.scale import Scale
from tests.refine_tables import REASONS

FIVE = ("1", "2", "3", "4", "5")
ORIGINAL = "Rate how good it is: 1 is bad, 3 is neither, 5 is good."
TEMPLATES: tuple[TemplateName, ...] = ("instructions", "rubric")


def make_prompts(levels: tuple[str, ...] = FIVE, **own: str) -> RefinePrompts:
    return RefinePrompts(load_templates(CandidatesConfig(**own)), "clarity", levels, "You are an editor.")


def list_reasons(text: str, levels: tuple[str, ...] = FIVE, original: str = ORIGINAL, **config: float) -> list[str]:
    """What is found of the hollow kinds in a text that a model wrote as a whole."""
    task = LintTask(Scale(values=levels), "clarity", (), original, make_prompts(levels).render_bare())
    found = [finding.reason for finding in lint_text(text, task, [], LintConfig(**config))]
    return [reason for reason in found if reason in {"bare_levels", "echoed"}]


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (FIVE, "1\n2\n3\n4\n5"),
        (FIVE, "1, 2, 3, 4, 5"),
        (FIVE, "- Level 1\n- Level 2\n- Level 3\n- Level 4\n- Level 5"),
        (FIVE, "Possible ratings: 1, 2, 3, 4, 5. Rate the text with exactly one of: 1, 2, 3, 4, 5."),
        (FIVE, "Rating: 1\nRating: 2\nRating: 3\nRating: 4\nRating: 5\nRating: 5\nRating: 5"),
        (FIVE, "## Guideline\n\n1. 1\n2. 2\n3. 3\n4. 4\n5. 5"),
        (("-1", "0", "1"), "\u22121\n0\n1"),
        (("not sexist", "sexist"), "not sexist\nsexist"),
        (("Strongly agree", "Agree", "Disagree"), "* Strongly agree\n* Agree\n* Disagree"),
    ],
)
def test_a_list_of_levels_without_descriptions_is_bare(levels: tuple[str, ...], text: str) -> None:
    assert list_reasons(text, levels, original="") == ["bare_levels"]
    assert list_reasons(text, levels, original="", described_words=0) == []


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (("1", "2", "3"), "1: bad. 2: neither. 3: good."),
        (FIVE, "1 awful, 2 poor, 3 fair, 4 good, 5 great"),
        (("No", "Yes"), "Yes where it convinces, else No."),
        (("not sexist", "sexist"), "sexist: a slur. Not sexist: all else."),
        (
            tuple(map(str, range(-4, 5))),
            "-4 extremely negative ... 0 neutral ... 4 extremely positive, as most see it.",
        ),
        # Steps name no level.
        (FIVE, "1. Read it.\n2. Rate it."),
        (FIVE, "Read it."),
    ],
)
def test_short_descriptions_and_steps_are_not_bare(levels: tuple[str, ...], text: str) -> None:
    assert list_reasons(text, levels, original="") == []


def test_the_words_that_were_found_are_told() -> None:
    assert describe_bare_levels("Clear: 1, 2, 3, 4, 5", FIVE, 5) == (
        "1 words besides the levels: ['clear'], expected 5 or more"
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_that_is_said_again_is_an_echo_with_or_without_the_guideline_in_it(template: TemplateName) -> None:
    prompts = make_prompts()
    parts = [Part(level, f"reason {level}") for level in FIVE]
    whole = prompts.ask_guideline(template, ORIGINAL, parts)[-1]["content"].replace("<codebook>", "")
    _, _, task = whole.partition("people agree:")

    assert list_reasons(whole) == ["echoed"]
    assert "echoed" in list_reasons(task)
    assert "echoed" in list_reasons(f"{ORIGINAL}\n\n{task.strip().splitlines()[-1]}")


def test_merging_and_critiques_are_prompts_too() -> None:
    prompts = make_prompts()
    merge = prompts.ask_guideline("merge", ORIGINAL, [Part("", "draft")], "rubric")[-1]["content"]

    assert list_reasons(merge.replace("<codebook>", "")) == ["echoed"]
    assert "echoed" in list_reasons(
        "What made the rating 1 and no other? List the reasons as rules that hold for other texts."
    )
    assert "echoed" in list_reasons("You are an editor.")


def test_headings_of_the_prompt_alone_are_an_echo_and_beside_descriptions_they_are_not() -> None:
    headings = "\n".join(f"[rated {level}]" for level in FIVE)
    described = "\n".join(f"[rated {level}]\n{reason}" for level, reason in REASONS.items())

    assert list_reasons(headings) == ["bare_levels", "echoed"]
    assert list_reasons(described, ("1", "2", "3")) == []


def test_a_sentence_of_the_prompt_in_a_guideline_that_says_more_is_no_echo() -> None:
    text = "This is the guideline by which people rate clarity. " + " ".join(REASONS.values()) + " 4 and 5 are rare."

    assert list_reasons(text) == []
    assert list_reasons(text, max_echoed=0.05) == ["echoed"]


def test_what_the_original_says_is_not_held_against_who_keeps_it() -> None:
    said = "Write the procedure as numbered steps that a new rater can follow for any text. 1 is bad, 5 is good."

    assert "echoed" in list_reasons(said)
    assert list_reasons(said, original=said) == []


def test_the_words_of_a_template_of_the_users_own_are_the_prompts(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(
        "{{ levels[1] }} Compose a splendid booklet about {{ guideline }} for us, please."
    )
    prompt = make_prompts(rubric_template=str(tmp_path / "own.jinja")).render_bare()
    task = LintTask(Scale(values=FIVE), "clarity", (), ORIGINAL, prompt)
    text = "Compose a splendid booklet about 1, 2, 3, 4 and 5 for us, please."

    assert [finding.reason for finding in lint_text(text, task, [], LintConfig())] == [
        "level_undescribed",
        "echoed",
    ]


@pytest.mark.parametrize("name", ["rate_item", "recover_rating"])
def test_other_prompts_of_ours_are_guidelines_by_these_rules(name: str) -> None:
    # They say what to do with an item; a candidate that does so is judged by the raters, not by the lint.
    text = (files("judgetrace") / "templates" / f"{name}.jinja").read_text()

    assert list_reasons(text) == []


def test_the_guideline_of_the_demo_passes() -> None:
    assert list_reasons(DEMO_GUIDELINE, tuple(map(str, range(-4, 5))), original="") == []
