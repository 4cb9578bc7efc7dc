"""Levels that are written like everyday words: an honest guideline names them, an everyday word does not."""

import pytest

from judgetrace.refining.hollow import list_undescribed
from judgetrace.refining.lint_words import is_named

NO_YES, SMALL, LETTERS = ("No", "Yes"), ("no", "yes"), ("A", "B")


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (NO_YES, "No where it is flat, Yes where it convinces."),
        (NO_YES, "answer YES when sure, otherwise no"),
        (NO_YES, "rate it no unless it moves you, then yes"),
        (NO_YES, "1. Read it.\n2. If it is flat, answer no. Else answer yes."),
        (NO_YES, 'Answer with "no" or \u201cyes\u201d.'),
        (NO_YES, "- **no** flat texts\n- **yes** vivid texts"),
        (NO_YES, "no: flat texts. yes: vivid ones"),
        (NO_YES, "No = flat, Yes = vivid"),
        (NO_YES, "No - flat\nYes \u2014 vivid"),
        (NO_YES, "No\u2014flat texts. Yes\u2014vivid ones."),
        (NO_YES, "| No | flat |\n| Yes | vivid |"),
        (NO_YES, "## No\nFlat.\n## Yes\nVivid."),
        (NO_YES, "### No flat texts\n### Yes vivid texts"),
        (NO_YES, "- No flat texts\n- Yes vivid texts"),
        (NO_YES, "1. No suits flat texts.\n2. Yes suits vivid ones."),
        (NO_YES, "No goes to flat texts. Yes goes to vivid ones."),
        (NO_YES, "No means that it is flat. Yes means that it is not."),
        (NO_YES, "Give No to flat texts and Yes to vivid ones."),
        (NO_YES, "The rating No suits flat texts; the rating Yes others."),
        (NO_YES, "a rating of no suits flat texts, a score of yes vivid ones"),
        (NO_YES, "Label: no\nLabel: yes"),
        (SMALL, "Say no where it bores, else yes."),
        (SMALL, "No: flat. Yes: vivid."),
        (SMALL, "no suits flat texts\nyes suits vivid ones"),
        (LETTERS, "A: strong. B: weak."),
        (LETTERS, "Give an A where it is strong, a B where it is weak."),
        (LETTERS, "Option A fits vivid texts, option B dull ones."),
        (LETTERS, "- A strong plot\n- B weak plot"),
        (LETTERS, "A. Strong\nB. Weak"),
        (LETTERS, "(A) strong\n(B) weak"),
        (LETTERS, "### A strong craft\n### B weak craft"),
        (("I", "II", "III"), "I: weak. II: fair. III: strong."),
        (("True", "False"), "True if the claim holds, False if not."),
        (
            ("none", "mild", "severe"),
            "none where there is no pain, mild where there is some, severe where there is much",
        ),
        (("threats", "slurs", "other"), "threats harm; slurs insult; the category other has the rest"),
        (("threats", "slurs", "other"), "Use threats for harm, slurs for insults, other for the rest."),
        (("not sexist", "sexist"), "sexist where it slurs, not sexist in all other cases"),
        (("1", "2", "3", "4", "5"), "1 awful, 2 poor, 3 fair, 4 good, 5 great"),
        (("-1", "0", "1"), "-1 where it is bad, 0 where it is neither, 1 where it is good"),
        # Letters without cases, and signs, are no everyday words.
        (("\u574f", "\u597d"), "\u574f texts bore, \u597d texts do not"),
    ],
)
def test_an_honest_guideline_names_all_of_its_levels(levels: tuple[str, ...], text: str) -> None:
    assert [level for level in levels if not is_named(level, text, levels)] == []


@pytest.mark.parametrize(
    ("level", "levels", "text"),
    [
        ("No", NO_YES, "Give Yes where no clich\u00e9s occur."),
        ("No", NO_YES, "Give Yes where it convinces. No clich\u00e9s may occur."),
        ("No", NO_YES, "Yes:\n- No clich\u00e9s\n- Vivid"),
        ("No", NO_YES, "- Yes: vivid, with no or few clich\u00e9s. No longer texts."),
        ("No", NO_YES, "**No clich\u00e9s**, then Yes."),
        ("No", NO_YES, "Yes where it is by no means dull, and no one objects."),
        ("no", SMALL, "Give yes where no clich\u00e9s occur."),
        ("A", LETTERS, "A text that bores gets B. Give a text a B."),
        ("A", LETTERS, "1. Read a text.\n2. A weak plot is B."),
        ("A", LETTERS, "a) Read it.\nb) Give B where it bores."),
        ("B", LETTERS, "A where plan b fails."),
        ("both", ("one", "both"), "Mind both plot and voice: one is enough."),
        ("none", ("none", "some"), "Give some where none of the texts bores."),
        ("other", ("threats", "other"), "It threatens other people: threats."),
        ("same", ("same", "different"), "Different where the same text differs."),
        ("true", ("true", "false"), "A true story may be false."),
        # As before: words that are not common, and numbers.
        ("sexist", ("not sexist", "sexist"), "Not sexist: all else."),
        ("3", ("1", "2", "3"), "1: low\n2: middling\n3. Read it."),
    ],
)
def test_an_everyday_word_names_no_level(level: str, levels: tuple[str, ...], text: str) -> None:
    assert [other for other in levels if not is_named(other, text, levels)] == [level]


def test_an_everyday_word_describes_no_level() -> None:
    assert list_undescribed("Answer Yes or No. Give Yes where no clich\u00e9s occur.", NO_YES) == ["No"]
    assert list_undescribed("Answer Yes or No. Give Yes where it is vivid, no where it is flat.", NO_YES) == []
