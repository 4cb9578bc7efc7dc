"""Agreement of two raters, as functions of their contingency table; leading axes are replicates.

Sources: Cohen, "A coefficient of agreement for nominal scales" (1960) and "Weighted kappa" (1968); Kendall's tau-b and
Spearman's rho with mid-ranks for ties, as in Kendall and Gibbons, "Rank Correlation Methods" (1990); Shrout and Fleiss
(1979) for two raters; alpha, AC1 and AC2 as in `judgetrace.agreement.panel_statistics`, of units with two ratings each.
Undefined values are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judgetrace.agreement.panel_statistics import (
    Array,
    PanelCounts,
    compute_alpha,
    compute_gwet,
    compute_iccs_from_sums,
    divide,
    make_weights,
    sum_panel,
)


@dataclass(frozen=True)
class PairTable:
    """Units by the ratings of two raters, in the forms that the statistics need."""

    by_level: Array  # [..., V, V] by (nearest) level: first rater, second rater
    by_rank: Array  # [..., A, B] by number, ascending
    amounts: Array  # [..., K] by cell
    first: Array  # [K] the first rater's number in a cell
    second: Array  # [K] the second rater's
    numbers: Array  # [V] the levels' numbers


def measure_pair(table: PairTable, is_nominal: bool) -> dict[str, Array]:
    """Measure all two-rater statistics [...] by name. `bias` is the mean of first minus second."""
    found = measure_levels(table, is_nominal)
    return found if is_nominal else found | measure_numbers(table) | measure_ranks(table.by_rank)


def measure_levels(table: PairTable, is_nominal: bool) -> dict[str, Array]:
    """Measure what is a function of levels."""
    joint, levels = table.by_level, len(table.numbers)
    pairs = joint + np.swapaxes(joint, -1, -2)
    values = pairs.sum(axis=-1)
    n = joint.sum(axis=(-2, -1))
    panel = PanelCounts(np.array([2]), n[..., None], values[..., None, :], pairs[..., None, :, :])
    sums = sum_panel(panel)
    found = {"exact_agreement": divide((joint * np.eye(levels)).sum(axis=(-2, -1)), n)}
    found["cohen_kappa"] = compute_kappa(joint, make_weights("identity", levels))
    found["alpha_nominal"] = compute_alpha("nominal", pairs, values, table.numbers)
    found["gwet_ac1"] = compute_gwet(sums, make_weights("identity", levels))
    if is_nominal:
        return found
    found["adjacent_agreement"] = divide((joint * make_weights("adjacent", levels)).sum(axis=(-2, -1)), n)
    for kind in ("linear", "quadratic"):
        found[f"kappa_{kind}"] = compute_kappa(joint, make_weights(kind, levels))
    for kind in ("linear", "ordinal", "quadratic"):
        found[f"gwet_ac2_{kind}"] = compute_gwet(sums, make_weights(kind, levels))
    found["alpha_ordinal"] = compute_alpha("ordinal", pairs, values, table.numbers)
    return found


def compute_kappa(joint: Array, weights: Array) -> Array:
    """Compute Cohen's (weighted) kappa of tables [..., V, V] with agreement weights [V, V]."""
    n = joint.sum(axis=(-2, -1))
    expected = joint.sum(axis=-1)[..., :, None] * joint.sum(axis=-2)[..., None, :]
    disagreement = 1.0 - weights
    observed = (joint * disagreement).sum(axis=(-2, -1)) * n
    return 1.0 - divide(observed, (expected * disagreement).sum(axis=(-2, -1)))


def measure_numbers(table: PairTable) -> dict[str, Array]:
    """Measure what is a function of the numbers' sums and products."""
    middle = (table.numbers.max() + table.numbers.min()) / 2
    x, y = table.first - middle, table.second - middle
    powers = np.stack([np.ones_like(x), x, y, x**2, y**2, x * y, np.abs(x - y)], axis=1)
    n, sum_x, sum_y, square_x, square_y, product, apart = np.moveaxis(table.amounts @ powers, -1, 0)
    squared_error = square_x + square_y - 2 * product
    found = {
        "mse": divide(np.where(squared_error > 1e-9 * (square_x + square_y), squared_error, 0.0), n),
        "mae": divide(apart, n),
        "bias": divide(sum_x - sum_y, n),
        "pearson": _correlate(n, (sum_x, sum_y), (square_x, square_y), product),
    }
    found |= compute_iccs_from_sums(
        n, np.stack([sum_x, sum_y], axis=-1), square_x + square_y, square_x + square_y + 2 * product, 2
    )
    # Both raters' numbers pooled: two ratings a unit, so coincidences are the products themselves.
    total = sum_x + sum_y
    expected = 2 * n * (square_x + square_y) - total**2
    found["alpha_interval"] = 1.0 - divide((2 * n - 1) * np.maximum(squared_error, 0.0), expected)
    # Rounding leaves a little where all ratings are equal.
    found["alpha_interval"] = np.where(
        expected > 1e-9 * n * (square_x + square_y + 1e-300), found["alpha_interval"], np.nan
    )
    return found


def _correlate(n: Array, sums: tuple[Array, Array], squares: tuple[Array, Array], product: Array) -> Array:
    """Correlate from sums; NaN where one of the two does not vary."""
    spread_x, spread_y = n * squares[0] - sums[0] ** 2, n * squares[1] - sums[1] ** 2
    varies = (spread_x > 1e-9 * (1 + n * squares[0])) & (spread_y > 1e-9 * (1 + n * squares[1]))
    found = divide(n * product - sums[0] * sums[1], np.sqrt(np.where(varies, spread_x * spread_y, 0.0)))
    return np.clip(found, -1.0, 1.0)


def measure_ranks(joint: Array) -> dict[str, Array]:
    """Measure Kendall's tau-b and Spearman's rho of tables [..., A, B] whose rows and columns ascend."""
    rows, columns = joint.sum(axis=-1), joint.sum(axis=-2)
    return {
        "kendall_tau_b": compute_tau(joint, rows, columns),
        "spearman": compute_spearman(joint, rows, columns),
    }


def compute_tau(joint: Array, rows: Array, columns: Array) -> Array:
    """Compute tau-b of tables [..., A, B] whose rows and columns ascend."""
    above = np.cumsum(joint, axis=-2) - joint  # rows before, same column
    below_left = np.cumsum(above, axis=-1) - above  # rows before, columns before
    concordant = (joint * below_left).sum(axis=(-2, -1))
    below_right = above.sum(axis=-1, keepdims=True) - np.cumsum(above, axis=-1)
    discordant = (joint * below_right).sum(axis=(-2, -1))
    n = rows.sum(axis=-1)
    all_pairs = n * (n - 1) / 2
    untied_x = all_pairs - (rows * (rows - 1) / 2).sum(axis=-1)
    untied_y = all_pairs - (columns * (columns - 1) / 2).sum(axis=-1)
    return divide(concordant - discordant, np.sqrt(untied_x) * np.sqrt(untied_y))


def compute_spearman(joint: Array, rows: Array, columns: Array) -> Array:
    """Compute Spearman's rho of tables [..., A, B]: Pearson's correlation of mid-ranks."""
    n = rows.sum(axis=-1)
    centre = n[..., None] / 2
    rank_x = np.cumsum(rows, axis=-1) - rows / 2 - centre
    rank_y = np.cumsum(columns, axis=-1) - columns / 2 - centre
    product = ((joint * rank_y[..., None, :]).sum(axis=-1) * rank_x).sum(axis=-1)
    spread_x, spread_y = (rows * rank_x**2).sum(axis=-1), (columns * rank_y**2).sum(axis=-1)
    return np.clip(divide(product, np.sqrt(spread_x) * np.sqrt(spread_y)), -1.0, 1.0)
