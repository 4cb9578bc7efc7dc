"""train_rater with the embedded model, and what it leaves rated by vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import rate_items, train_rater
from judgetrace.storage import Folder
from tests.test_job_rate_items import read_rows
from tests.train_runs import EMBEDDED, ROOT, read_losses, write_traces, write_train_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RATING = """
corpus = "{folder}/study/prepare"
run = "{own}/ratings"
rater_id = "tuned"
splits = ["test"]
limit = 6
[model]
path = "{own}/run/rater"
[engine]
num_cpus = 0.5
slots = 8
args = {{ max_model_len = 256 }}
env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }}
[prompt]
template = "{root}/jobs/demo_prompt.jinja"
[thinking]
format = "none"
[decoding]
rating = "expected"
max_tokens = 16
"""


def test_vllm_rates_with_what_training_made_of_the_embedded_model(demo: Path, tmp_path: Path) -> None:
    traces = write_traces(str(demo / "study/prepare"), str(tmp_path / "traces"))
    prompt = f'template = "{ROOT}/jobs/demo_prompt.jinja"\n'
    config = write_train_config(
        tmp_path, str(demo / "study/prepare"), traces, str(tmp_path / "run"), EMBEDDED, prompt=prompt
    )
    assert train_rater.main([config, "--data.target=label", "--training.max_steps=2", "--validation.max_items=4"]) == 0
    losses = read_losses(str(tmp_path / "run"))
    assert sorted(losses) == [1, 2]
    # Half a bit a token would be a model that knew the labels; 49,152 words by chance are 10.8 nats.
    assert 0 < losses[2] < 8
    weights = (Folder(str(tmp_path / "run")) / "rater").filesystem.size(str(tmp_path / "run/rater/model.safetensors"))
    assert weights < 280e6, "the tied output layer is written twice"
    (tmp_path / "ratings.toml").write_text(RATING.format(folder=demo, own=tmp_path, root=ROOT))
    assert rate_items.main([str(tmp_path / "ratings.toml")]) == 0
    rows = read_rows(str(tmp_path / "ratings"))
    assert [row["outcome"] for row in rows] == ["rated"] * 6
    assert all(-4 <= row["rating"] <= 4 for row in rows)
