import pytest
from pydantic import ValidationError

from judgetrace.scale import Scale, ScaleConfig


def test_a_label_is_found_as_written_then_as_a_number_then_without_regard_to_case() -> None:
    numbers = Scale(values=(1, 2, 3))  # type: ignore[arg-type]
    words = Scale(values=("No", "Yes"))

    assert [numbers.find_level(label) for label in ("2", " 2 ", "2.0", 2, 2.0, "2.5", "two", "")] == [
        *[1, 1, 1, 1, 1],
        *[None, None, None],
    ]
    assert [words.find_level(label) for label in ("Yes", "yes", " NO ", "maybe")] == [1, 1, 0, None]


def test_a_real_minus_is_one() -> None:
    assert Scale(values=(-4, 0, 4)).find_level("\N{MINUS SIGN}4") == 0  # type: ignore[arg-type]


def test_levels_without_numbers_stand_at_their_positions() -> None:
    assert Scale(values=("bad", "fair", "good")).numbers == (0.0, 1.0, 2.0)
    assert Scale(values=("-4", "0", "10")).numbers == (-4.0, 0.0, 10.0)


@pytest.mark.parametrize(("rule", "levels"), [("floor", (1,)), ("ceil", (2,)), ("either", (1, 2))])
def test_a_half_point_goes_by_its_rule(rule: str, levels: tuple[int, ...]) -> None:
    assert Scale(values=("1", "2", "3")).snap(2.5, rule) == levels  # type: ignore[arg-type]


def test_a_number_that_is_no_half_point_snaps_to_the_nearest_level_whatever_the_rule() -> None:
    uneven = Scale(values=("1", "2", "5"))

    assert [uneven.snap(number, "ceil") for number in (1.4, 3.4, 3.6, 9.0)] == [(0,), (1,), (2,), (2,)]
    assert uneven.snap(3.5, "either") == (1, 2)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1",), "ordinal"),
        (("1", "1"), "nominal"),
        (("3", "1"), "ordinal"),
        (("a", "b"), "interval"),
        (("", "a"), "nominal"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(values: tuple[str, ...], kind: str) -> None:
    with pytest.raises(ValidationError, match="scale"):
        Scale(values=values, type=kind)  # type: ignore[arg-type]


def test_a_dimension_has_its_own_scale_or_the_default_one_or_none() -> None:
    own = Scale(values=("no", "yes"))
    both = ScaleConfig(values=("1", "2"), dimensions={"fluency": own})

    assert both.of("fluency") == own
    assert both.of("other") == Scale(values=("1", "2"))
    assert ScaleConfig(dimensions={"fluency": own}).of("other") is None
    with pytest.raises(ValidationError, match="no scale"):
        ScaleConfig()
