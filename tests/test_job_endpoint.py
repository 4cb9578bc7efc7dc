"""Jobs that ask a server, as a whole: on Ray, against a scripted server on loopback."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import infer_traces, rate_items
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.storage import Folder
from tests.conftest import ENDPOINT_KEY
from tests.loopback import Asked, Reply, ScriptedServer, chat_answer, error_answer
from tests.test_job_infer_traces import NUM_UNITS
from tests.trace_tables import read_published

pytestmark = pytest.mark.slow

((VARIABLE, KEY),) = ENDPOINT_KEY.items()


@pytest.fixture(scope="session")
def corpus(shared_corpus) -> str:
    return shared_corpus


def rate(asked: Asked) -> Reply:
    """Answer with a rating that depends on the draw's seed alone, the thinking in a field of its own."""
    rating = int(hashlib.blake2b(str(asked.body["seed"]).encode()).hexdigest(), 16) % 5 + 1
    return Reply(chat_answer(f"So <rating>{rating}</rating>", reasoning_content="Hm."), latency_s=0.02)


def answer_with_faults(every: int) -> ScriptedServer:
    """Every so many requests one is turned away, by 503 or by 429 with a waiting time; a wrong key always is."""
    numbers = itertools.count(1)
    turns = itertools.cycle([error_answer(503, "busy"), error_answer(429, "slow down", **{"Retry-After": "0.1"})])

    def answer(asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return error_answer(401, "wrong key")
        return next(turns) if next(numbers) % every == 0 else rate(asked)

    return ScriptedServer(answer)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with answer_with_faults(every=10) as server:
        yield server


def write_config(folder: Path, corpus: str, server: ScriptedServer, section: str, variable: str = VARIABLE) -> str:
    config = folder / "config.toml"
    config.write_text(
        f"""corpus = "{corpus}"
run = "{folder / "run"}"
[model]
path = "some-model"
[endpoint]
base_url = "{server.base_url}"
api_key_env = "{variable}"
input_price = 1000.0
output_price = 2000.0
[engine]
num_cpus = 0.5
slots = 8
[thinking]
format = "parser"
[ledger]
commit_every_s = 1
drain_s = 2
{section}
"""
    )
    return str(config)


DECODING = "[decoding]\nsamples = 2\nmax_tokens = 100"


def read_all_files(folder: Path) -> str:
    return "".join(file.read_bytes().decode(errors="replace") for file in folder.rglob("*") if file.is_file())


def test_a_busy_server_costs_no_rating_and_the_key_is_in_no_file(tmp_path, corpus, server, capfd):
    assert rate_items.main([write_config(tmp_path, corpus, server, DECODING)]) == 0
    rows = read_published(Folder(str(tmp_path / "run")), "annotations")
    assert max(Counter(row["item_id"] for row in rows).values()) == 1
    assert [row["outcome"] for row in rows] == ["rated"] * NUM_UNITS
    assert {row["rater_id"] for row in rows} == {"some-model"}
    draws = [draw for row in rows for draw in row["draws"]]
    assert {(draw["prompt_tokens"], draw["output_tokens"]) for draw in draws} == {(11, 7)}
    manifest = Folder(str(tmp_path / "run")).read_json("manifest.json")
    # 2 draws an item of 11 and 7 tokens, at 1,000 and 2,000 a million.
    assert manifest["cost"] == pytest.approx(NUM_UNITS * 2 * (11 * 1000 + 7 * 2000) / 1e6)
    assert server.most_in_flight <= 8
    shown = capfd.readouterr()
    assert KEY not in read_all_files(tmp_path) + shown.out + shown.err


def list_seeds(asked: list[Asked]) -> list[int]:
    """The seeds of the draws that were asked for, each its own; the start's probe asks for another text."""
    return [one.body["seed"] for one in asked if one.body["messages"][-1]["content"] != "Hi"]


def test_a_budget_of_money_ends_the_run_cleanly_and_the_same_command_asks_only_the_rest(tmp_path, corpus, capsys):
    price, latency_s, told_within_s = (11 * 1000 + 7 * 2000) / 1e6, 0.2, 5.0
    with ScriptedServer(lambda asked: replace(rate(asked), latency_s=latency_s)) as server:
        config = write_config(tmp_path, corpus, server, DECODING)
        assert rate_items.main([config, "--limits.max_cost=0.5", "--engine.slots=1"]) == STOPPED_EARLY_STATUS
        first = list_seeds(server.asked)
        shown = capsys.readouterr().out
        assert "limits.max_cost reached" in shown
        done = len(read_published(Folder(str(tmp_path / "run")), "annotations"))
        assert 0 < done < NUM_UNITS
        # Over the budget: one draw in flight, and what one slot asks for until the worker hears of the end.
        assert 0.5 <= len(first) * price <= 0.5 + (1 + told_within_s / latency_s) * price
        # An item whose second draw was not asked has its first one in the ledger alone: what is shown leaves it out.
        cost = float(re.search(r"Cost of all recorded tokens: ([\d.]+)", shown)[1])
        assert cost == pytest.approx((len(first) - len(first) % 2) * price)
        assert rate_items.main([config]) == 0
        seeds = list_seeds(server.asked)
    rows = read_published(Folder(str(tmp_path / "run")), "annotations")
    assert len(rows) == len({row["item_id"] for row in rows}) == NUM_UNITS
    assert len(seeds) == len(set(seeds)) == 2 * NUM_UNITS
    assert set(first) < set(seeds)
    manifest = Folder(str(tmp_path / "run")).read_json("manifest.json")
    assert manifest["cost"] == pytest.approx(2 * NUM_UNITS * price)


def test_a_server_can_be_the_generator_of_traces(tmp_path, corpus, server):
    config = write_config(tmp_path, corpus, server, "[sampling]\nmax_draws = 4\nmax_tokens = 100")
    assert infer_traces.main([config]) == 0
    rows = read_published(Folder(str(tmp_path / "run")))
    assert len(rows) == NUM_UNITS
    accepted = [row for row in rows if row["outcome"] == "accepted"]
    assert accepted
    assert {(row["trace"], row["rating"] == row["target_label"]) for row in accepted} == {("Hm.", True)}


def test_a_wrong_key_ends_the_run_at_its_start_and_names_the_variable(tmp_path, corpus):
    with ScriptedServer(lambda asked: error_answer(401, f"wrong key {KEY}")) as server:
        config = write_config(tmp_path, corpus, server, DECODING)
        with pytest.raises(UserError, match=VARIABLE) as caught:
            rate_items.main([config])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--thinking.constrained_rating=always", "can neither continue an answer nor constrain it"),
        ("--decoding.top_k=5", "knows no top_k"),
        ("--prompt.on_overlong=shorten", "needs an engine that counts tokens"),
        ('--engine.args={"max_model_len": 512}', "arguments of a local engine"),
        ("--endpoint.api_key_env=sk-12345-this-is-a-key", "may be a key"),
    ],
)
def test_what_the_endpoint_cannot_do_is_refused_before_the_run(tmp_path, corpus, server, change, message):
    with pytest.raises(UserError, match=message) as caught:
        rate_items.main([write_config(tmp_path, corpus, server, DECODING), change])
    assert "sk-12345" not in str(caught.value)
    assert not (tmp_path / "run").exists()
