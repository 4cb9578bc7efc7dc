from judgetrace.guideline import parse_guideline
from judgetrace.refining.guideline_file import diff_guidelines, read_shown, replace_guideline

FILE = """Rate stories.

## Plot
1 is thin, 2 is rich.

## Style / Voice
1 is flat, 2 is vivid.
"""


def test_a_guideline_without_sections_is_replaced_whole() -> None:
    assert replace_guideline(parse_guideline(FILE), "", "\nNew text.\n\n") == "New text.\n"


def test_by_section_only_the_dimensions_own_section_changes() -> None:
    file = replace_guideline(parse_guideline(FILE, True), "style/voice", "1 is dull, 2 is alive.")

    assert file == ("Rate stories.\n\n## Plot\n1 is thin, 2 is rich.\n\n## Style / Voice\n\n1 is dull, 2 is alive.\n")
    assert read_shown(file, True, "Plot") == read_shown(FILE, True, "Plot")


def test_a_preamble_and_a_heading_that_the_text_repeats_stand_once() -> None:
    file = replace_guideline(parse_guideline(FILE, True), "Plot", "Rate stories.\n\n## Plot\n1 is poor, 2 is good.")

    assert read_shown(file, True, "Plot") == "Rate stories.\n\n## Plot\n\n1 is poor, 2 is good."


def test_the_original_shown_to_raters_comes_out_as_it_was_but_for_a_blank_line() -> None:
    shown = read_shown(FILE, True, "Plot")
    file = replace_guideline(parse_guideline(FILE, True), "Plot", shown)

    assert read_shown(file, True, "Plot").split() == shown.split()


def test_headings_of_a_text_do_not_start_sections_and_code_stays_as_it_is() -> None:
    file = replace_guideline(parse_guideline(FILE, True), "Plot", "## Steps\nread\n```\n## comment\n```\n## Levels")

    assert list(parse_guideline(file, True).sections) == ["plot", "style/voice"]
    assert "### Steps\nread\n```\n## comment\n```\n### Levels" in read_shown(file, True, "Plot")


def test_code_that_a_text_leaves_open_does_not_swallow_the_sections_behind_it() -> None:
    # The headings behind an open fence would be code: this dimension's raters would be shown the others' sections.
    for mark in ("```", "~~~"):
        file = replace_guideline(parse_guideline(FILE, True), "Plot", f"1 is thin.\n{mark}\n## 2 is rich")

        assert list(parse_guideline(file, True).sections) == ["plot", "style/voice"]
        assert read_shown(file, True, "Plot") == f"Rate stories.\n\n## Plot\n\n1 is thin.\n{mark}\n## 2 is rich\n{mark}"
        assert read_shown(file, True, "Style / Voice") == read_shown(FILE, True, "Style / Voice")


def test_a_difference_names_what_went_and_what_came() -> None:
    assert diff_guidelines("same\nold\n", "same\nnew\n").splitlines()[3:] == [" same", "-old", "+new"]
    assert diff_guidelines("same\n", "same\n") == ""
