"""The endpoint engine against scripted servers on loopback: what it asks, what it makes of answers and faults."""

import asyncio
import logging
import pickle
import re
import time
import traceback
from contextlib import contextmanager

import pytest

from judgetrace import endpoint_engine, pacing
from judgetrace.endpoint_client import RequestRefusedError, explain_status
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.endpoint_engine import EndpointEngine
from judgetrace.engine import (
    AccessRefusedError,
    EngineConfig,
    EngineDeadError,
    EngineSpec,
    EngineStartError,
    ModelConfig,
    PromptRefusedError,
    Request,
    load_engine,
)
from judgetrace.pacing import OutOfTriesError
from tests.loopback import Reply, ScriptedServer, chat_answer, error_answer

KEY = "sk-test-5f3a9c"
MESSAGES = [{"role": "user", "content": "Rate it."}]
MODELS = Reply({"data": [{"id": "rater-1", "max_model_len": 512}, {"id": "other", "max_model_len": 9}]})


@pytest.fixture(autouse=True)
def short_backoffs(monkeypatch):
    monkeypatch.setattr(pacing, "FIRST_BACKOFF_S", 0.02)
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def make_spec(server, *, slots=4, args=None, env=None, reasoning_parser=None, template_args=None, **endpoint):
    kind = "judgetrace.endpoint_engine:EndpointEngine"
    config = EndpointConfig(**{"base_url": server and server.base_url, "api_key_env": "TEST_KEY"} | endpoint)
    return EngineSpec(
        ModelConfig(path="rater-1"),
        EngineConfig(kind=kind, slots=slots, args=args or {}, env=env or {}),
        reasoning_parser,
        template_args or {},
        config,
    )


def make_request(engine, begun="", **more):
    prompt = engine.make_prompts([MESSAGES])[0]
    prompt = engine.continue_prompt(prompt, begun) if begun else prompt
    fields = {"seed": 7, "temperature": 0.8, "top_p": 0.9, "top_k": 0, "max_tokens": 50} | more
    return Request("r", prompt, **fields)


@contextmanager
def serving(answer, models=MODELS):
    """Serve answers of a function of (how many requests before, request); the start's requests are answered apart."""

    def reply(asked):
        if asked.path == "/tokenize":
            return Reply({"tokens": [ord(c) for c in asked.body.get("prompt", "user: Rate it. assistant:")]})
        if asked.path == "/v1/models":
            return models
        if asked.body.get("messages", [{}])[0].get("content") == "Hi":
            return Reply(chat_answer("Hello"))
        numbers.append(len(numbers))
        return answer(numbers[-1], asked)

    numbers: list[int] = []
    with ScriptedServer(reply) as server:
        yield server


def ask(server, *requests, **spec):
    """Make an engine on an event loop, as the worker does, and ask it; returns answers or errors in order."""

    async def work():
        engine = load_engine(make_spec(server, **spec))
        made = [make_request(engine, **request) for request in requests]
        try:
            return await asyncio.gather(*(engine.generate(request) for request in made), return_exceptions=True)
        finally:
            await engine._client.close()

    return asyncio.run(work())


def score(server, levels, begun="<rating>", **spec):
    async def work():
        engine = load_engine(make_spec(server, **spec))
        try:
            return await engine.score_levels("r", make_request(engine, begun).prompt, levels)
        finally:
            await engine._client.close()

    return asyncio.run(work())


def asked_of(server):
    """The bodies of all requests but the start's."""
    return [
        a.body
        for a in server.asked
        if a.path not in {"/tokenize", "/v1/models"} and a.body.get("messages") != [{"role": "user", "content": "Hi"}]
    ]


def test_the_openai_dialect_sends_what_all_servers_know_and_cuts_at_the_stop_itself():
    with serving(lambda n, asked: Reply(chat_answer("Good. <rating>4</rating> Bye."))) as server:
        answer = ask(server, {"stop": ("</rating>",)}, extra_body={"reasoning_effort": "low"})[0]
        assert asked_of(server) == [
            {
                "model": "rater-1",
                "messages": MESSAGES,
                "temperature": 0.8,
                "top_p": 0.9,
                "seed": 7,
                "max_completion_tokens": 50,
                "reasoning_effort": "low",
            }
        ]
        assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    assert (answer.text, answer.finish_reason) == ("Good. <rating>4</rating>", "stop")
    assert (answer.prompt_tokens, answer.output_tokens) == (11, 7)


def test_parameters_that_a_server_does_not_take_are_left_out():
    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        ask(server, {}, omit=("temperature", "top_p", "seed"), max_tokens_name="max_tokens")
        assert {*server.asked[0].body} == {*server.asked[1].body} == {"model", "messages", "max_tokens"}


def test_the_vllm_dialect_sends_stops_choices_and_the_templates_arguments():
    with serving(lambda n, asked: Reply(chat_answer("4"))) as server:
        request = {"stop": (".",), "choices": ("4", "5"), "top_k": 3}
        ask(server, request, dialect="vllm", template_args={"enable_thinking": False})
        body = asked_of(server)[0]
    assert (body["stop"], body["include_stop_str_in_output"], body["top_k"]) == (["."], True, 3)
    assert body["structured_outputs"] == {"choice": ["4", "5"]}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_vllm_dialect_goes_on_from_the_tokens_of_what_the_answer_begins_with():
    text = {"choices": [{"text": "4", "finish_reason": "stop"}], "usage": {"prompt_tokens": 30, "completion_tokens": 2}}
    with serving(lambda n, asked: Reply(text)) as server:
        answer = ask(server, {"begun": "Hm.<rating>", "choices": ("4", "5")}, dialect="vllm")[0]
        body, path = server.asked[-1].body, server.asked[-1].path
    assert path == "/v1/completions"
    assert body["prompt"] == [ord(c) for c in "user: Rate it. assistant:Hm.<rating>"]
    assert body["structured_outputs"] == {"choice": ["4", "5"]}
    assert (answer.text, answer.prompt_tokens, answer.output_tokens) == ("4", 30, 2)


@pytest.mark.parametrize(
    ("request_fields", "key"),
    [
        ({"begun": "Hm.<rating>"}, "thinking.constrained_rating"),
        ({"choices": ("1", "2")}, "thinking.constrained_rating"),
        ({"top_k": 5}, "top_k = 0"),
    ],
)
def test_what_the_openai_dialect_cannot_do_is_refused_with_the_config_to_change(request_fields, key):
    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        error = ask(server, request_fields)[0]
        assert isinstance(error, RequestRefusedError)
        assert key in str(error)
        assert asked_of(server) == []


def test_reasoning_comes_apart_from_the_answer():
    with serving(lambda n, asked: Reply(chat_answer("<rating>4</rating>", reasoning_content="Hm."))) as server:
        answer = ask(server, {}, reasoning_parser="any")[0]
    assert (answer.reasoning, answer.content) == ("Hm.", "<rating>4</rating>")


def test_the_start_finds_out_what_the_limit_of_tokens_is_called():
    def old(asked):
        if "max_completion_tokens" in asked.body:
            return error_answer(400, "Unrecognized request argument supplied: max_completion_tokens")
        return Reply(chat_answer("ok"))

    with ScriptedServer(old) as server:
        ask(server, {}, {})
        assert ["max_tokens" in asked.body for asked in server.asked] == [False, True, True, True]


def test_a_start_whose_few_tokens_do_not_do_for_reasoning_has_proved_key_and_model():
    said = "Could not finish the message because max_tokens or model output limit was reached."

    def reasoning(asked):
        return error_answer(400, said) if asked.body["max_completion_tokens"] < 50 else Reply(chat_answer("ok"))

    with ScriptedServer(reasoning) as server:
        assert ask(server, {})[0].text == "ok"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error_answer(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"), "401: Incorrect API key"),
        (error_answer(403, "No access to this region"), "403: No access"),
        (error_answer(404, "The model `rater-1` does not exist", "model_not_found"), "does not exist"),
        (error_answer(429, "You exceeded your current quota", "insufficient_quota"), "no credit"),
        (error_answer(402, "Insufficient Balance"), "no credit"),
        (error_answer(400, "Unsupported parameter: 'top_p' is not supported with this model."), "'top_p'"),
        (error_answer(503, "starting"), "failed 2 times, the last time: 503: starting"),
        (Reply(b"<html>Welcome</html>", headers={"Content-Type": "text/html"}), "no valid answer"),
    ],
)
def test_a_server_that_cannot_be_used_ends_the_start_with_address_model_and_variable(reply, said):
    with ScriptedServer(lambda asked: reply) as server:
        with pytest.raises(EngineStartError) as caught:
            load_engine(make_spec(server, max_tries=2))
        message = str(caught.value)
        assert said in message
        assert server.base_url in message
        assert "'rater-1'" in message
        assert "TEST_KEY" in message
        check_has_no_key(caught.value)


def test_a_server_that_is_not_there_ends_the_start():
    with ScriptedServer(lambda asked: Reply()) as server:
        gone = server.base_url
    with pytest.raises(EngineStartError, match="no connection, or a broken one") as caught:
        load_engine(make_spec(None, base_url=gone, max_tries=2))
    assert gone in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"api_key_env": "NOT_SET"}, "environment variable NOT_SET"),
        ({"api_key_env": None, "base_url": None}, "environment variable OPENAI_API_KEY"),
        ({"args": {"max_model_len": 512}}, "engine.args"),
        ({"template_args": {"enable_thinking": False}}, "prompt.chat_template_args"),
        ({"env": {"TEST_KEY": KEY}}, "engine.env.TEST_KEY"),
    ],
)
def test_a_config_that_cannot_be_served_ends_the_start_before_anything_is_asked(spec, said):
    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        with pytest.raises(EngineStartError, match=re.escape(said)) as caught:
            load_engine(make_spec(server, **spec))
        check_has_no_key(caught.value)
        assert server.asked == []


def test_a_server_that_is_not_vllms_is_no_vllm():
    def plain(asked):
        return Reply(chat_answer("a")) if asked.path.startswith("/v1/chat") else error_answer(404, "Not Found")

    with ScriptedServer(plain) as server, pytest.raises(EngineStartError, match="dialect = 'vllm' right"):
        load_engine(make_spec(server, dialect="vllm"))


@pytest.mark.parametrize(
    ("models", "dialect", "length"),
    [
        (MODELS, "vllm", 512),
        (MODELS, "openai", None),
        (error_answer(404, "Not Found"), "vllm", None),
        (Reply({"data": [{"id": "rater-1"}]}), "vllm", None),
    ],
)
def test_vllms_server_tells_how_many_tokens_the_model_takes(models, dialect, length):
    with serving(lambda n, asked: Reply(chat_answer("a")), models) as server:
        assert load_engine(make_spec(server, dialect=dialect)).max_model_tokens == length


def test_a_server_without_a_key_is_told_none(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        assert ask(server, {}, api_key_env=None)[0].text == "a"
        assert all(KEY not in str(asked.headers) for asked in server.asked)


PASSING = {
    "429": error_answer(429, "slow down", **{"Retry-After": "0.05"}),
    "429 by date": error_answer(429, "slow down", **{"Retry-After": "Tue, 24 Nov 2020 12:00:00 GMT"}),
    "408": error_answer(408, "request timeout"),
    "500": error_answer(500, "oops"),
    "502": Reply(b"<html>Bad Gateway</html>", 502, {"Content-Type": "text/html"}),
    "503": error_answer(503, "overloaded"),
    "504": error_answer(504, "upstream timed out"),
    "529": error_answer(529, "overloaded"),
    "cut": Reply(chat_answer("a"), fault="cut"),
    "slow": Reply(chat_answer("a"), fault="slow"),
    "late": Reply(chat_answer("a"), latency_s=1.5),
    "half": Reply(b'{"choices": [{"index": 0, "mess'),
    "empty": Reply(b""),
    "html": Reply(b"<html></html>", headers={"Content-Type": "text/html"}),
    "no choices": Reply({"error": {"message": "upstream failed"}}),
    "broken off": Reply(chat_answer("Ha", "error")),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_asked_again(fault):
    with serving(lambda n, asked: PASSING[fault] if n < 2 else Reply(chat_answer("good"))) as server:
        assert ask(server, {}, timeout_s=0.5)[0].text == "good"
        assert len(asked_of(server)) == 3


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_does_not_pass_fails_the_request_with_its_cause_and_no_other(fault):
    def answer(n, asked):
        return PASSING[fault] if asked.body["seed"] == 1 else Reply(chat_answer("good"))

    with serving(answer) as server:
        failed, good = ask(server, {"seed": 1}, {"seed": 2}, timeout_s=1.0, max_tries=2)
        assert isinstance(failed, OutOfTriesError)
        assert "failed 2 times, the last time: " in str(failed)
        assert good.text == "good"
        assert len(asked_of(server)) == 3


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error_answer(401, f"Incorrect API key provided: {KEY}"), EngineDeadError),
        (error_answer(429, "You exceeded your current quota", "insufficient_quota"), EngineDeadError),
        (error_answer(400, "too long", "context_length_exceeded"), PromptRefusedError),
        (error_answer(400, "This model's maximum context length is 512 tokens."), PromptRefusedError),
        (error_answer(413, "Payload too large"), PromptRefusedError),
        (error_answer(400, "The response was filtered by Azure's content management policy"), PromptRefusedError),
        (error_answer(403, "Your input was flagged by moderation"), PromptRefusedError),
        (error_answer(400, "temperature must be 1"), RequestRefusedError),
        (error_answer(422, "extra fields not permitted"), RequestRefusedError),
    ],
)
def test_a_fault_that_stays_is_not_asked_again_and_says_whose_it_is(reply, kind):
    with serving(lambda n, asked: reply) as server:
        error = ask(server, {})[0]
        assert type(error) is kind
        assert len(asked_of(server)) == 1
        check_has_no_key(error)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(("refuses_all", "kind"), [(True, AccessRefusedError), (False, PromptRefusedError)])
def test_what_is_forbidden_is_the_prompts_fault_where_another_request_is_answered(
    status, refuses_all, kind, monkeypatch
):
    """A gateway that takes an item for an attack, and a key or a model that was withdrawn, say the same."""
    monkeypatch.setattr(endpoint_engine, "FORBIDDEN_PAUSES_S", (0.0, 0.01, 0.01))
    refusal = Reply("<html>Request blocked</html>", status)

    def reply(asked):
        is_probe = asked.body["messages"][0]["content"] == "Hi"
        probes.extend([asked] * is_probe)
        return Reply(chat_answer("Hello")) if is_probe and (len(probes) == 1 or not refuses_all) else refusal

    probes: list[object] = []
    with ScriptedServer(reply) as server:
        error = ask(server, {})[0]
    assert type(error) is kind
    assert str(status) in str(error)
    assert len(probes) == (2 if refuses_all else 1 + len(endpoint_engine.FORBIDDEN_PAUSES_S))


def test_a_replica_that_knows_nothing_of_the_model_costs_no_unit(monkeypatch):
    monkeypatch.setattr(endpoint_engine, "FORBIDDEN_PAUSES_S", (0.0, 0.01, 0.01))
    unknown, good = error_answer(404, "no such model"), Reply(chat_answer("good"))
    with serving(lambda n, asked: unknown if n < 2 else good) as server:
        assert ask(server, {})[0].text == "good"


def test_a_request_that_is_refused_where_others_like_it_were_answered_is_the_prompts_own_fault():
    """Else its unit would be asked again by every call, and its run would never be complete."""
    refusal = error_answer(400, "there is an issue with repetitive patterns in your prompt")

    async def ask_in_turn(server):
        engine = load_engine(make_spec(server))
        found = []
        try:
            for _ in range(3):
                found += await asyncio.gather(engine.generate(make_request(engine)), return_exceptions=True)
        finally:
            await engine._client.close()
        return found

    with serving(lambda n, asked: Reply(chat_answer("good")) if n == 1 else refusal) as server:
        before, answer, after = asyncio.run(ask_in_turn(server))
    assert type(before) is RequestRefusedError
    assert answer.text == "good"
    assert type(after) is PromptRefusedError


@pytest.mark.parametrize(("status", "code"), [(402, ""), (429, "insufficient_quota"), (401, ""), (404, "")])
def test_no_unit_is_to_blame_for_an_account_or_an_address(status, code):
    error = explain_status(status, code, "no", None, "the endpoint")
    assert isinstance(error, EngineDeadError)
    assert error.from_outside


def test_a_named_waiting_time_is_honoured():
    came = []

    def answer(n, asked):
        came.append(time.monotonic())
        return error_answer(429, "slow", **{"Retry-After": "1"}) if n == 0 else Reply(chat_answer("a"))

    with serving(answer) as server:
        ask(server, {})
    assert 1.0 <= came[1] - came[0] < 2.0


def test_no_more_requests_than_slots_are_in_flight():
    with serving(lambda n, asked: Reply(chat_answer("a"), latency_s=0.05)) as server:
        assert len(ask(server, *({"seed": n} for n in range(20)), slots=3)) == 20
        assert server.most_in_flight == 3


def test_a_cancelled_draw_frees_its_slot_and_its_connection():
    async def work(server):
        engine = load_engine(make_spec(server, slots=1))
        slow = asyncio.create_task(engine.generate(make_request(engine, seed=1)))
        while server.in_flight == 0:
            await asyncio.sleep(0.01)
        slow.cancel()
        answer = await asyncio.wait_for(engine.generate(make_request(engine, seed=2)), 5)
        assert slow.cancelled()
        await engine._client.close()
        return answer.text

    with serving(lambda n, asked: Reply(chat_answer("a"), latency_s=30.0 if n == 0 else 0)) as server:
        assert asyncio.run(work(server)) == "a"


def test_closing_from_another_thread_closes_the_connections():
    async def work(server):
        engine = load_engine(make_spec(server))
        await engine.generate(make_request(engine))
        await asyncio.to_thread(engine.close)
        await asyncio.sleep(0.1)
        return engine._client._client.is_closed()

    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        assert asyncio.run(work(server))


def rating_answer(*tops):
    tokens = [
        {"token": top[0][0], "logprob": top[0][1], "top_logprobs": [{"token": t, "logprob": p} for t, p in top]}
        for top in tops
    ]
    answer = chat_answer("".join(top[0][0] for top in tops))
    answer["choices"][0]["logprobs"] = {"content": tokens}
    return Reply(answer)


def test_the_openai_dialect_scores_levels_by_the_most_probable_tokens_behind_the_tag():
    reply = rating_answer([("<rating", 0.0)], [(">", 0.0)], [("4", -0.5), ("5", -1.5), ("x", -3.0)], [("</", 0.0)])
    with serving(lambda n, asked: reply) as server:
        scores = score(server, ["3", "4", "5"])
        body = asked_of(server)[0]
    assert scores.log_probabilities == (float("-inf"), pytest.approx(-0.5), pytest.approx(-1.5))
    assert (scores.prompt_tokens, scores.output_tokens) == (11, 7)
    assert (body["temperature"], body["logprobs"], body["top_logprobs"]) == (1.0, True, 20)


@pytest.mark.parametrize(
    ("reply", "levels", "begun"),
    [
        (rating_answer([("<rating>", 0.0)], [("-", -0.1)]), ["-4", "-3"], "<rating>"),
        (Reply(chat_answer("<rating>1</rating>")), ["1", "2"], "<rating>"),
        (Reply(chat_answer("", "length")), ["1", "2"], "<rating>"),
        (rating_answer([("1", 0.0)]), ["1", "2"], "I have thought.\n<rating>"),
    ],
)
def test_what_no_item_can_be_scored_with_is_refused_with_what_to_use_instead(reply, levels, begun):
    with serving(lambda n, asked: reply) as server:
        with pytest.raises(RequestRefusedError, match="mean of several sampled ratings"):
            score(server, levels, begun)
        assert len(asked_of(server)) <= 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (rating_answer([("<rating>", 0.0)], [("-", -0.1), ("4", -2.0)]), "may begin several of the levels"),
        (rating_answer([("<rating>", 0.0)], [("good", -0.1), ("bad", -2.0)]), "none of the levels"),
        (rating_answer([("I", 0.0)], [(" think", 0.0)]), "the answer begins with 'I think'"),
        (rating_answer(), "the answer begins with ''"),
        (Reply(chat_answer(None, refusal="No.")), "the model refuses to answer: No."),
        (Reply(chat_answer("", "content_filter")), "the content filter stopped the answer"),
    ],
)
def test_an_answer_that_shows_no_level_is_paid_for_once_and_is_a_sample_without_a_rating(reply, said):
    """As a refused request it was a failed draw, which every later run asked and paid for again."""
    with serving(lambda n, asked: reply) as server:
        scores = score(server, ["-4", "-3", "3", "4"])
        assert len(asked_of(server)) == 1
    assert scores.log_probabilities == (float("-inf"),) * 4
    assert (scores.prompt_tokens, scores.output_tokens) == (11, 7)
    assert said in scores.error
    assert "mean of several sampled ratings" in scores.error or said.startswith("the model") or "filter" in said


def test_the_vllm_dialect_scores_levels_by_the_tree_of_the_servers_tokens():
    """The scripted server's tokens are characters: "1" is the beginning of "10" and is scored with its closing."""
    chances = {"": {"1": -1.0, "2": -2.0}, "1": {"0": -3.0, "<": -0.1}, "10": {"<": -0.2}}

    def answer(n, asked):
        path = "".join(map(chr, asked.body["prompt"])).removeprefix("user: Rate it. assistant:<rating>")
        told = {f"token_id:{token}": chances[path][chr(token)] for token in asked.body["logprob_token_ids"]}
        usage = {"prompt_tokens": len(asked.body["prompt"]), "completion_tokens": 1}
        return Reply({"choices": [{"text": "x", "logprobs": {"top_logprobs": [told]}}], "usage": usage})

    with serving(answer) as server:
        scores = score(server, ["1", "2", "10"], dialect="vllm")
    assert scores.log_probabilities == (pytest.approx(-1.1), pytest.approx(-2.0), pytest.approx(-4.0))
    prompt = len("user: Rate it. assistant:<rating>")
    assert (scores.prompt_tokens, scores.output_tokens) == (prompt + prompt + 1, 2)


def test_an_engines_spec_can_be_sent_to_workers_and_holds_no_key():
    with serving(lambda n, asked: Reply(chat_answer("a"))) as server:
        spec = make_spec(server)
    assert KEY.encode() not in pickle.dumps(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec


def check_has_no_key(error):
    """An error, what caused it, how it prints and what of it is pickled hold no key."""
    assert KEY not in "".join(traceback.format_exception(error))
    chain = [error]
    while chain:
        one = chain.pop()
        assert KEY not in str(one) + repr(one) + str(one.args)
        assert "openai" not in type(one).__module__, "the client's errors hold the request and its headers"
        chain += [other for other in (one.__cause__, one.__context__) if other is not None]


def test_the_key_is_in_no_log_and_no_repr(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(lambda n, asked: error_answer(401, f"no such key: {KEY}") if n else Reply(chat_answer("a"))) as server:
        good, refused = ask(server, {}, {}, slots=1)
        engine = EndpointEngine(make_spec(server))
    assert good.text == "a"
    check_has_no_key(refused)
    assert caplog.records
    assert KEY not in caplog.text
    assert all(KEY not in str(vars(record)) for record in caplog.records)
    for thing in (engine, engine._client, engine._client._client, engine._client.pacer, vars(engine)):
        assert KEY not in repr(thing)
