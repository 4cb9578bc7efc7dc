import krippendorff
import numpy as np
import pandas as pd
import pytest
from irrCAC.raw import CAC
from statsmodels.stats.inter_rater import fleiss_kappa

from judgetrace.agreement.counts import lay_out_complete, make_complete_features
from judgetrace.agreement.panel_statistics import compute_iccs, make_weights, measure_panel
from tests.panels import FLEISS_1971, KRIPPENDORFF_C, SHROUT_FLEISS, count_levels, count_panel, draw_panel


def measure(counts: np.ndarray, numbers: np.ndarray | None = None, nominal: bool = False) -> dict[str, float]:
    numbers = np.arange(counts.shape[1], dtype=float) if numbers is None else numbers
    return {name: float(value) for name, value in measure_panel(count_panel(counts), numbers, nominal).items()}


def test_alpha_of_krippendorffs_example_is_the_published_one() -> None:
    found = measure(count_levels(KRIPPENDORFF_C - 1, 5))

    assert round(found["alpha_nominal"], 3) == 0.743
    assert round(found["alpha_ordinal"], 3) == 0.815
    assert round(found["alpha_interval"], 3) == 0.849


def test_kappa_of_fleiss_example_is_the_published_one() -> None:
    assert round(measure(FLEISS_1971, nominal=True)["fleiss_kappa"], 3) == 0.430
    # His P-bar, the mean agreement of pairs.
    assert round(measure(FLEISS_1971, nominal=True)["exact_agreement"], 4) == 0.5556


def test_ac1_of_gwets_example_is_the_published_one() -> None:
    # Gwet (2008), table 1: 125 participants; kappa is -.0234 although the two agree about 118 of them.
    ratings = np.array([[0] * 123 + [1] * 2, [0] * 118 + [1] * 5 + [0] * 2], dtype=float)

    found = measure(count_levels(ratings, 2), nominal=True)

    assert round(found["gwet_ac1"], 3) == 0.941
    assert round(found["exact_agreement"], 3) == 0.944


def test_iccs_of_shrout_and_fleiss_are_the_published_ones() -> None:
    levels = SHROUT_FLEISS - 1
    counts = count_levels(levels.T.astype(float), 10)
    features = make_complete_features(counts, levels)
    cells, index = np.unique(features.cells, return_inverse=True)
    panel = lay_out_complete(cells, np.bincount(index, weights=features.amounts), 4, 10)

    found = compute_iccs(panel, np.arange(1.0, 11.0))

    assert (round(float(found["icc_2_1"]), 2), round(float(found["icc_3_1"]), 2)) == (0.29, 0.71)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
def test_alpha_is_that_of_the_krippendorff_package(seed: int, missing: float) -> None:
    ratings = draw_panel(seed, missing=missing)
    numbers = np.array([-2.0, 0.0, 1.0, 7.0])
    found = measure(count_levels(ratings, 4), numbers)
    as_numbers = np.where(np.isnan(ratings), np.nan, numbers[np.nan_to_num(ratings).astype(int)])

    for metric in ("nominal", "ordinal", "interval"):
        expected = krippendorff.alpha(as_numbers, level_of_measurement=metric)
        assert found[f"alpha_{metric}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_fleiss_and_gwet_are_those_of_irrcac(seed: int, missing: float) -> None:
    ratings = draw_panel(seed, missing=missing)
    found = measure(count_levels(ratings, 4))
    frame = pd.DataFrame(ratings.T)

    def compute(weights: str, method: str) -> float:
        package = CAC(frame, weights=weights, categories=[0, 1, 2, 3], digits=12)
        return float(getattr(package, method)()["est"]["coefficient_value"])

    assert found["fleiss_kappa"] == pytest.approx(compute("identity", "fleiss"), abs=1e-9)
    assert found["gwet_ac1"] == pytest.approx(compute("identity", "gwet"), abs=1e-9)
    for kind in ("linear", "ordinal", "quadratic"):
        assert found[f"gwet_ac2_{kind}"] == pytest.approx(compute(kind, "gwet"), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_fleiss_without_missing_ratings_is_that_of_statsmodels(seed: int) -> None:
    counts = count_levels(draw_panel(seed, missing=0.0), 4)

    assert measure(counts)["fleiss_kappa"] == pytest.approx(fleiss_kappa(counts), abs=1e-12)


def test_gwets_ordinal_weights_are_not_krippendorffs_ordinal_distances() -> None:
    # Written by hand for four levels: 1 - C(|v - w| + 1, 2) / C(4, 2).
    assert make_weights("ordinal", 4)[0].tolist() == pytest.approx([1, 5 / 6, 1 / 2, 0])


def test_agreement_of_pairs_by_hand() -> None:
    # Three units: 0 0 1 (one of three pairs agrees, all are adjacent), 0 2 (none, not adjacent), 1 alone (no pair).
    found = measure(np.array([[2, 1, 0], [1, 0, 1], [0, 1, 0]]))

    assert found["exact_agreement"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["adjacent_agreement"] == pytest.approx((1 + 0) / 2)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(np.array([[3, 0], [2, 0]]), id="one category only"),
        pytest.param(np.array([[1, 0], [0, 1]]), id="no unit of two ratings"),
        pytest.param(np.zeros((2, 2), dtype=int), id="no rating"),
        pytest.param(np.zeros((0, 2), dtype=int), id="no unit"),
    ],
)
def test_where_agreement_beyond_chance_is_undefined_there_is_no_number(counts: np.ndarray) -> None:
    found = measure(counts)

    beyond_chance = [name for name in found if name.startswith(("alpha", "fleiss", "gwet"))]
    assert np.isnan([found[name] for name in beyond_chance]).all()


def test_replicates_along_a_leading_axis_are_measured_as_each_alone() -> None:
    panels = [count_levels(draw_panel(seed), 4) for seed in range(3)]
    counts = [count_panel(panel) for panel in panels]
    stacked = type(counts[0])(
        counts[0].sizes, *(np.stack([getattr(c, n) for c in counts]) for n in ("units", "values", "pairs"))
    )

    found = measure_panel(stacked, np.arange(4.0), is_nominal=False)

    for name, values in found.items():
        assert values.tolist() == [measure(panel)[name] for panel in panels]
