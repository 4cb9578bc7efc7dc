import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from judgetrace.agreement.counts import encode_pairs
from judgetrace.agreement.measures import PairLayout
from judgetrace.agreement.pair_statistics import measure_pair
from judgetrace.agreement.rating_codes import RatingCodes
from judgetrace.scale import Scale
from tests.panels import SHROUT_FLEISS

FIVE = Scale(values=(1, 2, 3, 4, 5), type="interval")


def measure(first: np.ndarray, second: np.ndarray, scale: Scale = FIVE) -> dict[str, float]:
    """Measure two lists of numbers on a scale."""
    codes = RatingCodes(scale)
    cells = encode_pairs(
        codes.encode_numbers(np.asarray(first, float)), codes.encode_numbers(np.asarray(second, float))
    )
    distinct, amounts = np.unique(cells, return_counts=True)
    table = PairLayout(distinct, codes).lay_out(amounts.astype(float))
    return {name: float(value) for name, value in measure_pair(table, scale.type == "nominal").items()}


def expand(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Expand a contingency table of levels 1, 2, ... into two lists."""
    rows, columns = np.nonzero(np.array(table))
    amounts = np.array(table)[rows, columns]
    return np.repeat(rows, amounts) + 1, np.repeat(columns, amounts) + 1


def test_kappa_of_cohens_examples_is_the_published_one() -> None:
    three = Scale(values=(1, 2, 3), type="nominal")

    # Cohen (1960), table 1 in percent, and table 2.
    assert round(measure(*expand([[25, 13, 12], [12, 2, 16], [3, 15, 2]]), three)["cohen_kappa"], 2) == -0.09
    assert round(measure(*expand([[88, 10, 2], [14, 40, 6], [18, 10, 12]]), three)["cohen_kappa"], 3) == 0.492


def test_high_agreement_with_low_kappa_is_gwets_example() -> None:
    found = measure(*expand([[118, 5], [2, 0]]), Scale(values=(1, 2), type="nominal"))

    assert round(found["cohen_kappa"], 4) == -0.0234
    assert round(found["gwet_ac1"], 3) == 0.941
    assert round(found["exact_agreement"], 3) == 0.944


def draw_pair(seed: int, continuous: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    second = random.integers(1, 6, 80).astype(float)
    first = np.clip(second + random.integers(-2, 3, 80), 1, 5)
    if continuous:
        # Hundredths are points of the grid, so that packages see the very same numbers.
        first = np.round(np.clip(first + random.normal(0, 0.4, 80), 1, 5), 2)
    return first, second


@pytest.mark.parametrize("seed", range(5))
def test_kappas_are_those_of_scikit_learn_and_statsmodels(seed: int) -> None:
    first, second = draw_pair(seed)
    found = measure(first, second)
    table = np.zeros((5, 5))
    np.add.at(table, (first.astype(int) - 1, second.astype(int) - 1), 1)

    for name, weights in (("cohen_kappa", None), ("kappa_linear", "linear"), ("kappa_quadratic", "quadratic")):
        assert found[name] == pytest.approx(cohen_kappa_score(first, second, weights=weights), abs=1e-12)
    assert found["cohen_kappa"] == pytest.approx(cohens_kappa(table).kappa, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("continuous", [False, True])
def test_correlations_and_errors_are_those_of_scipy_and_numpy(seed: int, continuous: bool) -> None:
    first, second = draw_pair(seed, continuous)
    found = measure(first, second)

    assert found["kendall_tau_b"] == pytest.approx(stats.kendalltau(first, second).statistic, abs=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
    assert found["mse"] == pytest.approx(((first - second) ** 2).mean(), abs=1e-12)
    assert found["mae"] == pytest.approx(np.abs(first - second).mean(), abs=1e-12)
    assert found["bias"] == pytest.approx((first - second).mean(), abs=1e-12)
    assert found["exact_agreement"] == pytest.approx((np.ceil(first - 0.5) == second).mean(), abs=1e-12)
    assert found["adjacent_agreement"] == pytest.approx((np.abs(np.ceil(first - 0.5) - second) <= 1).mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("continuous", [False, True])
def test_alpha_of_two_raters_is_that_of_the_krippendorff_package(seed: int, continuous: bool) -> None:
    import krippendorff

    first, second = draw_pair(seed, continuous)
    found = measure(first, second)
    levels = np.stack([np.ceil(first - 0.5), second])

    for metric, values in (("nominal", levels), ("ordinal", levels), ("interval", np.stack([first, second]))):
        expected = krippendorff.alpha(values, level_of_measurement=metric)
        assert found[f"alpha_{metric}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ac2_of_two_raters_is_that_of_irrcac(seed: int) -> None:
    import pandas as pd
    from irrCAC.raw import CAC

    first, second = draw_pair(seed)
    found = measure(first, second)
    frame = pd.DataFrame({"a": first, "b": second})

    for name, weights in (
        ("gwet_ac1", "identity"),
        ("gwet_ac2_ordinal", "ordinal"),
        ("gwet_ac2_quadratic", "quadratic"),
    ):
        package = CAC(frame, weights=weights, categories=[1, 2, 3, 4, 5], digits=12)
        assert found[name] == pytest.approx(package.gwet()["est"]["coefficient_value"], abs=1e-9)


def test_iccs_of_two_judges_follow_the_analysis_of_variance() -> None:
    # The first and the last judge of Shrout and Fleiss (1979), their mean squares by hand (numpy's sums).
    ratings = SHROUT_FLEISS[:, [0, 3]].astype(float)
    n, k = ratings.shape
    units, judges, mean = ratings.mean(axis=1), ratings.mean(axis=0), ratings.mean()
    ms_units = k * ((units - mean) ** 2).sum() / (n - 1)
    ms_judges = n * ((judges - mean) ** 2).sum() / (k - 1)
    residual = ratings - units[:, None] - judges[None, :] + mean
    ms_error = (residual**2).sum() / ((n - 1) * (k - 1))

    found = measure(ratings[:, 0], ratings[:, 1], Scale(values=tuple(range(1, 11)), type="interval"))

    assert found["icc_3_1"] == pytest.approx((ms_units - ms_error) / (ms_units + ms_error))
    assert found["icc_2_1"] == pytest.approx(
        (ms_units - ms_error) / (ms_units + ms_error + 2 * (ms_judges - ms_error) / n)
    )


def test_a_constant_severity_hides_in_icc_3_1_and_shows_in_icc_2_1_and_bias() -> None:
    second = np.array([1, 2, 3, 4, 1, 2, 3, 4, 2, 3])
    found = measure(second + 1, second)

    assert found["icc_3_1"] == pytest.approx(1.0)
    assert found["kendall_tau_b"] == pytest.approx(1.0)
    assert found["icc_2_1"] < 0.75
    assert found["bias"] == pytest.approx(1.0)
    assert found["exact_agreement"] == 0.0


@pytest.mark.parametrize(
    ("first", "second", "undefined"),
    [
        pytest.param(
            [3, 3, 3], [3, 3, 3], {"cohen_kappa", "alpha_interval", "kendall_tau_b", "icc_3_1"}, id="one level"
        ),
        pytest.param([3, 3, 3], [1, 2, 5], {"kendall_tau_b", "spearman", "pearson"}, id="one side constant"),
        pytest.param([], [], {"exact_agreement", "mse", "cohen_kappa", "gwet_ac1", "pearson"}, id="no overlap"),
        pytest.param([2], [3], {"icc_2_1", "pearson", "spearman"}, id="one unit"),
    ],
)
def test_what_is_undefined_has_no_number(first: list[float], second: list[float], undefined: set[str]) -> None:
    found = measure(np.array(first, float), np.array(second, float))

    assert undefined <= {name for name, value in found.items() if np.isnan(value)}


def test_full_agreement_is_one_on_every_coefficient() -> None:
    ratings = np.array([1, 2, 3, 4, 5, 5, 1])
    found = measure(ratings, ratings)

    errors = {"mse", "mae", "bias"}
    assert all(value == pytest.approx(1.0) for name, value in found.items() if name not in errors)
    assert all(found[name] == 0.0 for name in errors)


def test_replicates_of_rank_correlations_on_a_coarser_grid_are_close_to_those_on_all_numbers() -> None:
    from judgetrace.agreement import measures
    from judgetrace.agreement.bootstrap import Resampler
    from judgetrace.agreement.counts import Counts

    random = np.random.default_rng(0)
    truth = random.uniform(1, 5, 300)
    first, second = (np.round(np.clip(truth + random.normal(0, 0.7, 300), 1, 5), 2) for _ in range(2))
    codes = RatingCodes(FIVE)
    cells = encode_pairs(codes.encode_numbers(first), codes.encode_numbers(second))
    clusters = np.arange(300, dtype=np.uint64)
    counts, resampler = Counts(clusters, cells, np.ones(300, dtype=np.int64)), Resampler(clusters, 0, 100)

    coarse = measures.measure_counts("rater_rater", counts, codes, resampler)
    limit, measures.MAX_RANK_CELLS = measures.MAX_RANK_CELLS, 10**9
    try:
        exact = measures.measure_counts("rater_rater", counts, codes, resampler)
    finally:
        measures.MAX_RANK_CELLS = limit

    assert coarse.values == exact.values
    for name in ("kendall_tau_b", "spearman"):
        assert coarse.values[name] == pytest.approx(
            {"kendall_tau_b": stats.kendalltau, "spearman": stats.spearmanr}[name](first, second).statistic
        )
        spread = exact.replicates[name].std()
        assert coarse.replicates[name].std() == pytest.approx(spread, rel=0.05)
        assert np.abs(coarse.replicates[name] - exact.replicates[name]).max() < 0.3 * spread
    assert coarse.replicates["mse"].tolist() == exact.replicates["mse"].tolist()
