"""Units over quota, which no draw was made for, in the report's figures of data utilisation."""

from __future__ import annotations

from collections import Counter

import pytest

from judgetrace.accounting import Tally, utilisation_by_draws
from judgetrace.reporting.blocks import Table
from judgetrace.reporting.report import list_trace_facts
from judgetrace.reporting.traces_section import TraceRun, make_utilisation
from judgetrace.scale import ScaleConfig

# 4 accepted at their first draw, 2 missed with 4 draws each, and 6 that were not drawn.
TALLY = Tally(
    units=Counter({"\x1f3\x1faccepted": 4, "\x1f2\x1fexhausted": 2, "\x1f3\x1fover_quota": 6}),
    accepted_at=Counter({"0": 4}),
    draws=Counter(accepted=4, disagrees=8),
)
RUN = TraceRun("run", TALLY, ScaleConfig(values=("1", "2", "3")), max_draws=4, units=12)


def test_data_utilisation_is_of_the_units_that_were_asked_as_by_draws_and_in_the_manifest() -> None:
    assert RUN.utilisation == pytest.approx(4 / 6)
    assert RUN.utilisation == utilisation_by_draws(TALLY, 4)[4]


def test_the_page_counts_units_and_draws_without_those_over_quota() -> None:
    fact = next(list_trace_facts([RUN], [], []))
    assert (fact.value, fact.detail) == ("67%", "4 of 6 units")
    section = make_utilisation([RUN])
    assert "never asked" in section.lead
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    row = dict(zip(table.columns, (cell.text for cell in table.cells()[0]), strict=True))
    # 12 draws of 6 units.
    assert (row["decided"], row["utilisation"], row["over quota"], row["draws a unit"]) == ("12", "66.7%", "6", "2.0")
