"""The first draw against chance, where the target rule accepts either of two labels."""

from __future__ import annotations

from typing import Any

from judgetrace.accounting import tally_traces
from judgetrace.reporting.blocks import Table
from judgetrace.reporting.traces_section import TraceRun, make_acceptance, make_utilisation
from judgetrace.scale import ScaleConfig
from tests.report_runs import LEVELS, make_draw, make_row, make_table


def make_accepted(item: str, labels: list[str], rating: str) -> dict[str, Any]:
    """A unit whose first draw said one of its labels."""
    return make_row(item, {}, labels[0], [rating], accepted_labels=labels, outcome="accepted") | {
        "draws": [make_draw(0, rating, rating)],
        "draw_index": 0,
        "rating": rating,
    }


def test_a_half_point_that_was_accepted_is_a_match_on_the_whole_page_and_has_a_row_of_its_own() -> None:
    rows = [
        make_accepted("a", ["1", "2"], "2"),
        make_accepted("b", ["1", "2"], "1"),
        make_accepted("c", ["1"], "1"),
        make_row("d", {}, "1", ["2"]),
    ]
    run = TraceRun("run", tally_traces(make_table(rows)), ScaleConfig(values=tuple(LEVELS)), max_draws=1, units=4)

    section = make_acceptance([run])
    overall, by_label = (block for block in section.blocks if isinstance(block, Table))
    (first,) = overall.cells()
    outcomes = make_utilisation([run]).blocks[0]
    assert isinstance(outcomes, Table)
    assert first[1].text == outcomes.cells()[0][2].text == "75.0%"
    # A guess matches (2 + 2 + 1 + 1) / (4 * 5) = .3: (.75 - .3) / .7.
    assert first[2].text == "+64.3%"
    # By row: (.5 - .2) / .8 and (1 - .4) / .6; half of all draws say 1, all of them 1 or 2.
    assert [[cell.text for cell in row] for row in by_label.cells()] == [
        ["1", "2", "50.0%", "+37.5%", "50.0%"],
        ["1 or 2", "2", "100.0%", "+100.0%", "100.0%"],
    ]
    assert "either one where the target rule accepts either" in overall.note
