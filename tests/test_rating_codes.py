import numpy as np
import pytest

from judgetrace.agreement.rating_codes import NO_RATING, OFF_SCALE, RatingCodes
from judgetrace.scale import Scale


def test_levels_are_their_own_codes_and_other_numbers_go_to_a_hundredth_of_a_step() -> None:
    codes = RatingCodes(Scale(values=(1, 2, 3, 4, 5)))
    given = np.array([1.0, 5.0, 2.5, 2.004, 3.337, np.nan, 0.9, 5.2])

    encoded = codes.encode_numbers(given)

    assert encoded[:2].tolist() == [0, 4]
    assert encoded[3] == 1  # rounds to the level 2
    assert encoded[5:].tolist() == [NO_RATING, OFF_SCALE, OFF_SCALE]
    assert codes.read_numbers(encoded[:5]).tolist() == pytest.approx([1.0, 5.0, 2.5, 2.0, 3.34])
    assert codes.read_levels(encoded).tolist() == [0, 4, 1, 1, 2, NO_RATING, OFF_SCALE, OFF_SCALE]


def test_levels_at_uneven_distances_keep_their_exact_numbers() -> None:
    codes = RatingCodes(Scale(values=(0, 0.3, 1.0), type="interval"))
    encoded = codes.encode_numbers(np.array([0.0, 0.3, 1.0, 0.649, 0.655]))

    assert encoded[:3].tolist() == [0, 1, 2]
    assert codes.read_numbers(encoded[:3]).tolist() == [0.0, 0.3, 1.0]
    # Half-way is 0.65.
    assert codes.read_levels(encoded)[3:].tolist() == [1, 2]


def test_labels_are_read_as_the_scale_reads_them() -> None:
    codes = RatingCodes(Scale(values=("No", "Yes"), type="nominal"))

    assert codes.encode_labels(["yes", "No", "maybe"]).tolist() == [1, 0, OFF_SCALE]
