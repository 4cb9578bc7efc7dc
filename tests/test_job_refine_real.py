"""A contest that real raters decide: the embedded model, asked in two ways, rates by the original and a given one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from judgetrace.config import load_config
from judgetrace.embedded import find_model_file, prepare_model
from judgetrace.refining.candidate_run import Generated
from judgetrace.refining.candidates import Candidate
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.critiques import CRITIQUES
from judgetrace.refining.entries import list_entries
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.run import refine
from judgetrace.refining.trace_choice import TraceSupply
from judgetrace.storage import Folder
from tests.refine_runs import GUIDELINE, prepare_labels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
CLEARER = "Look for the word label. The number after it is the rating: 1, 2, 3, 4 or 5.\n"


def write_config(folder: Path, corpus: str, model: Path) -> str:
    """Two raters of one model, which are asked differently."""

    def rater(name: str, prompt: str) -> str:
        return f"""[[raters]]
rater_id = "{name}"
model = {{ path = {json.dumps(str(model))} }}
thinking = {{ format = "none" }}
decoding = {{ rating = "expected", max_tokens = 16 }}
prompt = {{ {prompt} }}
[raters.engine]
num_cpus = 0.5
slots = 16
args = {{ max_model_len = 512 }}
env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }}
"""

    config = folder / "refine.toml"
    config.write_text(
        f"""corpus = {json.dumps(corpus)}
traces = "none"
run = {json.dumps(str(folder / "run"))}
race = {{ first_look = 10 }}
confirm = {{ min_groups = 10 }}
scoring = {{ max_items = 24 }}
test = {{ max_items = 24 }}
generator = {{ model = {{ path = "unused" }}, endpoint = {{ base_url = "http://localhost:1/v1" }} }}
{rater("plain", 'system = "You rate texts."')}
{rater("shown", f'template = "{ROOT}/jobs/demo_prompt.jinja"')}
"""
    )
    return str(config)


def test_two_real_raters_rate_by_both_guidelines_and_the_choice_follows_from_their_ratings(tmp_path, ray_session):
    model = ROOT / ".cache/judgetrace/smollm2-135m"
    prepare_model(find_model_file(), model)
    corpus = prepare_labels(tmp_path, str(tmp_path / "corpus"), num=160)
    given = [Candidate("original", "original", None, GUIDELINE), Candidate("given-clearer", "given", None, CLEARER)]
    config = load_config(RefineGuidelineConfig, "refine_guideline", [write_config(tmp_path, corpus, model)])
    inputs = RefineInputs(config)
    made = Generated(given, CRITIQUES.empty_table(), TraceSupply(50, {}, {}))

    assert refine(Console(), inputs, False, lambda *_: made) == 0

    run = Folder(config.run)
    found, ratings = run.read_json("refinement.json"), read_ratings(run)
    assert found["race"]["verdict"] == "leads"
    # Who leads a race of two is the only other one; the half that took no part decides, by what was really rated.
    confirming = {row["item_id"] for row in inputs.items.rows["confirm"]}
    entries = list_entries(given, inputs.guideline, inputs.dimension)
    before, after = (score(ratings, entry.shown.text, confirming) for entry in entries)
    assert found["confirmation"]["difference"] == pytest.approx(after - before, abs=1e-9)
    assert found["is_replaced"] == (found["confirmation"]["low"] > 0)
    assert run.read_bytes("guideline.md").decode() == (CLEARER if found["is_replaced"] else GUIDELINE)
    print(found["confirmation"]["says"])
    agreement = {(row["who"], row["statistic"]): row for row in found["agreement"]}
    assert agreement["plain, shown", "icc_3_1"]["num_items"] > 0
    # Both raters rated by both guidelines, once: the race's first look, which was its last, and all of the other parts.
    assert len(ratings) == 2 * 2 * (10 + len(inputs.items.rows["confirm"]) + len(inputs.items.rows["test"]))


def read_ratings(run: Folder) -> list[dict]:
    folder = run / "ratings"
    return [row for name in folder.list_files(".parquet") for row in folder.read_table(name).to_pylist()]


def score(ratings: list[dict], text: str, items: set[str]) -> float:
    """The mean over raters and items of 1 - squared error / 16; the label of item i is i % 5 + 1."""
    own = [row for row in ratings if row["text"] == text and row["item_id"] in items]
    assert len(own) == 2 * len(items)
    return sum(1 - (row["rating"] - (int(row["item_id"][5:]) % 5 + 1)) ** 2 / 16 for row in own) / len(own)
