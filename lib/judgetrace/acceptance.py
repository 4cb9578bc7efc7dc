"""Decide whether a rating matches a unit's target label. Knows no sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from judgetrace.config import STRICT
from judgetrace.scale import Scale

AcceptedBy = Literal["exact", "half_point", "tolerance", "any_annotator"]


class AcceptanceConfig(BaseModel):
    """Which ratings count as a match."""

    model_config = STRICT

    rule: Literal["exact", "tolerance", "any_annotator"] = Field(
        default="exact",
        description="exact: the target label (the paper's rule); tolerance: within `tolerance` of it; "
        "any_annotator: some annotator's own label. What was accepted by more than exact is tagged.",
    )
    tolerance: float = Field(default=0.0, ge=0, description="Largest distance, in the scale's numbers.")


def accept_rating(
    rating: str,
    accepted_labels: Sequence[str],
    annotator_labels: Sequence[str],
    scale: Scale,
    config: AcceptanceConfig,
) -> AcceptedBy | None:
    """Accept a rating and say by which rule, the strictest first; None where it disagrees.

    All are levels of `scale`, as it writes them; `accepted_labels` begins with the target label.
    """
    if rating == accepted_labels[0]:
        return "exact"
    if rating in accepted_labels:
        return "half_point"
    if config.rule == "tolerance" and scale.type != "nominal":
        numbers = dict(zip(scale.values, scale.numbers, strict=True))
        if min(abs(numbers[rating] - numbers[label]) for label in accepted_labels) <= config.tolerance + 1e-9:
            return "tolerance"
    if config.rule == "any_annotator" and rating in annotator_labels:
        return "any_annotator"
    return None
