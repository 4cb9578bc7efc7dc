import math

import numpy as np
import pytest
from scipy import stats

from judgetrace.refining.racing import RaceConfig, advance_race, start_race
from judgetrace.refining.standings import STANDINGS, list_standings


def test_standings_say_how_far_each_candidate_is_from_the_original_and_why_it_went_out() -> None:
    rng = np.random.default_rng(0)
    scores = {name: (rng.random(200) < p).astype(float) for name, p in {"original": 0.5, "a": 0.9, "b": 0.1}.items()}
    start = start_race(list(scores), [str(n) for n in range(200)], RaceConfig(first_look=200), 0)
    items = list(start.next_items())
    table = list_standings(advance_race(start, {name: found[items] for name, found in scores.items()}))
    original, first, second = table.to_pylist()

    assert table.schema == STANDINGS
    assert (original["minus_original"], original["low"], original["behind"]) == (None, None, None)
    assert (first["is_challenger"], first["out_at_look"], first["num_items"]) == (True, None, 200)
    assert (second["is_challenger"], second["out_at_look"], second["behind"]) == (False, 1, "a")
    # The plain paired t interval, which two made-up items in 202 widen a little.
    apart = scores["a"] - scores["original"]
    width = stats.t.ppf(0.975, 199) * apart.std(ddof=1) / math.sqrt(200)
    assert first["minus_original"] == pytest.approx(apart.mean())
    assert (first["low"], first["high"]) == pytest.approx(
        (apart.mean() - width, apart.mean() + width), abs=0.05 * width
    )


def test_a_single_group_has_no_interval() -> None:
    start = start_race(["original", "a"], ["only"] * 5, RaceConfig(), 0)
    row = list_standings(advance_race(start, {"original": np.zeros(5), "a": np.ones(5)})).to_pylist()[1]

    assert (row["minus_original"], row["low"], row["high"]) == (1.0, None, None)
