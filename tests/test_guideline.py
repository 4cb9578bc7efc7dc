import pytest

from judgetrace.guideline import parse_guideline

TEXT = """# Stories
Answer every question.

## Fluency / Narrative Ending
Is the end earned?

### Details
Look at the last page.

## Originality ##
Is it new?
```
## not a heading
```
"""


def test_a_whole_guideline_is_what_every_rater_sees() -> None:
    guideline = parse_guideline(TEXT)

    assert guideline.guideline_for("anything") == TEXT


def test_a_dimension_gets_the_preamble_and_its_own_section() -> None:
    guideline = parse_guideline(TEXT, by_section=True)

    assert guideline.guideline_for("Fluency/Narrative Ending") == (
        "# Stories\nAnswer every question.\n\n"
        "## Fluency / Narrative Ending\nIs the end earned?\n\n### Details\nLook at the last page."
    )
    assert guideline.guideline_for("fluency /  narrative   ending") == guideline.guideline_for(
        "Fluency/Narrative Ending"
    )


def test_headings_inside_fenced_code_start_no_section() -> None:
    guideline = parse_guideline(TEXT, by_section=True)

    assert "## not a heading" in (guideline.guideline_for("originality") or "")
    assert guideline.guideline_for("not a heading") is None


def test_a_dimension_without_a_section_has_no_guideline() -> None:
    assert parse_guideline(TEXT, by_section=True).guideline_for("Pacing") is None


def test_a_guideline_without_a_preamble_is_its_sections() -> None:
    assert parse_guideline("## A\nfirst", by_section=True).guideline_for("a") == "## A\nfirst"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(" \n", "empty"), ("# Only a title\n", "no '## ' heading"), ("## A\nx\n## a\ny\n", "more than one section")],
)
def test_a_guideline_that_cannot_be_cut_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_guideline(text, by_section=True)
