from judgetrace.guideline import parse_guideline
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.entries import list_entries

GUIDELINE = parse_guideline("Rate from 1 to 3.\n")
ORIGINAL = Candidate("original", "original", None, "Rate from 1 to 3.")


def test_only_sound_candidates_of_a_text_of_their_own_enter() -> None:
    candidates = [
        ORIGINAL,
        Candidate("instructions-0", "instructions", 0, "Rate 1, 2, 3 in steps."),
        Candidate("instructions-1", "instructions", 1, " Rate 1, 2, 3 in steps.\n"),
        Candidate("rubric-0", "rubric", 0, "Rate 1.", ("level_missing: 2 of 3: ['2', '3']",)),
        Candidate("rubric-1", "rubric", 1, "", ("tags: found [] (0 tags)",)),
        Candidate("both-0", "both", 0, "", (), "truncated"),
        Candidate("both-1", "both", 1, "Rate from 1 to 3."),
    ]
    entries = list_entries(candidates, GUIDELINE, "")

    assert [entry.why_out for entry in entries] == [
        None,
        None,
        "the same text as instructions-0",
        "level_missing: 2 of 3: ['2', '3']",
        "tags: found [] (0 tags)",
        "truncated",
        "the same text as original",
    ]
    assert entries[1].file == "Rate 1, 2, 3 in steps.\n"
    assert entries[0].file == GUIDELINE.text


def test_the_original_by_section_is_shown_as_rate_items_would() -> None:
    guideline = parse_guideline("All.\n\n## Plot\n1 or 2.\n\n## Style\n1 or 2.\n", True)
    candidates = [ORIGINAL, Candidate("rubric-0", "rubric", 0, "All.\n\n## Plot\n1 is poor, 2 is rich.")]
    original, rubric = list_entries(candidates, guideline, "Plot")

    assert original.shown.guideline == "All.\n\n## Plot\n1 or 2."
    assert rubric.file == "All.\n\n## Plot\n\n1 is poor, 2 is rich.\n\n## Style\n1 or 2.\n"
    assert rubric.shown.guideline == "All.\n\n## Plot\n\n1 is poor, 2 is rich."
