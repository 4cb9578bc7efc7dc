"""How a rater in training is measured, and how it rates."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score

from judgetrace.guideline import parse_guideline
from judgetrace.parsing import ThinkingConfig
from judgetrace.sampling import draw_seed
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.storage import Folder, encode_parquet
from judgetrace.tokenization import encode_texts
from judgetrace.training.encoding import ExampleEncoder
from judgetrace.training.validation import ItemRating, Validator, measure_ratings
from judgetrace.training.validation_items import ITEM_COLUMNS, choose_items
from tests.small_rater import make_model, make_spec, make_tokenizer
from tests.trace_tables import make_items

LEVELS = ("-4", "1", "10")
SCALE = Scale(values=LEVELS)
COLOURS = Scale(values=("red", "green", "blue"), type="nominal")


def rate(target: str, sampled: str | None, expected: float | None = None, dimension: str = "") -> ItemRating:
    return ItemRating(dimension, target, sampled, expected, "")


def make_ratings(num: int, missing: float = 0.0, seed: int = 0) -> list[ItemRating]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(num):
        level = int(random.integers(3))
        given = int(np.clip(level + random.integers(-1, 2), 0, 2))
        expected = float(np.clip(SCALE.numbers[level] + random.normal(0, 4), -4, 10))
        made.append(
            rate(
                LEVELS[level],
                None if random.random() < missing else LEVELS[given],
                None if random.random() < missing else expected,
            )
        )
    return made


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_metrics_are_those_of_scipy_and_sklearn_over_the_items_that_have_a_rating(missing: float) -> None:
    ratings = make_ratings(200, missing)

    found = measure_ratings(ratings, {"": SCALE}, "expected")

    sampled = [(float(r.sampled), float(r.target)) for r in ratings if r.sampled is not None]
    expected = [(r.expected, float(r.target)) for r in ratings if r.expected is not None]
    assert (len(sampled) < 200) == (missing > 0)
    for name, pairs in (("sampled", sampled), ("expected", expected)):
        given, targets = np.array(pairs).T
        # The nearest of -4, 1 and 10.
        levels = [min(range(3), key=lambda level: abs(number - (-4, 1, 10)[level])) for number in given]
        truth = [(-4, 1, 10).index(int(target)) for target in targets]
        assert found[f"{name}_tau"] == pytest.approx(kendalltau(given, targets).statistic)
        assert found[f"{name}_qwk"] == pytest.approx(cohen_kappa_score(levels, truth, weights="quadratic"))
        assert found[f"{name}_mse"] == pytest.approx(np.mean((given - targets) ** 2))
        assert found[f"{name}_coverage"] == len(pairs) / 200
    assert found["truncated"] == 0.0
    if not missing:
        assert found["score"] == found["expected_tau"], "to the last bit"


def test_the_deciding_rating_is_the_score() -> None:
    ratings = [rate("-4", "10", -3.0), rate("1", "1", 2.0), rate("10", "-4", 9.0)]

    assert measure_ratings(ratings, {"": SCALE}, "sampled")["score"] == pytest.approx(-1.0)
    assert measure_ratings(ratings, {"": SCALE}, "expected")["score"] == pytest.approx(1.0)


def test_items_without_a_rating_count_against_the_score() -> None:
    # Two of 256 answers ended, in the right order; of tau alone nothing could ever be better.
    few = [rate("-4", "-4"), rate("10", "10"), *[rate("1", None)] * 254]
    # (1/3 + 1) * 3/4 - 1: of three pairs two agree and one does not.
    more = [rate("-4", "1"), rate("1", "-4"), rate("10", "10"), rate("1", None)]

    assert measure_ratings(few, {"": SCALE}, "sampled")["sampled_tau"] == pytest.approx(1.0)
    assert measure_ratings(few, {"": SCALE}, "sampled")["score"] == pytest.approx(2 * 2 / 256 - 1)
    assert measure_ratings(more, {"": SCALE}, "sampled")["score"] == pytest.approx(0.0)


def test_the_score_takes_the_coverage_of_the_deciding_rating() -> None:
    ratings = [rate("-4", "-4", -3.0), rate("10", "10", 9.0), rate("1", None, 2.0), rate("1", None, 2.0)]

    assert measure_ratings(ratings, {"": SCALE}, "sampled")["score"] == pytest.approx((1 + 1) * 2 / 4 - 1)
    assert measure_ratings(ratings, {"": SCALE}, "expected")["score"] == pytest.approx(1.0)


def test_the_share_of_cut_answers_is_told() -> None:
    cut = ItemRating("", "1", None, None, "on and on", was_cut=True)

    assert measure_ratings([cut, rate("1", "1", 1.0), cut, cut], {"": SCALE}, "expected")["truncated"] == 0.75
    red = ItemRating("", "red", None, None, "on and on", was_cut=True)
    assert measure_ratings([red, rate("red", "red")], {"": COLOURS}, "expected")["truncated"] == 0.5


def test_metrics_by_hand() -> None:
    ratings = [rate("-4", "1", -4.0), rate("1", "1", None), rate("10", None, 5.5)]

    found = measure_ratings(ratings, {"": SCALE}, "expected")

    assert found["sampled_mse"] == pytest.approx((25 + 0) / 2)
    assert found["expected_mse"] == pytest.approx(20.25 / 2)
    assert (found["sampled_coverage"], found["expected_coverage"]) == pytest.approx((2 / 3, 2 / 3))
    assert found["sampled_tau"] is None, "all ratings given are the same"
    assert found["expected_tau"] == pytest.approx(1.0)


def test_metrics_are_means_over_dimensions_and_not_over_items() -> None:
    tone = [rate("-4", "-4", dimension="tone"), rate("1", "1", dimension="tone")] * 10
    length = [rate("-4", "10", dimension="length"), rate("10", "-4", dimension="length")]

    found = measure_ratings([*tone, *length], {"tone": SCALE, "length": SCALE}, "sampled")

    assert found["sampled_tau"] == pytest.approx((1 - 1) / 2)
    assert found["sampled_mse"] == pytest.approx((0 + 14**2) / 2)


def test_an_undefined_dimension_is_left_out_of_the_means_and_counts_as_the_worst_in_the_score() -> None:
    tone = [rate("-4", "-4", dimension="tone"), rate("10", "10", dimension="tone")]
    constant = [rate("1", "1", dimension="length"), rate("1", "10", dimension="length")]

    found = measure_ratings([*tone, *constant], {"tone": SCALE, "length": SCALE}, "sampled")

    assert found["sampled_tau"] == pytest.approx(1.0)
    assert found["score"] == pytest.approx((1.0 - 1.0) / 2)


def test_a_nominal_scale_is_measured_by_kappa() -> None:
    random = np.random.default_rng(0)
    pairs = random.choice(COLOURS.values, (50, 2)).tolist()

    found = measure_ratings([rate(a, b) for a, b in pairs] + [rate("red", None)], {"": COLOURS}, "expected")

    kappa = cohen_kappa_score(*zip(*pairs, strict=True))
    expected = {"sampled_kappa": kappa, "sampled_coverage": 50 / 51, "truncated": 0.0}
    assert found == pytest.approx({**expected, "score": (kappa + 1) * 50 / 51 - 1})


@pytest.mark.parametrize(
    "ratings",
    [[], [rate("1", "1", 1.0)], [rate("1", None), rate("10", None)], [rate("1", "1", 2.0), rate("10", "1", 2.0)]],
)
def test_the_score_is_minus_one_where_tau_is_undefined(ratings: list[ItemRating]) -> None:
    found = measure_ratings(ratings, {"": SCALE}, "expected")

    assert found["score"] == -1.0
    assert all(value is None or math.isfinite(value) for value in found.values())
    json.dumps(found, allow_nan=False)


class ScriptedModel:
    """A random model that scores for itself, and whose answers are given."""

    def __init__(self, tokenizer: Any, answers: Sequence[str]):
        self._model = make_model(400).eval()
        self._answers = [encode_texts(tokenizer, [answer])[0] for answer in answers]
        self.parameters = self._model.parameters
        self.num_passes = self.longest_prompt = self.limit = 0

    def __call__(self, **arguments: Any) -> Any:
        self.num_passes += 1
        return self._model(**arguments)

    def generate(self, *, input_ids: torch.Tensor, max_new_tokens: int, pad_token_id: int, **_: Any) -> torch.Tensor:
        self.longest_prompt, self.limit = max(self.longest_prompt, input_ids.shape[1]), max_new_tokens
        own, self._answers = self._answers[: len(input_ids)], self._answers[len(input_ids) :]
        own = [answer[:max_new_tokens] for answer in own]
        longest = max(map(len, own))
        written = [answer + [pad_token_id] * (longest - len(answer)) for answer in own]
        return torch.cat([input_ids, torch.tensor(written)], dim=1)


def make_validator(
    tokenizer: Any, form: str, max_new_tokens: int = 64, shares_prefix: bool = True, **spec: Any
) -> tuple[ExampleEncoder, Validator]:
    encoder = ExampleEncoder(make_spec(form=form, thinks=form != "none", **spec), tokenizer)
    thinking = ThinkingConfig(format=form)
    settings = (encoder.stop_ids, encoder.pad_id, max_new_tokens)
    return encoder, Validator(encoder, thinking, *settings, shares_prefix=shares_prefix)


def make_rows(num: int) -> list[dict[str, Any]]:
    return [
        {"dimension": "", "fields": json.dumps({"text": "so " * n}), "target_label": "1"} for n in range(1, num + 1)
    ]


def expect_by_hand(model: Any, tokenizer: Any, prefix: list[int]) -> float:
    """The expectation of -4, 1 and 10 behind a prefix, each path scored alone."""
    weights = []
    for level in LEVELS:
        path = encode_texts(tokenizer, [level])[0]
        with torch.no_grad():
            found = torch.log_softmax(model(input_ids=torch.tensor([[*prefix, *path]])).logits[0].double(), dim=-1)
        weights.append(math.exp(sum(float(found[len(prefix) + n - 1, token]) for n, token in enumerate(path))))
    return sum(w * number for w, number in zip(weights, (-4, 1, 10), strict=True)) / sum(weights)


@pytest.mark.parametrize(
    ("form", "answer", "before", "sampled"),
    [
        ("plain", "Good.\n<rating>10</rating><|im_end|>", "Good.\n<rating>", "10"),
        ("plain", "Good. <rating>10</rating> or <rating>1</rating><|im_end|>", "Good.\n<rating>", "1"),
        ("plain", "Good.<|im_end|>", "Good.\n<rating>", None),
        ("plain", "<rating>-4</rating><|im_end|>", "<rating>", "-4"),
        ("plain", "I go on and on" + " and on" * 99, None, None),
        ("plain", "Good. <rating>10 and on" + " and on" * 99, "Good.\n<rating>", None),
        ("tags", "<think>\nGood.\n</think>\n<rating>1</rating><|im_end|>", "<think>\nGood.\n</think>\n<rating>", "1"),
        ("tags", "Good. </think><rating>7</rating><|im_end|>", "Good. </think>\n<rating>", None),
        ("tags", "Good. <rating>1</rating><|im_end|>", None, None),
        ("none", "<rating>1</rating><|im_end|>", "<rating>", "1"),
        ("none", "well<|im_end|>", "<rating>", None),
    ],
)
def test_the_expected_rating_stands_where_a_rating_engine_would_score_it(
    form: str, answer: str, before: str | None, sampled: str | None
) -> None:
    # An engine keeps the thinking as written, blanks at its end apart, and goes on with a line break and the tag.
    tokenizer = make_tokenizer()
    encoder, validator = make_validator(tokenizer, form)
    model, (row,) = ScriptedModel(tokenizer, [answer]), make_rows(1)

    (found,) = validator.rate(model, [row], synced=False, batch=4)

    assert (found.sampled, found.target) == (sampled, "1")
    assert found.was_cut == ("and on" in answer)
    if before is None:
        assert found.expected is None
    else:
        prompt = next(entry[1] for entry in encoder.encode_prompts([row], [encoder.max_tokens]) if entry is not None)
        prefix = [*prompt, *encode_texts(tokenizer, [before])[0]]
        assert found.expected == pytest.approx(expect_by_hand(model, tokenizer, prefix), rel=1e-5)


def test_a_rating_without_thinking_may_be_as_long_as_the_longest_level_of_any_scale() -> None:
    tokenizer = make_tokenizer()
    level = "QXZQXZQXZQXZQXZQXZQX"
    tags = sum(len(encode_texts(tokenizer, [tag])[0]) for tag in ("<rating>", "</rating>"))
    assert len(encode_texts(tokenizer, [level])[0]) == 20
    scale = ScaleConfig(values=("-4", "1"), dimensions={"tone": Scale(values=("No", level))})
    encoder = ExampleEncoder(make_spec(form="none", thinks=False, scale=scale), tokenizer)
    validator = Validator(encoder, ThinkingConfig(format="none"), encoder.stop_ids, encoder.pad_id, 512)
    model = ScriptedModel(tokenizer, [f"<rating>{level}</rating><|im_end|>"])
    row = {"dimension": "tone", "fields": json.dumps({"text": "so"}), "target_label": "No"}

    (found,) = validator.rate(model, [row], synced=False, batch=1)

    assert (found.sampled, found.was_cut) == (level, False)
    assert model.limit == tags + 20 + 2


def test_a_rating_of_short_levels_has_16_tokens() -> None:
    tokenizer = make_tokenizer()
    _, validator = make_validator(tokenizer, "none")
    model = ScriptedModel(tokenizer, ["on and on " * 99])

    validator.rate(model, make_rows(1), synced=False, batch=1)

    assert model.limit == 16


@pytest.mark.parametrize("answers", [["on and on " * 99] * 4, ["Good.\n<rating>10</rating><|im_end|>"] * 4])
def test_workers_that_share_a_model_pass_it_equally_often_whatever_was_written(answers: list[str]) -> None:
    # Under ZeRO-3 every pass is a collective: a worker with no answer to score would leave the others waiting.
    tokenizer = make_tokenizer()
    _, validator = make_validator(tokenizer, "plain", shares_prefix=False)
    model = ScriptedModel(tokenizer, answers)

    ratings = validator.rate(model, make_rows(4), synced=True, batch=2)

    assert (model.num_passes, len(ratings)) == (2, 4)


@pytest.mark.parametrize("synced", [False, True])
def test_a_prompt_that_is_longer_than_all_an_example_may_be_has_no_rating_and_counts_against_coverage(
    synced: bool,
) -> None:
    tokenizer = make_tokenizer()
    short, long = ({"dimension": "", "fields": json.dumps({"text": "so " * n}), "target_label": "1"} for n in (1, 400))
    whole = ExampleEncoder(make_spec(), tokenizer)
    (prompt,) = whole.encode_prompts([short], [4096])
    assert prompt is not None
    encoder = ExampleEncoder(make_spec(max_tokens=len(prompt[1]) + 20), tokenizer)
    validator = Validator(encoder, ThinkingConfig(), encoder.stop_ids, encoder.pad_id, 16)
    model = ScriptedModel(tokenizer, ["<rating>1</rating><|im_end|>"] * 2)

    ratings = validator.rate(model, [short, long], synced=synced, batch=2)

    assert [rating.sampled for rating in ratings] == ["1", None]
    assert model.longest_prompt <= encoder.max_tokens
    found = measure_ratings(ratings, {"": SCALE}, "expected")
    assert (found["sampled_coverage"], found["expected_coverage"]) == (0.5, 0.5)


def make_noted_rows(*notes: str | None) -> list[dict[str, Any]]:
    """Items with a field `note`, but for those of None."""
    fields = [{"text": "so"} | ({} if note is None else {"note": note}) for note in notes]
    return [{"dimension": "", "fields": json.dumps(own), "target_label": "1"} for own in fields]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_item_that_lacks_a_field_of_the_template_has_no_rating_and_changes_no_other(batch: int) -> None:
    # columns.fields_json may name a field in some rows only; such an item must not end training.
    tokenizer = make_tokenizer()
    _, validator = make_validator(tokenizer, "none", template="Rate: {{ fields.text }} {{ fields.note }}")
    model = make_model(len(tokenizer)).eval()

    found = validator.rate(model, make_noted_rows(None, "a", "b", None, "c"), synced=False, batch=batch)

    alone = validator.rate(model, make_noted_rows("a", "b", "c"), synced=False, batch=1)
    assert [found[n].text for n in (1, 2, 4)] == [rating.text for rating in alone]
    assert [found[n].expected for n in (1, 2, 4)] == pytest.approx([rating.expected for rating in alone], rel=1e-4)
    assert [found[n] for n in (0, 3)] == [ItemRating("", "1", None, None, "")] * 2
    assert measure_ratings(found, {"": SCALE}, "expected")["expected_coverage"] == 3 / 5


def test_workers_that_share_a_model_pass_it_equally_often_where_items_have_no_prompt() -> None:
    tokenizer = make_tokenizer()
    template = "Rate: {{ fields.text }} {{ fields.note }}"
    _, validator = make_validator(tokenizer, "plain", shares_prefix=False, template=template)
    model = ScriptedModel(tokenizer, ["Good.\n<rating>10</rating><|im_end|>"] * 4)

    ratings = validator.rate(model, make_noted_rows(None, None, "a", None), synced=True, batch=2)

    assert model.num_passes == 2
    assert [rating.sampled for rating in ratings] == [None, None, "10", None]


def test_ratings_do_not_depend_on_how_many_items_are_asked_at_once() -> None:
    tokenizer = make_tokenizer()
    _, validator = make_validator(tokenizer, "plain", 6)
    model, rows = make_model(len(tokenizer)).eval(), make_rows(5)

    alone, together = (validator.rate(model, rows, synced=False, batch=batch) for batch in (1, 5))

    assert [rating.text for rating in alone] == [rating.text for rating in together]
    assert all(len(encode_texts(tokenizer, [rating.text])[0]) >= 1 for rating in alone)


def write_items(folder: Folder, a_shard: int) -> list[str]:
    items = make_items(60)
    split = ["validation" if n % 3 else "train" for n in range(60)]
    source = ["annotator" if n % 7 == 0 else "aggregate" for n in range(60)]
    dimension = ["tone" if n % 2 else "length" for n in range(60)]
    for name, values in (("split", split), ("target_source", source), ("dimension", dimension)):
        items = items.set_column(items.schema.get_field_index(name), name, [values])
    names = [f"shard-{n:05d}.parquet" for n in range(math.ceil(60 / a_shard))]
    for n, name in enumerate(names):
        folder.write_atomic(f"items/{name}", encode_parquet(items.slice(n * a_shard, a_shard)))
    return names


def test_validation_items_are_the_lowest_by_a_hash_whatever_the_shards(tmp_path: Path) -> None:
    chosen = {}
    for a_shard in (60, 7):
        folder = Folder(str(tmp_path / str(a_shard)))
        names = write_items(folder, a_shard)
        chosen[a_shard] = choose_items(folder, names, parse_guideline("All."), "validation", max_items=10, seed=3)

    usable = [n for n in range(60) if n % 3 and n % 7]
    keys = [(f"item-{n:04d}", "tone" if n % 2 else "length", "aggregate") for n in usable]
    lowest = sorted(keys, key=lambda key: draw_seed(3, key, 0))[:10]
    assert chosen[60] == chosen[7]
    assert [(row["item_id"], row["dimension"], row["target_source"]) for row in chosen[7]] == lowest
    assert list(chosen[7][0]) == ITEM_COLUMNS


def test_validation_items_that_the_guideline_does_not_cover_are_left_out(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    names = write_items(folder, 20)
    guideline = parse_guideline("All.\n\n## tone\nHow it sounds.", by_section=True)

    found = choose_items(folder, names, guideline, "validation", max_items=1000, seed=3)

    assert {row["dimension"] for row in found} == {"tone"}
    assert len(found) == sum(1 for n in range(60) if n % 3 and n % 7 and n % 2)
