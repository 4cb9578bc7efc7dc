"""Which look at the confirming items a comparison is."""

from pathlib import Path

from judgetrace.refining.look_log import fingerprint_look, number_look
from judgetrace.storage import Folder

ITEMS = [
    {"item_id": f"i{n}", "dimension": "", "target_source": "aggregate", "target_label": "3", "group": "g"}
    for n in range(3)
]
FIRST = (("old", "new"), "squared", ("a", "b"), ITEMS)


def test_a_look_is_another_one_with_another_text_score_rater_item_or_label() -> None:
    changed = [
        (("old", "newer"), *FIRST[1:]),
        (("older", "new"), *FIRST[1:]),
        (FIRST[0], "exact", *FIRST[2:]),
        (*FIRST[:2], ("a", "c"), ITEMS),
        (*FIRST[:3], ITEMS[:2]),
        (*FIRST[:3], [*ITEMS[:2], ITEMS[2] | {"target_label": "4"}]),
    ]
    assert len({fingerprint_look(*look) for look in [FIRST, *changed]}) == 1 + len(changed)
    assert fingerprint_look(*FIRST[:3], reversed(ITEMS)) == fingerprint_look(*FIRST)


def test_every_further_look_has_the_next_number_and_the_same_one_keeps_its_own(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    numbers = [number_look(run, look, 0) for look in ("a", "more items", "a", "other score", "more items")]
    assert numbers == [1, 2, 1, 3, 2]


def test_challengers_that_were_rated_before_there_was_a_log_count(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    assert [number_look(run, "c", 2), number_look(run, "c", 3), number_look(run, "d", 3)] == [3, 3, 4]
