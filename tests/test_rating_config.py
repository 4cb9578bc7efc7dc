"""The config of rate_items, and what its rows depend on."""

import pytest
from pydantic import ValidationError

from judgetrace.fingerprints import fingerprint_model
from judgetrace.rating_config import RateItemsConfig, RaterConfig
from judgetrace.refining.config import RefineGuidelineConfig


def make_config(**sections) -> RateItemsConfig:
    return RateItemsConfig.model_validate({"corpus": "c", "run": "r", "model": {"path": "org/name"}} | sections)


def contract_of(config: RateItemsConfig) -> dict:
    texts = {"guideline": "g", "prompt.template": "t", "model.fingerprint": fingerprint_model(config.model)}
    return config.contract(corpus="corpus", **texts)


def find_changes(before: RateItemsConfig, after: RateItemsConfig) -> set[str]:
    old, new = contract_of(before), contract_of(after)
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        ({"model": {"path": "org/other"}}, {"model.path", "model.fingerprint", "rater_id"}),
        ({"model": {"path": "org/name", "revision": "v2"}}, {"model.revision", "model.fingerprint"}),
        ({"decoding": {"samples": 4}}, {"decoding.samples"}),
        ({"decoding": {"rating": "expected"}}, {"decoding.rating"}),
        ({"decoding": {"combine": "majority"}}, {"decoding.combine"}),
        ({"decoding": {"temperature": 0.5}}, {"decoding.temperature"}),
        ({"decoding": {"seed": 1}}, {"decoding.seed"}),
        ({"thinking": {"format": "none"}}, {"thinking.format"}),
        ({"thinking": {"constrained_rating": "always"}}, {"thinking.constrained_rating"}),
        ({"prompt": {"system": "You rate."}}, {"prompt.system"}),
        ({"engine": {"args": {"quantization": "fp8"}}}, {"engine.args"}),
        ({"splits": ["test"]}, {"splits"}),
        ({"dropped": True}, {"dropped"}),
        ({"dimensions": ["tone"]}, {"dimensions"}),
        ({"rater_id": "other"}, {"rater_id"}),
        # What alters speed, cost or what is kept, not what is sampled, may change between calls.
        ({"limits": {"max_seconds": 9, "max_failed_rate": 0.5}, "limit": 5}, set()),
        ({"ledger": {"commit_every_s": 3, "drain_s": 1, "keep_text": True}}, set()),
        ({"cluster": {"wait_s": 9}}, set()),
        ({"engine": {"slots": 8, "min_replicas": 2, "max_replicas": 4, "num_gpus": 1}}, set()),
        ({"engine": {"args": {"gpu_memory_utilization": 0.8}}}, set()),
    ],
)
def test_the_contract_holds_what_rows_depend_on_and_nothing_else(sections, changed):
    assert find_changes(make_config(), make_config(**sections)) == changed


def test_a_run_over_all_dimensions_goes_on_with_what_began_before_they_could_be_chosen():
    assert contract_of(make_config())["dimensions"] is None
    assert find_changes(make_config(dimensions="tone"), make_config(dimensions=["tone"])) == set()


def test_guidelines_are_scored_by_two_raters_unless_one_is_said_to_be_enough():
    model = {"path": "org/name"}
    one = {"corpus": "c", "traces": "t", "run": "r", "generator": {"model": model}, "raters": [{"model": model}]}

    with pytest.raises(ValidationError, match="raters: 'name' alone"):
        RefineGuidelineConfig.model_validate(one)
    assert len(RefineGuidelineConfig.model_validate(one | {"allow_one_rater": True}).raters) == 1


def test_an_adapter_is_another_rater(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "adapter_config.json").write_text('{"r": 8}')
    tuned = make_config(model={"path": "org/name", "adapter": str(tmp_path / "tuned")})
    assert find_changes(make_config(), tuned) == {"model.adapter", "model.fingerprint", "rater_id"}


def test_another_endpoint_is_another_rater_and_other_prices_are_not():
    def at(**changes: object) -> RateItemsConfig:
        return make_config(endpoint={"base_url": "https://one.example/v1", **changes})

    assert find_changes(at(), at(base_url="https://two.example/v1")) == {"endpoint.base_url"}
    assert find_changes(at(), at(extra_body={"reasoning_effort": "low"})) == {"endpoint.extra_body"}
    assert find_changes(at(), at(input_price=2.0, api_key_env="OTHER_KEY")) == set()


def test_scored_levels_without_thinking_need_no_room_for_it():
    scored = {"rating": "expected", "max_tokens": 1}
    assert make_config(decoding=scored, thinking={"format": "none"}).decoding.max_tokens == 1
    with pytest.raises(ValidationError, match=r"decoding\.max_tokens 1 leaves no room for thinking"):
        make_config(decoding=scored)
    with pytest.raises(ValidationError, match="leaves no room for thinking"):
        make_config(decoding={"max_tokens": 16}, thinking={"constrained_rating": "always"})


def test_expected_ratings_without_thinking_are_not_sampled_twice():
    twice = {"model": {"path": "m"}, "decoding": {"rating": "expected", "samples": 2}, "thinking": {"format": "none"}}
    with pytest.raises(ValidationError, match="the expected rating is the same every time; use 1"):
        make_config(**twice)
    # A rater of refine_guideline is checked as rate_items' own.
    with pytest.raises(ValidationError, match="the expected rating is the same every time; use 1"):
        RaterConfig.model_validate(twice)


def test_a_rater_has_no_rejected_text_to_keep():
    assert make_config().ledger.keep_text is False
    assert make_config(ledger={"keep_text": True}).decider().keep_text is True
    with pytest.raises(ValidationError, match="keep_rejected_text"):
        make_config(ledger={"keep_rejected_text": True})
