"""The config of an endpoint, and that no key gets into an error of it."""

import pytest
from pydantic import BaseModel, ValidationError

from judgetrace.config import STRICT, describe_validation_error
from judgetrace.endpoint_client import EndpointClient
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.trace_config import InferTracesConfig

KEY = "sk-proj-0123456789abcdef"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


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
    ("base_url", "variable", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "http://one:8000/v1/", "http://one:8000/v1"),
        ("http://own/v1/", "http://one:8000/v1", "http://own/v1"),
    ],
)
def test_a_variable_names_the_server_where_the_config_does_not(monkeypatch, base_url, variable, address):
    if variable is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", variable)
    assert EndpointConfig(base_url=base_url).address() == address


def test_workers_ask_the_drivers_server_with_the_drivers_key(monkeypatch):
    config = EndpointConfig()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for variable, address in [("http://one/v1", "http://one/v1"), ("", "https://api.openai.com/v1")]:
        monkeypatch.setenv("OPENAI_BASE_URL", variable)
        resolved = config.resolve()
        monkeypatch.setenv("OPENAI_BASE_URL", "http://worker/v1")
        assert EndpointClient(resolved, "m", 1).base_url == address
        assert resolved.key_variable == "OPENAI_API_KEY"


def test_rows_of_two_servers_that_a_variable_names_do_not_mix(monkeypatch):
    config = InferTracesConfig.model_validate({"corpus": "c", "run": "r", "model": {"path": "m"}, "endpoint": {}})
    contracts = []
    for url in ("http://one/v1", "http://two/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        contracts.append(config.contract())
    assert {key for key in contracts[0] if contracts[0][key] != contracts[1][key]} == {"endpoint.base_url"}
    assert contracts[0]["endpoint.base_url"] == "http://one/v1"


def test_special_tokens_are_in_the_contract():
    base = {"corpus": "c", "run": "r", "model": {"path": "m"}}
    plain, safe = (
        InferTracesConfig.model_validate(base | {"endpoint": endpoint}).contract()
        for endpoint in ({}, {"special_tokens": ["<|im_end|>"]})
    )
    assert {key for key in safe if safe[key] != plain[key]} == {"endpoint.special_tokens"}


@pytest.mark.parametrize("url", [f"https://user:{KEY}@host/v1", f"https://host/v1?api-key={KEY}", KEY])
def test_a_variable_that_may_hold_a_key_is_refused_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ValidationError, match="OPENAI_BASE_URL is a text that is not shown") as caught:
        InferTracesConfig.model_validate({"corpus": "c", "run": "r", "model": {"path": "m"}, "endpoint": {}})
    assert KEY not in str(caught.value)


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
        # What scoring levels after thinking asks for, too.
        ({}, {"constrained": True}, "(for decoding.rating = 'expected' thinking.format = 'none', too)"),
        ({}, {"top_k": 5}, "set top_k = 0"),
        ({}, {"engine_env": {"OPENAI_API_KEY": KEY}}, "engine.env.OPENAI_API_KEY"),
        ({}, {"engine_env": {"OPENAI_BASE_URL": "http://h"}}, "engine.env.OPENAI_BASE_URL"),
        ({"dialect": "vllm"}, {"engine_args": {"max_model_len": 512}}, "endpoint.extra_body"),
        ({}, {"template_args": {"enable_thinking": False}}, "prompt.chat_template_args"),
        ({"dialect": "vllm"}, {"template_args": {"enable_thinking": False}}, None),
        ({"dialect": "vllm", "base_url": "http://h/v1"}, {"constrained": True, "top_k": 5}, None),
    ],
)
def test_what_an_endpoint_cannot_do_is_found_before_a_run(fields, run, conflict):
    nothing = {"engine_env": {}, "engine_args": {}, "template_args": {}, "constrained": False, "top_k": 0}
    found = EndpointConfig(**fields).find_conflict(**nothing | run)
    assert found is None if conflict is None else conflict in found
    assert KEY not in str(found)
