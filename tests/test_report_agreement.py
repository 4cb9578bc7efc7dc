"""The report's sections of agreement, made of what measure_agreement really writes."""

from pathlib import Path

import pytest

from judgetrace.config import UserError
from judgetrace.reporting.agreement_section import MAX_PAIRS, make_headline
from judgetrace.reporting.blocks import Cell, Section, Table
from judgetrace.reporting.config import ComparisonConfig
from judgetrace.reporting.run_reading import read_agreement
from tests.agreement_runs import write_agreement

RATERS = ("untuned", "tuned", "untuned-refined", "tuned-refined", "shuffled")


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_agreement(tmp_path_factory.mktemp("agreement"), RATERS)


def compare(before: str, after: str, *, optional: bool = True) -> ComparisonConfig:
    return ComparisonConfig(before=before, after=after, optional=optional)


def read_changes(section: Section) -> Table:
    (table,) = (b for b in section.blocks if isinstance(b, Table) and b.caption.startswith("Before and after"))
    return table


def list_heads(table: Table) -> list[str]:
    return [row[0].text for row in table.rows if isinstance(row[0], Cell)]


def test_pairs_that_are_named_are_shown_wherever_they_stand_among_all_pairs(agreement: str) -> None:
    named = [compare("tuned", "tuned-refined"), compare("shuffled", "tuned")]
    table = read_changes(make_headline(read_agreement(agreement, named, frozenset())))

    assert list_heads(table) == ["tuned → tuned-refined", "shuffled → tuned"]
    assert "not shown" not in table.note


def test_an_optional_pair_is_left_out_where_nobody_measured_it_and_another_one_is_an_error(agreement: str) -> None:
    given = [compare("untuned", "tuned"), compare("large", "tuned")]
    assert read_agreement(agreement, given, frozenset()).pairs == [("untuned", "tuned", "")]
    with pytest.raises(UserError, match=r"the agreement has no raters \['large'\]"):
        read_agreement(agreement, [compare("large", "tuned", optional=False)], frozenset())


def test_pairs_beyond_those_shown_are_counted_where_none_is_named(agreement: str) -> None:
    table = read_changes(make_headline(read_agreement(agreement, [], frozenset())))

    assert len(list_heads(table)) == MAX_PAIRS
    assert "4 more pairs of raters are not shown" in table.note


def test_no_agreement_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected: an output of measure_agreement"):
        read_agreement(str(tmp_path), [], frozenset())
