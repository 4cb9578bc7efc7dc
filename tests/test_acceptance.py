"""Which ratings match."""

import pytest

from judgetrace.acceptance import AcceptanceConfig, accept_rating
from judgetrace.scale import Scale

FIVE = Scale(values=(1, 2, 3, 4, 5))
PREFERENCE = Scale(values=("a", "tie", "b"), type="nominal")
EXACT = AcceptanceConfig()
NEAR = AcceptanceConfig(rule="tolerance", tolerance=1)
ANY = AcceptanceConfig(rule="any_annotator")


@pytest.mark.parametrize(
    ("rating", "accepted_labels", "config", "expected"),
    [
        ("3", ["3"], EXACT, "exact"),
        ("4", ["3"], EXACT, None),
        ("4", ["3", "4"], EXACT, "half_point"),
        ("3", ["3", "4"], EXACT, "exact"),
        ("4", ["3"], NEAR, "tolerance"),
        ("5", ["3"], NEAR, None),
        ("5", ["3", "4"], NEAR, "tolerance"),
        ("3", ["3"], NEAR, "exact"),
        ("5", ["3"], ANY, "any_annotator"),
        ("1", ["3"], ANY, None),
    ],
)
def test_the_strictest_rule_that_accepts_is_named(rating, accepted_labels, config, expected):
    assert accept_rating(rating, accepted_labels, ["2", "5", "3"], FIVE, config) == expected


def test_a_nominal_scale_has_no_tolerance():
    assert accept_rating("tie", ["a"], ["a"], PREFERENCE, NEAR) is None
