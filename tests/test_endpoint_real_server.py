"""The endpoint engine against vLLM's own server with the embedded model, behind a proxy that injects faults."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from jobs import rate_items
from judgetrace import embedded
from judgetrace.acceptance import AcceptanceConfig
from judgetrace.asking import AskedUnit
from judgetrace.decisions import TraceDecider
from judgetrace.draws import DrawSampler
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import (
    Engine,
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
from judgetrace.parsing import ThinkingConfig
from judgetrace.sampling import Draw, SamplingConfig
from judgetrace.scale import Scale
from judgetrace.storage import Folder
from judgetrace.vllm_engine import engine_arguments
from tests.conftest import ENDPOINT_KEY
from tests.loopback import FaultyProxy
from tests.test_job_infer_traces import prepare
from tests.trace_tables import read_published

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = Path(__file__).parents[1] / ".cache/judgetrace/smollm2-135m"
((KEY_IN_WORKERS, KEY),) = ENDPOINT_KEY.items()
NAME = "smol"
# In bfloat16 a probability depends on which requests were computed together, by more than the engines may differ.
ARGUMENTS = {"max_model_len": 512, "dtype": "float32"}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0-1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
LOCAL = EngineConfig(slots=16, args=ARGUMENTS, env=ENVIRONMENT)
SCALE = Scale(values=(1, 2, 3, 4, 5))
WORDS = ["good", "awful", "table", "happy", "bitter", "fine"]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Start vLLM's server once; yields its base URL. It is ended by its process id, with its children."""
    embedded.prepare_model(embedded.find_model_file(), MODEL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", NAME]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    arguments = engine_arguments(ModelConfig(path=str(MODEL)), LOCAL, "float32", 512)
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            command += [f"--{flag}", str(value)]
    log = tmp_path_factory.mktemp("server") / "server.log"
    environment = {k: v for k, v in {**os.environ, **ENVIRONMENT}.items() if k != "OMP_NUM_THREADS"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_server(process, f"{url}/health", log)
        yield f"{url}/v1"
    finally:
        end_family(process)


def wait_for_server(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not come up:\n{log.read_text()[-3000:]}")


def end_family(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    for one in psutil.wait_procs(family, timeout=20)[1]:
        one.kill()
    process.wait(20)


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """A local engine sets variables, among them how vLLM starts processes; a Ray started later would inherit them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def proxy(server, monkeypatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("SMOL_KEY", KEY)
    with FaultyProxy(server) as proxy:
        yield proxy


def make_spec(base_url: str, *, slots: int = 8, name: str = NAME, **endpoint) -> EngineSpec:
    kind = "judgetrace.endpoint_engine:EndpointEngine"
    config = {"base_url": base_url, "api_key_env": "SMOL_KEY", "dialect": "vllm", "timeout_s": 60.0} | endpoint
    return EngineSpec(ModelConfig(path=name), EngineConfig(kind=kind, slots=slots), endpoint=EndpointConfig(**config))


def ask_for(engine: Engine, word: str, begun: str = "", **more) -> Request:
    prompt = engine.make_prompts([[{"role": "user", "content": f"Rate the word '{word}' from 1 to 5."}]])[0]
    prompt = engine.continue_prompt(prompt, begun) if begun else prompt
    fields = {"seed": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 12} | more
    return Request(word, prompt, **fields)


@asynccontextmanager
async def closing(engine: Engine) -> AsyncIterator[Engine]:
    try:
        yield engine
    finally:
        engine.close()
        await asyncio.sleep(0.1)  # for what it leaves to the event loop


def generate(spec: EngineSpec, *requests: dict) -> list:
    """Make an engine on an event loop and ask it all at once; returns answers or errors in order."""

    async def work() -> list:
        async with closing(load_engine(spec)) as engine:
            made = [ask_for(engine, **request) for request in requests]
            return await asyncio.gather(*(engine.generate(one) for one in made), return_exceptions=True)

    return asyncio.run(work())


def chats(proxy: FaultyProxy) -> list[str]:
    """The words that were asked for, the start's probe aside."""
    return [
        word
        for asked in proxy.asked
        if asked.path == "/v1/chat/completions"
        for word in WORDS
        if f"'{word}'" in asked.body["messages"][-1]["content"]
    ]


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
def test_both_dialects_sample_with_the_servers_own_counts(proxy, dialect):
    answers = generate(make_spec(proxy.base_url, dialect=dialect), *({"word": word} for word in WORDS))
    assert all(answer.text for answer in answers)
    assert all(1 <= answer.output_tokens <= 12 for answer in answers)
    assert {answer.output_tokens for answer in answers if answer.finish_reason == "length"} == {12}
    # The template's own system message makes a prompt longer than its 35 characters.
    assert all(25 < answer.prompt_tokens < 60 for answer in answers)
    assert sorted(chats(proxy)) == sorted(WORDS)


def test_the_same_seed_gives_the_same_draw_and_others_differ(proxy):
    same, again, other = generate(
        make_spec(proxy.base_url, slots=1), {"word": "good"}, {"word": "good"}, {"word": "good", "seed": 4}
    )
    assert same.text == again.text != other.text


def test_a_stop_string_ends_an_answer_and_is_kept_in_it(proxy):
    request = {"word": "good", "temperature": 0.0, "max_tokens": 40, "stop": ("a", "e", "o")}
    for dialect in ("vllm", "openai"):
        (answer,) = generate(make_spec(proxy.base_url, dialect=dialect), request)
        assert answer.finish_reason == "stop"
        assert answer.text[-1] in "aeo"
        assert not set(answer.text[:-1]) & set("aeo")


def test_an_answer_goes_on_from_a_thinking_and_is_one_of_the_choices(proxy):
    levels = ("-4", "0", "10")
    request = {"begun": "It is a kind word.\n<rating>", "choices": levels, "max_tokens": 16}
    answers = generate(make_spec(proxy.base_url), *({"word": word, **request} for word in WORDS))
    assert {answer.text for answer in answers} <= {*levels}
    assert all(answer.finish_reason == "stop" for answer in answers)


def test_draws_are_sampled_and_rated_as_with_any_engine(proxy):
    """Thinking up to its first sentence's end, then a rating that is one of the levels, from the same server."""
    thinking = ThinkingConfig(constrained_rating="always", stop=(".", "\n"))

    async def work() -> list[Draw]:
        async with closing(load_engine(make_spec(proxy.base_url))) as engine:
            sampler = DrawSampler(
                engine, thinking, TraceDecider(SamplingConfig(max_tokens=64, seed=1), AcceptanceConfig())
            )
            units = [
                AskedUnit((word, "", "aggregate"), ("4",), ("4",), SCALE, ask_for(engine, word).prompt)
                for word in WORDS
            ]
            return await asyncio.gather(*(sampler.sample(unit, 0, True) for unit in units))

    draws = asyncio.run(work())
    rated = [draw for draw in draws if draw.reason != "truncated"]
    assert rated
    assert all(draw.reason in {"accepted", "disagrees"} and draw.rating in SCALE.values for draw in rated)
    # The prompt of the thinking, and once more with the thinking behind it.
    assert all(draw.constrained and draw.prompt_tokens > 2 * 25 for draw in rated)


PASSING = {
    "429 with Retry-After": "429:1",
    "500": "500",
    "503": "503",
    "slow body": "slow",
    "cut connection": "cut",
    "malformed JSON": "malformed",
}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault == "slow body" else pytest.mark.chaos) for fault in PASSING]
)
def test_a_passing_fault_loses_and_doubles_nothing(proxy, fault):
    """Two of six requests meet the fault; all six get their own answer, as they would without it."""
    spec = make_spec(proxy.base_url, timeout_s=8.0)

    async def work() -> tuple[list, list]:
        async with closing(load_engine(spec)) as engine:
            requests = [ask_for(engine, word, temperature=0.0) for word in WORDS]
            calm = await asyncio.gather(*(engine.generate(one) for one in requests))
            proxy.asked.clear()
            proxy.faults = [PASSING[fault]] * 2
            return calm, await asyncio.gather(*(engine.generate(one) for one in requests))

    calm, answers = asyncio.run(work())
    assert proxy.faults == []
    assert [answer.text for answer in answers] == [answer.text for answer in calm]
    asked = chats(proxy)
    assert len(asked) == len(WORDS) + 2
    assert {*asked} == {*WORDS}


@pytest.mark.chaos
def test_a_waiting_time_that_the_server_names_holds_for_all(proxy):
    async def work() -> tuple[float, int]:
        async with closing(load_engine(make_spec(proxy.base_url, slots=1))) as engine:
            proxy.faults = ["429:2"]
            began = time.monotonic()
            await asyncio.gather(*(engine.generate(ask_for(engine, word, max_tokens=1)) for word in WORDS[:3]))
            return time.monotonic() - began

    assert asyncio.run(work()) >= 2.0
    # The first is refused, waits with the others, and goes first again.
    assert chats(proxy) == ["good", "good", "awful", "table"]


def test_a_fault_that_does_not_pass_fails_its_request_alone(proxy):
    async def work() -> tuple[list, object]:
        async with closing(load_engine(make_spec(proxy.base_url, slots=1, max_tries=2))) as engine:
            proxy.faults = ["500", "500"]
            failed = (await asyncio.gather(engine.generate(ask_for(engine, "good")), return_exceptions=True))[0]
            return failed, await engine.generate(ask_for(engine, "awful"))

    failed, good = asyncio.run(work())
    assert isinstance(failed, OutOfTriesError)
    assert str(failed) == "failed 2 times, the last time: 500: injected 500"
    assert good.text


def check_names_the_cause_without_the_key(error: BaseException, *parts: str) -> None:
    printed = "".join(traceback.format_exception(error))
    assert all(part in printed for part in parts), printed
    assert KEY not in printed + repr(error)


def test_a_wrong_model_name_ends_the_start(proxy):
    with pytest.raises(EngineStartError) as caught:
        load_engine(make_spec(proxy.base_url, name="smoll"))
    check_names_the_cause_without_the_key(caught.value, "404", "`smoll` does not exist", proxy.base_url, "SMOL_KEY")


def test_a_wrong_key_ends_the_start(proxy, monkeypatch):
    monkeypatch.setenv("SMOL_KEY", KEY + "x")
    with pytest.raises(EngineStartError) as caught:
        load_engine(make_spec(proxy.base_url))
    check_names_the_cause_without_the_key(caught.value, "401", proxy.base_url, NAME, "SMOL_KEY")


def test_a_401_in_the_middle_ends_the_engine_and_a_new_start_tells_whether_it_stays(proxy):
    async def work() -> object:
        async with closing(load_engine(make_spec(proxy.base_url))) as engine:
            proxy.faults = ["401"]
            return (await asyncio.gather(engine.generate(ask_for(engine, "good")), return_exceptions=True))[0]

    error = asyncio.run(work())
    assert type(error) is EngineDeadError
    check_names_the_cause_without_the_key(error, "injected 401", "SMOL_KEY")
    assert generate(make_spec(proxy.base_url), {"word": "good"})[0].text


def test_a_prompt_that_is_too_long_is_refused_alone(proxy):
    long, short = generate(make_spec(proxy.base_url), {"word": "very " * 600}, {"word": "good"})
    assert type(long) is PromptRefusedError
    assert "maximum context length is 512" in str(long)
    assert short.text


def test_parameters_that_the_server_does_not_take_fail_clearly(proxy):
    (error,) = generate(make_spec(proxy.base_url), {"word": "good", "top_p": 7.0})
    check_names_the_cause_without_the_key(error, "RequestRefusedError", "top_p")


def test_the_key_is_in_no_log(proxy, caplog):
    caplog.set_level(logging.DEBUG)
    proxy.faults = ["500"]
    generate(make_spec(proxy.base_url), {"word": "good"})
    assert caplog.records
    assert all(KEY not in str(vars(record)) for record in caplog.records)


LEVELS = ("-4", "-3", "0", "1", "4", "10")


@pytest.mark.chaos
def test_levels_have_the_probabilities_that_the_local_engine_gives_them(server, monkeypatch):
    """Both engines run the same model; each continues a thinking and opens the rating tag."""
    monkeypatch.setenv("SMOL_KEY", KEY)

    async def score(spec: EngineSpec) -> list[tuple[float, ...]]:
        async with closing(load_engine(spec)) as engine:
            prompts = [ask_for(engine, word, f"I think of {word}.\n<rating>").prompt for word in WORDS]
            scores = await asyncio.gather(*(engine.score_levels(str(n), p, LEVELS) for n, p in enumerate(prompts)))
            return [one.log_probabilities for one in scores]

    served = asyncio.run(score(make_spec(server)))
    local = asyncio.run(score(EngineSpec(ModelConfig(path=str(MODEL)), LOCAL)))
    for ours, theirs in zip(served, local, strict=True):
        assert all(math.isfinite(one) for one in theirs)
        assert ours == pytest.approx(theirs, abs=1e-2)


def test_the_openai_dialect_scores_what_top_tokens_tell_as_the_vllm_dialect_does(proxy):
    """Without a tag the answer's first token is the level: both dialects then see the same distribution."""
    levels = ("A", "I", "The")

    async def score(dialect: str) -> tuple[float, ...]:
        async with closing(load_engine(make_spec(proxy.base_url, dialect=dialect))) as engine:
            return (await engine.score_levels("r", ask_for(engine, "good").prompt, levels)).log_probabilities

    coarse, exact = asyncio.run(score("openai")), asyncio.run(score("vllm"))
    seen = [n for n, value in enumerate(coarse) if math.isfinite(value)]
    assert seen
    assert [coarse[n] for n in seen] == pytest.approx([exact[n] for n in seen], abs=0.05)


@pytest.mark.chaos
def test_rate_items_asks_a_real_server_that_falters(proxy, tmp_path, ray_session):
    corpus, run = prepare(tmp_path, str(tmp_path / "corpus"), num=30), tmp_path / "run"
    config = tmp_path / "ratings.toml"
    config.write_text(
        f"""corpus = "{corpus}"
run = "{run}"
[model]
path = "{NAME}"
[endpoint]
base_url = "{proxy.base_url}"
api_key_env = "{KEY_IN_WORKERS}"
dialect = "vllm"
[engine]
num_cpus = 0.1
slots = 8
[thinking]
format = "none"
[decoding]
rating = "expected"
max_tokens = 20
"""
    )
    # The first requests are the start's, which ends the run where it is turned away for good.
    proxy.faults = ["", "", "", "", "503", "cut", "429:1", "malformed", "500"]
    assert rate_items.main([str(config)]) == 0
    assert proxy.faults == []
    rows = read_published(Folder(str(run)), "annotations")
    assert [row["outcome"] for row in rows] == ["rated"] * 30
    for row in rows:
        (draw,) = row["draws"]
        assert 1 <= row["rating"] <= 5
        assert 0 < sum(draw["level_probabilities"]) <= 1
    assert KEY not in "".join(file.read_bytes().decode(errors="replace") for file in run.rglob("*") if file.is_file())
