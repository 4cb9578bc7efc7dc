"""The config of an endpoint, and that no key gets into an error of it."""

import pytest
from pydantic import BaseModel, ValidationError

from judgetrace.config import STRICT, describe_validation_error
from judgetrace.endpoint_config import EndpointConfig

KEY = "sk-proj-0123456789abcdef"


@pytest.mark.parametrize(
    ("fields", "variable"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"base_url": "http://127.0.0.1:8000/v1"}, None),
        ({"base_url": "https://other.example/v1", "api_key_env": "OTHER_KEY"}, "OTHER_KEY"),
        ({"api_key_env": "OTHER_KEY"}, "OTHER_KEY"),
    ],
)
def test_openais_key_is_told_to_no_other_server_unless_the_config_says_so(fields, variable):
    assert EndpointConfig(**fields).key_variable == variable


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key_env": KEY},
        {"base_url": KEY},
        {"base_url": f"https://user:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?api-key={KEY}"},
        {"base_url": "ftp://host/v1"},
    ],
)
def test_what_may_be_a_key_is_refused_and_not_repeated(fields):
    class JobConfig(BaseModel):
        model_config = STRICT
        endpoint: EndpointConfig

    with pytest.raises(ValidationError) as caught:
        JobConfig.model_validate({"endpoint": fields})
    described = describe_validation_error(caught.value, JobConfig, "job.toml")
    assert f"endpoint.{next(iter(fields))}" in described
    assert KEY not in described + str(caught.value) + repr(caught.value.errors())


@pytest.mark.parametrize(
    ("fields", "run", "conflict"),
    [
        ({}, {}, None),
        ({}, {"constrained": True}, "thinking.constrained_rating = 'never'"),
        ({}, {"top_k": 5}, "set top_k = 0"),
        ({}, {"engine_env": {"OPENAI_API_KEY": KEY}}, "engine.env.OPENAI_API_KEY"),
        ({"dialect": "vllm", "base_url": "http://h/v1"}, {"constrained": True, "top_k": 5}, None),
    ],
)
def test_what_an_endpoint_cannot_do_is_found_before_a_run(fields, run, conflict):
    found = EndpointConfig(**fields).find_conflict(**{"engine_env": {}, "constrained": False, "top_k": 0} | run)
    assert found is None if conflict is None else conflict in found
    assert KEY not in str(found)
