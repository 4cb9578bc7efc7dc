"""Hold a rater against people while it learns: it rates items of the validation split as `rate_items` would.

It writes its answer greedily; the expected rating is read off the levels' probabilities behind what it wrote.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from judgetrace.agreement.pair_statistics import compute_kappa
from judgetrace.agreement.panel_statistics import make_weights
from judgetrace.parsing import RATING_OPEN, ThinkingConfig, parse_output
from judgetrace.scale import Scale, expect_rating
from judgetrace.training.encoding import ExampleEncoder
from judgetrace.training.loss import score_levels
from judgetrace.training.progress import UNDEFINED_SCORE
from judgetrace.training.shared_prefix import lay_out_prompts

RATING_TOKENS = 16
"""Tokens that a rating without thinking may take, where no level takes more."""
END_TOKENS = 2
"""Tokens beside a rating: what ends the turn, and a blank or line break."""


@dataclass(frozen=True)
class ItemRating:
    """What the rater says of an item; null where it gave no rating."""

    dimension: str
    target: str
    sampled: str | None
    expected: float | None
    text: str
    was_cut: bool = False
    """Whether it ran into its limit of tokens."""


class Validator:
    """Rates items with a model in training."""

    def __init__(
        self,
        encoder: ExampleEncoder,
        thinking: ThinkingConfig,
        stop_ids: Sequence[int],
        pad: int,
        max_new_tokens: int,
        *,
        shares_prefix: bool = False,
    ):
        """`shares_prefix` runs what prompts begin with once."""
        self._encoder, self._thinking, self._pad = encoder, thinking, pad
        self._shares_prefix = shares_prefix
        self._stop_ids = list(stop_ids)
        self._limit = max_new_tokens
        if thinking.format == "none":
            self._limit = max(RATING_TOKENS, encoder.count_rating_tokens() + END_TOKENS)

    def rate(self, model: Any, items: Sequence[Mapping[str, Any]], synced: bool, batch: int) -> list[ItemRating]:
        """Rate items, `batch` at once; one without a prompt, or whose prompt alone is too long, has no rating.

        `synced` keeps workers that share a model's parts in step, where all have as many items: each goes through the
        model as often as the others, whatever it wrote.
        """
        ratings: list[ItemRating] = []
        with torch.no_grad():
            for start in range(0, len(items), batch):
                ratings += self._rate_batch(model, items[start : start + batch], synced)
        return ratings

    def _rate_batch(self, model: Any, items: Sequence[Mapping[str, Any]], synced: bool) -> list[ItemRating]:
        room = self._encoder.max_tokens - self._limit
        encoded = self._encoder.encode_prompts(items, [room] * len(items))
        known = [None if prompt is None else prompt[1] for prompt in encoded]
        is_whole = [prompt is not None and len(prompt) < self._encoder.max_tokens for prompt in known]
        prompts = self._fill_in(known, room)
        texts, was_cut = self._write(model, prompts, synced)
        scales = [self._encoder.scale_of(row["dimension"]) for row in items]
        parsed = [
            parse_output(text, cut, self._thinking, scale)
            for text, cut, scale in zip(texts, was_cut, scales, strict=True)
        ]
        expected = self._expect(model, prompts, texts, was_cut, scales)
        if synced and all(expectation is None for expectation in expected):
            score_levels(model, prompts[:1], [self._encoder.grow_tree(scales[0])], self._pad)
        return [
            ItemRating(row["dimension"], row["target_label"], found.rating, expectation, text, cut)
            if whole
            else ItemRating(row["dimension"], row["target_label"], None, None, "")
            for row, found, expectation, text, cut, whole in zip(
                items, parsed, expected, texts, was_cut, is_whole, strict=True
            )
        ]

    def _fill_in(self, known: Sequence[list[int] | None], room: int) -> list[list[int]]:
        """Give every item of a batch tokens to ask: the end of a prompt that is too long, another's where it has none.

        Workers stay in step whatever can't be asked; what the rater says to these tokens is no rating of the item.
        """
        cut = [
            prompt if prompt is None or len(prompt) < self._encoder.max_tokens else prompt[-max(1, room) :]
            for prompt in known
        ]
        other = next((prompt for prompt in cut if prompt is not None), self._encoder.encode_text(RATING_OPEN))
        return [other if prompt is None else prompt for prompt in cut]

    def _write(self, model: Any, prompts: Sequence[Sequence[int]], synced: bool) -> tuple[list[str], list[bool]]:
        """Let the model answer; returns texts, and whether each ran into the limit."""
        given = lay_out_prompts(model, prompts, self._pad, self._shares_prefix)
        written = model.generate(
            **given,
            max_new_tokens=self._limit,
            do_sample=False,
            use_cache=True,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self._stop_ids,
            pad_token_id=self._pad,
            synced_gpus=synced,
        )
        answers = [row.tolist() for row in written[:, given["input_ids"].shape[1] :]]
        ends = [next((n for n, token in enumerate(row) if token in self._stop_ids), None) for row in answers]
        texts = [self._encoder.decode(row[:end]) for row, end in zip(answers, ends, strict=True)]
        return texts, [end is None for end in ends]

    def _expect(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[str],
        was_cut: Sequence[bool],
        scales: Sequence[Scale],
    ) -> list[float | None]:
        """Compute the expected rating behind each answer's thinking; none where it did not end, or has no order."""
        before = [self._before_rating(text, cut) for text, cut in zip(texts, was_cut, strict=True)]
        scored = [n for n, text in enumerate(before) if text is not None and scales[n].type != "nominal"]
        expected: list[float | None] = [None] * len(texts)
        if scored:
            prefixes = [[*prompts[n], *self._encoder.encode_text(str(before[n]))] for n in scored]
            trees = [self._encoder.grow_tree(scales[n]) for n in scored]
            scores = score_levels(model, prefixes, trees, self._pad, shares_prefix=self._shares_prefix)
            for n, found in zip(scored, scores, strict=True):
                probabilities = torch.softmax(found, dim=0).tolist()
                expected[n] = expect_rating(probabilities, scales[n])
        return expected

    def _before_rating(self, text: str, was_cut: bool) -> str | None:
        """Return what stands before the rating, with the opened tag; None where the thinking did not end.

        The thinking stays as written, and is gone on with as DrawSampler does.
        """
        if self._thinking.format == "none":
            return RATING_OPEN
        if self._thinking.format == "plain":
            thinking, opened, _ = text.partition(RATING_OPEN)
            if was_cut and not opened:
                return None
            return f"{thinking.rstrip()}\n{RATING_OPEN}" if thinking.strip() else RATING_OPEN
        thinking, closed, _ = text.partition(self._thinking.marks[1])
        return f"{thinking}{closed}\n{RATING_OPEN}" if closed else None


def measure_ratings(
    ratings: Sequence[ItemRating], scales: Mapping[str, Scale], deciding: str
) -> dict[str, float | None]:
    """Measure ratings against target labels, as means over dimensions; null where undefined.

    tau, qwk, mse, coverage for each of sampled_ and expected_; of nominal scales kappa instead of tau and qwk.
    truncated  share of answers that ran into their limit of tokens
    score      what early stopping and the choice of the checkpoint look at, of the `deciding` rating: the mean over all
               dimensions of (tau + 1) * coverage - 1, so that an item without a rating counts as the worst there is; of
               kappa likewise where no scale has an order. With full coverage it is tau. UNDEFINED_SCORE, the lowest
               there is, is that of a dimension without tau.
    """
    by_dimension: dict[str, list[ItemRating]] = defaultdict(list)
    for rating in ratings:
        by_dimension[rating.dimension].append(rating)
    measured = [_measure_dimension(own, scales[dimension]) for dimension, own in sorted(by_dimension.items())]
    found: dict[str, list[float]] = defaultdict(list)
    for own in measured:
        for name, value in own.items():
            found[name].append(value)
    means = {name: _mean(values) for name, values in found.items()}
    statistic = f"{deciding}_tau" if f"{deciding}_tau" in found else "sampled_kappa"
    coverage = statistic.partition("_")[0] + "_coverage"
    scores = [_score(own[statistic], own[coverage]) for own in measured if statistic in own]
    score = _mean(scores)
    return {**means, "score": UNDEFINED_SCORE if score is None else score}


def _score(statistic: float, coverage: float) -> float:
    """Score a dimension."""
    # This is (statistic + 1) * coverage - 1, and to the last bit the statistic where coverage is 1.
    return UNDEFINED_SCORE if math.isnan(statistic) else statistic * coverage - (1 - coverage)


def _measure_dimension(ratings: Sequence[ItemRating], scale: Scale) -> dict[str, float]:
    targets = np.array([scale.values.index(rating.target) for rating in ratings])
    levels = [None if rating.sampled is None else scale.values.index(rating.sampled) for rating in ratings]
    truncated = sum(rating.was_cut for rating in ratings) / len(ratings)
    if scale.type == "nominal":
        return {
            "sampled_kappa": _kappa(levels, targets, scale, "identity"),
            "sampled_coverage": _coverage(levels),
            "truncated": truncated,
        }
    numbers = np.array(scale.numbers)
    sampled = [None if level is None else float(numbers[level]) for level in levels]
    expected = [rating.expected for rating in ratings]
    found = {"truncated": truncated}
    for name, given in (("sampled", sampled), ("expected", expected)):
        snapped = [None if number is None else scale.snap(number, "floor")[0] for number in given]
        found |= {
            f"{name}_tau": _tau(given, numbers[targets]),
            f"{name}_qwk": _kappa(snapped, targets, scale, "quadratic"),
            f"{name}_mse": _mse(given, numbers[targets]),
            f"{name}_coverage": _coverage(given),
        }
    return found


def _coverage(given: Sequence[float | int | None]) -> float:
    return sum(value is not None for value in given) / len(given)


def _tau(given: Sequence[float | None], targets: np.ndarray) -> float:
    pairs = [(value, target) for value, target in zip(given, targets, strict=True) if value is not None]
    if len(pairs) < 2:
        return math.nan
    return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def _kappa(given: Sequence[int | None], targets: np.ndarray, scale: Scale, weights: str) -> float:
    joint = np.zeros((len(scale.values), len(scale.values)))
    for level, target in zip(given, targets, strict=True):
        if level is not None:
            joint[level, target] += 1
    return float(compute_kappa(joint, make_weights(weights, len(scale.values))))


def _mse(given: Sequence[float | None], targets: np.ndarray) -> float:
    errors = [(value - target) ** 2 for value, target in zip(given, targets, strict=True) if value is not None]
    return float(np.mean(errors)) if errors else math.nan


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else None
