"""Aggregate the labels of several annotators into the target label of a unit.

Pure functions on tables. What a rule leaves without a target label is returned with its reason, never lost.

Source: the median of items whose sample SD (ddof=1) is at most 1.0 is the rule of Zhang et al., "Through the Judge's
Eyes" (TMLR 2026); that paper leaves the half-point rule open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from judgetrace.scale import HalfPointRule, Scale, ScaleConfig
from judgetrace.schema import DROPPED, ITEMS, TARGET_AGGREGATE

TargetRule = Literal["median", "majority", "rounded_mean", "single", "per_annotator"]
TieRule = Literal["drop", "floor", "ceil", "either"]

UNITS = pa.schema([ITEMS.field(name) for name in ITEMS.names[:7]])
"""The columns of a unit that follow from its labels: item_id ... label_sd of ITEMS."""
WITHOUT_TARGET = pa.schema([DROPPED.field(name) for name in DROPPED.names[:5]])
"""The same of what has no target label: item_id ... label_sd of DROPPED."""

Levels = tuple[int, ...]


class TargetConfig(BaseModel):
    """How the labels of an (item, dimension) become its target label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: TargetRule = Field(
        default="median",
        description="median (of items whose sample SD is at most max_sd), majority, rounded_mean, single (one label an "
        "item; more are dropped) or per_annotator (a unit for each annotator's own label). Nominal scales: the last "
        "two and majority.",
    )
    max_sd: float | None = Field(
        default=1.0,
        ge=0,
        description="Rule median drops items whose sample SD (ddof=1), in scale units, is above; none (the word: TOML "
        "has no null) keeps all.",
    )
    half_point: HalfPointRule = Field(
        default="floor",
        description="Rules median and rounded_mean, where the number lies half-way between two levels: the lower, the "
        "upper, or either (the target is the lower one, both are accepted).",
    )
    tie: TieRule = Field(
        default="drop",
        description="Rule majority, where levels are equally frequent: drop the item, take the lowest or highest of "
        "them, or either (the target is the lowest, all of them are accepted). Nominal scales: drop or either.",
    )

    @field_validator("max_sd", mode="before")
    @classmethod
    def _read_none(cls, given: Any) -> Any:
        return None if isinstance(given, str) and given.lower() == "none" else given


def check_rule(target: TargetConfig, scales: ScaleConfig) -> None:
    """Raise ValueError where the rule needs an order that a scale does not have."""
    nominal = scales.list_nominal()
    if not nominal:
        return
    if target.rule in ("median", "rounded_mean"):
        allowed = "majority, single or per_annotator"
        raise ValueError(
            f"target.rule {target.rule} needs an order, but the scale of {nominal[:5]} is nominal: {allowed}"
        )
    if target.rule == "majority" and target.tie in ("floor", "ceil"):
        raise ValueError(
            f"target.tie {target.tie} needs an order, but the scale of {nominal[:5]} is nominal: drop, either"
        )


@dataclass(frozen=True)
class _Groups:
    """Labels in order of (item, dimension), annotator, level; N labels in G groups."""

    item_ids: pa.Array  # [G]
    dimensions: pa.Array  # [G]
    annotators: pa.Array  # [N]
    labels: pa.Array  # [N] as the scale writes them
    levels: np.ndarray  # [N] positions on the group's scale
    numbers: np.ndarray  # [N] the same in units of the scale
    starts: np.ndarray  # [G] first label of each group
    counts: np.ndarray  # [G]
    scale_of: np.ndarray  # [G] index into scales
    scales: Sequence[Scale]

    @property
    def group_of(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def label_lists(self) -> pa.Array:
        offsets = np.append(self.starts, len(self.levels)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), self.labels)


def aggregate_labels(annotations: pa.Table, target: TargetConfig, scales: ScaleConfig) -> tuple[pa.Table, pa.Table]:
    """Aggregate annotations (schema ANNOTATIONS; every label a level of its scale) into units and dropped rows.

    Returns tables of the schemas UNITS and WITHOUT_TARGET, in order of item id and dimension; rows may come in any.
    """
    groups = _group_labels(annotations, scales)
    sds = _measure_sds(groups)
    if target.rule == "per_annotator":
        return _keep_each_annotator(groups, sds), WITHOUT_TARGET.empty_table()
    accepted, reasons = _decide(groups, sds, target)
    kept = np.array([levels is not None for levels in accepted], dtype=bool)
    label_sd = pa.array(sds, from_pandas=True)
    labels = [groups.scales[s].values for s in groups.scale_of]
    written = [[values[i] for i in levels] for values, levels in zip(labels, accepted, strict=True) if levels]
    units = {
        "item_id": groups.item_ids.filter(pa.array(kept)),
        "dimension": groups.dimensions.filter(pa.array(kept)),
        "target_source": pa.array([TARGET_AGGREGATE] * len(written), pa.string()),
        "target_label": pa.array([row[0] for row in written], pa.string()),
        "accepted_labels": pa.array(written, pa.list_(pa.string())),
        "annotator_labels": groups.label_lists.filter(pa.array(kept)),
        "label_sd": label_sd.filter(pa.array(kept)),
    }
    dropped = {
        "item_id": groups.item_ids.filter(pa.array(~kept)),
        "dimension": groups.dimensions.filter(pa.array(~kept)),
        "reason": pa.array([reason for reason in reasons if reason], pa.string()),
        "annotator_labels": groups.label_lists.filter(pa.array(~kept)),
        "label_sd": label_sd.filter(pa.array(~kept)),
    }
    return pa.table(units, schema=UNITS), pa.table(dropped, schema=WITHOUT_TARGET)


def _group_labels(annotations: pa.Table, scales: ScaleConfig) -> _Groups:
    item_codes, items = _encode_sorted(annotations["item_id"])
    dimension_codes, dimensions = _encode_sorted(annotations["dimension"])
    annotator_codes, annotators = _encode_sorted(annotations["annotator_id"])
    label_codes, labels = _encode_sorted(annotations["label"])
    names = dimensions.to_pylist()
    found = [scales.of(name) for name in names]
    assert None not in found, f"no scale for a dimension of {names[:5]}"
    known: list[Scale] = [scale for scale in found if scale is not None]
    level_of = np.array([[_level(scale, label) for label in labels.to_pylist()] for scale in known], dtype=np.int64)
    level_of = level_of.reshape(len(known), len(labels))
    levels = level_of[dimension_codes, label_codes]
    assert (levels >= 0).all(), "a label is not on the scale of its dimension"
    order = np.lexsort((levels, annotator_codes, dimension_codes, item_codes))
    keys = item_codes[order] * max(len(names), 1) + dimension_codes[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    widest = max((len(scale.values) for scale in known), default=0)
    number_of = np.array([[*s.numbers, *[np.nan] * (widest - len(s.values))] for s in known]).reshape(
        len(known), widest
    )
    first = order[starts]
    return _Groups(
        item_ids=items.take(pa.array(item_codes[first])),
        dimensions=dimensions.take(pa.array(dimension_codes[first])),
        annotators=annotators.take(pa.array(annotator_codes[order])),
        labels=labels.take(pa.array(label_codes[order])),
        levels=levels[order],
        numbers=number_of[dimension_codes[order], levels[order]],
        starts=starts,
        counts=np.diff(starts, append=len(order)),
        scale_of=dimension_codes[first],
        scales=known,
    )


def _level(scale: Scale, label: str) -> int:
    return scale.values.index(label) if label in scale.values else -1


def _encode_sorted(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Encode strings as int64 codes into their sorted distinct values."""
    encoded = column.combine_chunks().dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), dtype=np.int64)
    values = encoded.dictionary
    order = pc.sort_indices(values)
    ranks[order.to_numpy()] = np.arange(len(values))
    return ranks[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)], values.take(order)


def _measure_sds(groups: _Groups) -> np.ndarray:
    """Measure the sample SD of each group [G]; NaN for one label or a nominal scale."""
    if not len(groups.counts):
        return np.empty(0)
    lowest = np.array([scale.numbers[0] for scale in groups.scales])[groups.scale_of]
    shifted = groups.numbers - np.repeat(lowest, groups.counts)
    n = groups.counts.astype(float)
    totals, squares = np.add.reduceat(shifted, groups.starts), np.add.reduceat(shifted**2, groups.starts)
    ordered = np.array([scale.type != "nominal" for scale in groups.scales])[groups.scale_of]
    variance = np.full(len(n), np.nan)
    # n * sum(x^2) - sum(x)^2 is exact for whole numbers, so that an SD of exactly the limit is not above it.
    usable = (groups.counts > 1) & ordered
    np.divide(n * squares - totals**2, n * (n - 1), out=variance, where=usable)
    sds: np.ndarray = np.sqrt(np.maximum(variance, 0.0))
    return sds


def _decide(groups: _Groups, sds: np.ndarray, target: TargetConfig) -> tuple[list[Levels | None], list[str | None]]:
    """Decide each group: its accepted levels (the target first) or None, and the reason of a None."""
    if target.rule == "majority":
        return _take_majority(groups, target.tie)
    if target.rule == "single":
        levels = groups.levels[groups.starts].tolist()
        several = (groups.counts > 1).tolist()
        return (
            [None if s else (level,) for level, s in zip(levels, several, strict=True)],
            ["several_annotators" if s else None for s in several],
        )
    numbers = (
        _median(groups) if target.rule == "median" else np.add.reduceat(groups.numbers, groups.starts) / groups.counts
    )
    accepted: list[Any] = _snap_all(groups, numbers, target.half_point)
    limited = target.rule == "median" and target.max_sd is not None
    above = (sds > target.max_sd + 1e-9).tolist() if limited and target.max_sd is not None else [False] * len(accepted)
    return (
        [None if drop else levels for levels, drop in zip(accepted, above, strict=True)],
        ["sd_above_limit" if drop else None for drop in above],
    )


def _median(groups: _Groups) -> np.ndarray:
    ordered = groups.numbers[np.lexsort((groups.numbers, groups.group_of))]
    lower, upper = groups.starts + (groups.counts - 1) // 2, groups.starts + groups.counts // 2
    return np.asarray((ordered[lower] + ordered[upper]) / 2)


def _snap_all(groups: _Groups, numbers: np.ndarray, half_point: HalfPointRule) -> list[Levels]:
    """Snap each group's number to its scale; each distinct number is snapped once."""
    rounded = np.stack([groups.scale_of.astype(float), np.round(numbers, 9)])
    distinct, inverse = np.unique(rounded, axis=1, return_inverse=True)
    snapped = [groups.scales[int(s)].snap(float(number), half_point) for s, number in distinct.T]
    return [snapped[i] for i in inverse.reshape(-1).tolist()]


def _take_majority(groups: _Groups, tie: TieRule) -> tuple[list[Levels | None], list[str | None]]:
    widest = max((len(scale.values) for scale in groups.scales), default=1)
    cells, votes = np.unique(groups.group_of * widest + groups.levels, return_counts=True)
    group_of, level_of = np.divmod(cells, widest)
    most = np.zeros(len(groups.counts), dtype=np.int64)
    np.maximum.at(most, group_of, votes)
    winners: list[list[int]] = [[] for _ in range(len(groups.counts))]
    for group, level in zip(
        group_of[votes == most[group_of]].tolist(), level_of[votes == most[group_of]].tolist(), strict=True
    ):
        winners[group].append(level)
    accepted = [_pick(levels, tie) for levels in winners]
    return accepted, ["tied" if levels is None else None for levels in accepted]


def _pick(winners: list[int], tie: TieRule) -> Levels | None:
    """Pick from the most frequent levels, lowest first."""
    if len(winners) == 1 or tie == "floor":
        return (winners[0],)
    if tie == "drop":
        return None
    return (winners[-1],) if tie == "ceil" else tuple(winners)


def _keep_each_annotator(groups: _Groups, sds: np.ndarray) -> pa.Table:
    group_of = pa.array(groups.group_of)
    singles = pa.ListArray.from_arrays(pa.array(np.arange(len(groups.levels) + 1, dtype=np.int32)), groups.labels)
    columns = {
        "item_id": groups.item_ids.take(group_of),
        "dimension": groups.dimensions.take(group_of),
        "target_source": groups.annotators,
        "target_label": groups.labels,
        "accepted_labels": singles,
        "annotator_labels": groups.label_lists.take(group_of),
        "label_sd": pa.array(sds, from_pandas=True).take(group_of),
    }
    return pa.table(columns, schema=UNITS)
