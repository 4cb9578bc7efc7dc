from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judgetrace.agreement.count_targets import NO_TARGET, decide_targets, keep_everything
from judgetrace.labels import TargetConfig, aggregate_labels
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import ANNOTATIONS

RULES: list[dict[str, Any]] = [
    *(
        {"rule": "median", "max_sd": sd, "half_point": half}
        for sd in (None, 1.0)
        for half in ("floor", "ceil", "either")
    ),
    *({"rule": "majority", "tie": tie} for tie in ("drop", "floor", "ceil", "either")),
    *({"rule": "rounded_mean", "half_point": half} for half in ("floor", "ceil")),
    {"rule": "single"},
]


def aggregate(counts: np.ndarray, target: TargetConfig, scale: Scale) -> list[int]:
    """Aggregate with the room that prepare_corpus uses; NO_TARGET for what it drops."""
    rows = [
        {"item_id": f"{item:03d}", "dimension": "", "annotator_id": f"{level} {n}", "label": scale.values[level]}
        for item, row in enumerate(counts.tolist())
        for level, number in enumerate(row)
        for n in range(number)
    ]
    scales = ScaleConfig(values=scale.values, type=scale.type)
    units, _ = aggregate_labels(pa.Table.from_pylist(rows, schema=ANNOTATIONS), target, scales)
    found = dict(zip(units["item_id"].to_pylist(), units["target_label"].to_pylist(), strict=True))
    return [
        scale.values.index(found[f"{item:03d}"]) if f"{item:03d}" in found else NO_TARGET for item in range(len(counts))
    ]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=20),
    rule=st.sampled_from(RULES),
    numbers=st.sampled_from([(1, 2, 3, 4), (-2, 0, 1, 5), (0, 0.1, 0.4, 1.5)]),
)
def test_targets_of_counts_are_those_of_annotations(
    rows: list[list[int]], rule: dict[str, Any], numbers: tuple[float, ...]
) -> None:
    counts, target, scale = np.array(rows), TargetConfig(**rule), Scale(values=numbers, type="interval")

    found = decide_targets(counts, target, scale)

    assert np.where(found.kept, found.levels, NO_TARGET).tolist() == aggregate(counts, target, scale)
    assert found.levels.tolist() == aggregate(counts, keep_everything(target), scale)


def test_nobodys_labels_have_no_target() -> None:
    found = decide_targets(np.zeros((2, 3), dtype=int), TargetConfig(), Scale(values=(1, 2, 3)))

    assert found.levels.tolist() == [NO_TARGET, NO_TARGET]
    assert not found.kept.any()


@pytest.mark.parametrize("rule", RULES)
def test_no_unit_gives_no_target(rule: dict[str, Any]) -> None:
    found = decide_targets(np.zeros((0, 3), dtype=np.int64), TargetConfig(**rule), Scale(values=(1, 2, 3)))

    assert (len(found.levels), len(found.kept)) == (0, 0)
