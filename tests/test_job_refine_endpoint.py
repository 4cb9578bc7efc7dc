"""refine_guideline where generator, raters and embeddings are endpoints: on Ray, against a scripted server."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from pathlib import Path

import pytest

from jobs import refine_guideline
from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.storage import Folder
from tests.conftest import ENDPOINT_KEY
from tests.guided_engine import read_label, read_quality
from tests.loopback import Asked, Reply, ScriptedServer, chat_answer, error_answer
from tests.refine_runs import make_traces, prepare_labels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

((VARIABLE, KEY),) = ENDPOINT_KEY.items()
QUALITIES = (0.45, 0.55, 0.9)
# An answer is of 11 prompt tokens and 7 output tokens.
PRICES = {"writer": (1000.0, 2000.0), "steady": (100.0, 300.0), "expecting": (10.0, 20.0)}
SAMPLES = {"steady": 2, "expecting": 1}


def cost_of(model: str) -> float:
    """What one answer of a model costs."""
    return (11 * PRICES[model][0] + 7 * PRICES[model][1]) / 1e6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, ray_session) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = prepare_labels(folder, str(folder / "corpus"))
    return corpus, make_traces(folder, corpus, str(folder / "traces"))


class Service:
    """A server with a model that writes, two that rate, and one that embeds; every thirtieth request is turned away.

    `answered` counts the answers by model, but for the probes of engines that start.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.num_probes = 0
        self._numbers = itertools.count(1)
        self._turns = itertools.cycle([error_answer(503, "busy"), error_answer(429, "slow", **{"Retry-After": "0.1"})])

    def __call__(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return error_answer(401, "wrong key")
        if asked.path.endswith("/chat/completions") and asked.body["messages"][-1]["content"] == "Hi":
            self.num_probes += 1
            return Reply(chat_answer("Hi"))
        if next(self._numbers) % 30 == 0:
            return next(self._turns)
        self.answered[asked.body["model"]] += 1
        if asked.path.endswith("/embeddings"):
            texts = asked.body["input"]
            data = [{"index": n, "embedding": embed(text)} for n, text in enumerate(texts)]
            return Reply({"data": data, "usage": {"prompt_tokens": 3 * len(texts)}})
        return Reply(self._chat(asked.body), latency_s=0.02)

    def _chat(self, body: dict) -> dict:
        text = body["messages"][-1]["content"]
        if body["model"] == "writer":
            return write(text, body["seed"])
        label, quality = read_label(text), read_quality(text)
        if body["model"] == "expecting":
            return expect(label, quality)
        chance = int(hashlib.blake2b(str(body["seed"]).encode(), digest_size=8).hexdigest(), 16) / 2**64
        rating = label if chance < quality else label % 5 + 1
        return chat_answer(f"So <rating>{rating}</rating>", reasoning_content="Hm.")


def write(text: str, seed: int) -> dict:
    """Critiques of a trace, or a guideline whose quality the seed chooses, with thinking in a field of its own."""
    if "codebook>" not in text:
        return chat_answer(f"The label {seed % 7} is said plainly.\nNothing else is said.", reasoning_content="Hm.")
    rubric = (
        f"Give 1 where the label is one, 2 for two, 3 for three, 4 for four, 5 for five: quality {QUALITIES[seed % 3]}."
    )
    return chat_answer(f"<codebook>\n{rubric}\n</codebook>", reasoning_content="Hm.")


def expect(label: int, quality: float) -> dict:
    """A rating whose probabilities lie on the label and the next level up."""
    levels = [(str(label), math.log(quality)), (str(label % 5 + 1), math.log(1 - quality))]
    tops = [[("<rating>", 0.0)], sorted(levels, key=lambda pair: -pair[1]), [("</rating>", 0.0)]]
    answer = chat_answer("".join(top[0][0] for top in tops))
    answer["choices"][0]["logprobs"] = {
        "content": [
            {"token": top[0][0], "logprob": top[0][1], "top_logprobs": [{"token": t, "logprob": p} for t, p in top]}
            for top in tops
        ]
    }
    return answer


def embed(text: str) -> list[float]:
    return [float(byte) for byte in hashlib.blake2b(text.encode(), digest_size=4).digest()]


def write_config(folder: Path, corpus: tuple[str, str], server: ScriptedServer) -> str:
    def endpoint(section: str, model: str) -> str:
        prices = "".join(f"{kind}_price = {p}\n" for kind, p in zip(("input", "output"), PRICES[model], strict=True))
        return f"""[{section}.model]
path = "{model}"
[{section}.engine]
num_cpus = 0.25
slots = 8
[{section}.endpoint]
base_url = "{server.base_url}"
api_key_env = "{VARIABLE}"
{prices}"""

    config = folder / "refine.toml"
    config.write_text(
        f"""corpus = "{corpus[0]}"
traces = "{corpus[1]}"
run = "{folder / "run"}"
[generator]
thinking = "parser"
{endpoint("generator", "writer")}
[embedding]
model = "embedder"
[embedding.endpoint]
base_url = "{server.base_url}"
input_price = 0.5
api_key_env = "{VARIABLE}"
[scoring]
max_items = 60
[test]
max_items = 40
[intervals]
replicates = 200
[ledger]
commit_every_s = 0.5
drain_s = 5
[[raters]]
rater_id = "steady"
{endpoint("raters", "steady")}
[raters.thinking]
format = "parser"
[raters.decoding]
samples = 2
max_tokens = 100
[[raters]]
rater_id = "expecting"
{endpoint("raters", "expecting")}
[raters.thinking]
format = "none"
[raters.decoding]
rating = "expected"
max_tokens = 100
"""
    )
    return str(config)


def read_all_files(folder: Path) -> str:
    return "".join(file.read_bytes().decode(errors="replace") for file in folder.rglob("*") if file.is_file())


def count_calls(run: Folder) -> int:
    return sum((run / "calls").read_table(file).num_rows for file in (run / "calls").list_files(".parquet"))


def test_endpoints_write_embed_and_rate_and_a_run_that_goes_on_asks_nothing_twice(tmp_path, corpus, capfd):
    service = Service()
    with ScriptedServer(service) as server:
        config = write_config(tmp_path, corpus, server)
        run = Folder(str(tmp_path / "run"))
        # 20 critiques, and what is in flight: four batches of 4, and what was begun until the driver saw the price.
        assert refine_guideline.main([config, f"--limits.max_cost={20 * cost_of('writer')}"]) == STOPPED_EARLY_STATUS
        assert "limits.max_cost reached" in capfd.readouterr().out
        assert set(service.answered) == {"writer"}
        assert 20 <= service.answered["writer"] <= 52
        assert count_calls(run) == service.answered["writer"]
        # Enough for the other calls of the generator, not for the race.
        written = refine_guideline.main([config, f"--limits.max_cost={100 * cost_of('writer')}"])
        assert (written, run.exists("manifest.json")) == (STOPPED_EARLY_STATUS, False)
        assert service.answered["steady"] > 0
        assert refine_guideline.main([config]) == 0
        answered, probes = service.answered.copy(), service.num_probes
        assert refine_guideline.main([config]) == 0
        assert (service.answered, service.num_probes) == (answered, probes)
        assert server.most_in_flight <= 3 * 8 + 1
    manifest, found = run.read_json("manifest.json"), run.read_json("refinement.json")
    calls = manifest["calls"]
    assert calls["calls"] == answered["writer"]
    assert (calls["prompt_tokens"], calls["output_tokens"]) == (11 * answered["writer"], 7 * answered["writer"])
    assert calls["cost"] == pytest.approx(answered["writer"] * cost_of("writer"))
    embedded = manifest["embeddings"]
    assert embedded["embeddings"] > 0
    assert embedded["prompt_tokens"] == 3 * embedded["embeddings"]
    assert embedded["cost"] == pytest.approx(embedded["prompt_tokens"] * 0.5e-6)
    for rater, samples in SAMPLES.items():
        own = manifest["ratings"][rater]
        assert own["ratings"] * samples == answered[rater]
        assert (own["prompt_tokens"], own["output_tokens"]) == (11 * answered[rater], 7 * answered[rater])
        assert own["cost"] == pytest.approx(answered[rater] * cost_of(rater))
    assert found["is_replaced"]
    assert ": quality 0.9" in run.read_bytes("guideline.md").decode()
    assert {row["after"] for row in found["agreement"] if row["statistic"] == "mse"} != {None}
    shown = capfd.readouterr()
    assert KEY not in read_all_files(tmp_path) + shown.out + shown.err


def test_a_wrong_key_ends_the_run_at_its_start_and_names_pool_and_variable(tmp_path, corpus):
    with ScriptedServer(lambda asked: error_answer(401, f"wrong key {KEY}")) as server:
        config = write_config(tmp_path, corpus, server)
        with pytest.raises(UserError, match=f"generator: the engine could not start: .*{VARIABLE}") as caught:
            refine_guideline.main([config])
    assert KEY not in str(caught.value)


def test_a_dry_run_asks_no_server_and_tells_the_tokens_of_each_rater(tmp_path, corpus, capsys):
    with ScriptedServer(Service()) as server:
        config = write_config(tmp_path, corpus, server)
        assert refine_guideline.main([config, "--dry-run"]) == 0
        assert server.asked == []
    out = capsys.readouterr().out
    assert "Prompt of the generator: critiques" in out
    assert all(f"{rater}: about " in out for rater in SAMPLES)
