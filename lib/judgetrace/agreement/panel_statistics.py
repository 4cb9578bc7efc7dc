"""Agreement of a panel of raters, as functions of counts: leading axes are replicates, so one call serves them all.

Sources: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011); Fleiss, "Measuring nominal scale agreement
among many raters" (1971), for varying numbers of ratings as in Gwet, "Handbook of Inter-Rater Reliability" (4th ed.,
2014); Gwet, "Computing inter-rater reliability and its variance in the presence of high agreement" (2008) for AC1, the
Handbook for AC2 and its ordinal weights; Shrout and Fleiss, "Intraclass correlations" (1979).
Undefined values are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class PanelCounts:
    """Counts of units by their number of ratings m; M numbers, V levels."""

    sizes: Array  # [M] the numbers m of ratings, ascending, all >= 1
    units: Array  # [..., M] units with m ratings
    values: Array  # [..., M, V] ratings of each level
    pairs: Array  # [..., M, V, V] sum over units of n_v (n_w - [v = w])


@dataclass(frozen=True)
class PanelSums:
    """What all panel statistics need of PanelCounts."""

    observed: Array  # [..., V, V] sum of pairs / (m - 1), units of at least two ratings: Krippendorff's coincidences
    per_unit: Array  # [..., V, V] sum of pairs / (m (m - 1)): each unit counts once
    values: Array  # [..., V] ratings in units of at least two
    shares: Array  # [..., V] sum over all units of n_v / m
    num_units: Array  # [...] units of at least one rating
    num_paired: Array  # [...] units of at least two


def sum_panel(counts: PanelCounts) -> PanelSums:
    """Sum over the numbers of ratings, in their order, so that equal counts give equal floats."""
    shape, levels = counts.units.shape[:-1], counts.values.shape[-1]
    observed, per_unit = np.zeros((*shape, levels, levels)), np.zeros((*shape, levels, levels))
    values, shares = np.zeros((*shape, levels)), np.zeros((*shape, levels))
    num_units, num_paired = np.zeros(shape), np.zeros(shape)
    for index, size in enumerate(counts.sizes.tolist()):
        shares += counts.values[..., index, :] / size
        num_units += counts.units[..., index]
        if size >= 2:
            observed += counts.pairs[..., index, :, :] / (size - 1)
            per_unit += counts.pairs[..., index, :, :] / (size * (size - 1))
            values += counts.values[..., index, :]
            num_paired += counts.units[..., index]
    return PanelSums(observed, per_unit, values, shares, num_units, num_paired)


def divide(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is 0 (up to rounding)."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=np.abs(denominator) > 1e-12)
    return out


def measure_distances(metric: str, values: Array, numbers: Array) -> Array:
    """Measure Krippendorff's squared distances [..., V, V] (or [V, V]): nominal, ordinal (by `values`), interval."""
    if metric == "nominal":
        return 1.0 - np.eye(len(numbers))
    if metric == "interval":
        return np.asarray((numbers[:, None] - numbers[None, :]) ** 2)
    # The ratings between the middles of two levels: the ordinal distance follows the marginals.
    middles = values.cumsum(axis=-1) - values / 2
    return np.asarray((middles[..., :, None] - middles[..., None, :]) ** 2)


def compute_alpha(metric: str, observed: Array, values: Array, numbers: Array) -> Array:
    """Compute Krippendorff's alpha from coincidences [..., V, V] and the ratings of each level [..., V]."""
    distances = measure_distances(metric, values, numbers)
    total = values.sum(axis=-1)
    expected = values[..., :, None] * values[..., None, :]
    disagreement = (total - 1.0) * (observed * distances).sum(axis=(-2, -1))
    return 1.0 - divide(disagreement, (expected * distances).sum(axis=(-2, -1)))


def make_weights(kind: str, levels: int) -> Array:
    """Make agreement weights [V, V] by the positions of levels.

    identity; linear 1 - |v - w| / (V - 1); quadratic 1 - (v - w)^2 / (V - 1)^2; ordinal 1 - C(|v - w| + 1, 2) / C(V, 2)
    (Gwet's); adjacent: 1 up to a distance of 1.
    """
    apart = np.abs(np.arange(levels)[:, None] - np.arange(levels)[None, :]).astype(float)
    if kind == "identity":
        return np.eye(levels)
    if kind == "adjacent":
        return np.asarray((apart <= 1).astype(float))
    if kind == "linear":
        return np.asarray(1 - apart / (levels - 1))
    if kind == "quadratic":
        return np.asarray(1 - apart**2 / (levels - 1) ** 2)
    assert kind == "ordinal", kind
    return np.asarray(1 - apart * (apart + 1) / (levels * (levels - 1)))


def _agree(sums: PanelSums, weights: Array) -> Array:
    return divide((sums.per_unit * weights).sum(axis=(-2, -1)), sums.num_paired)


def compute_fleiss(sums: PanelSums, weights: Array) -> Array:
    """Compute Fleiss' kappa: chance agreement from the mean shares of the levels."""
    shares = divide(sums.shares, sums.num_units[..., None])
    chance = (shares[..., :, None] * shares[..., None, :] * weights).sum(axis=(-2, -1))
    return divide(_agree(sums, weights) - chance, 1.0 - chance)


def compute_gwet(sums: PanelSums, weights: Array) -> Array:
    """Compute Gwet's AC1 (identity weights) or AC2; chance agreement over all levels of the scale, used or not."""
    levels = weights.shape[-1]
    shares = divide(sums.shares, sums.num_units[..., None])
    chance = weights.sum() / (levels * (levels - 1)) * (shares * (1.0 - shares)).sum(axis=-1)
    value = divide(_agree(sums, weights) - chance, 1.0 - chance)
    # All ratings of one level: Gwet's chance agreement is 0 then, and full agreement would say nothing.
    return np.where((sums.shares > 0).sum(axis=-1) > 1, value, np.nan)


def measure_panel(counts: PanelCounts, numbers: Array, is_nominal: bool) -> dict[str, Array]:
    """Measure all panel statistics [...] by name."""
    sums = sum_panel(counts)
    levels = len(numbers)
    metrics = ("nominal",) if is_nominal else ("nominal", "ordinal", "interval")
    found = {f"alpha_{metric}": compute_alpha(metric, sums.observed, sums.values, numbers) for metric in metrics}
    found["fleiss_kappa"] = compute_fleiss(sums, make_weights("identity", levels))
    found["gwet_ac1"] = compute_gwet(sums, make_weights("identity", levels))
    if not is_nominal:
        for kind in ("linear", "ordinal", "quadratic"):
            found[f"gwet_ac2_{kind}"] = compute_gwet(sums, make_weights(kind, levels))
    found["exact_agreement"] = _agree(sums, make_weights("identity", levels))
    if not is_nominal:
        found["adjacent_agreement"] = _agree(sums, make_weights("adjacent", levels))
    return found


@dataclass(frozen=True)
class CompletePanel:
    """Counts of the units that all k raters of a panel rated."""

    values: Array  # [..., k, V] ratings of each level by each rater
    products: Array  # [..., V, V] sum over units of n_v n_w


def compute_iccs(panel: CompletePanel, numbers: Array) -> dict[str, Array]:
    """Compute ICC(2,1) (agreement) and ICC(3,1) (consistency) of a complete panel."""
    k = panel.values.shape[-2]
    # Centred at the scale's middle: sums of squares of far-off numbers would cancel.
    x = numbers - (numbers.max() + numbers.min()) / 2
    sums = panel.values @ x
    squares = (panel.values.sum(axis=-2) * x**2).sum(axis=-1)
    rows = np.einsum("...vw,v,w->...", panel.products, x, x)
    n = panel.values[..., 0, :].sum(axis=-1)
    return compute_iccs_from_sums(n, sums, squares, rows, k)


def compute_iccs_from_sums(n: Array, sums: Array, squares: Array, rows: Array, k: int) -> dict[str, Array]:
    """Compute the ICCs of n units by k raters.

    `sums` [..., k] are the raters' totals, `squares` the sum of squared ratings, `rows` the sum of squared unit totals.
    """
    correction = divide(sums.sum(axis=-1) ** 2, n * k)
    ss_total = squares - correction
    ss_units = rows / k - correction
    ss_raters = divide((sums**2).sum(axis=-1), n) - correction
    ss_error = np.where(ss_total - ss_units - ss_raters > 1e-9 * (1 + squares), ss_total - ss_units - ss_raters, 0.0)
    ms_units = divide(np.where(ss_units > 1e-9 * (1 + squares), ss_units, 0.0), n - 1)
    ms_raters = np.where(ss_raters > 1e-9 * (1 + squares), ss_raters, 0.0) / (k - 1)
    ms_error = divide(ss_error, (n - 1) * (k - 1))
    spread = ms_units - ms_error
    agreement = divide(spread, ms_units + (k - 1) * ms_error + k * divide(ms_raters - ms_error, n))
    return {"icc_2_1": agreement, "icc_3_1": divide(spread, ms_units + (k - 1) * ms_error)}
