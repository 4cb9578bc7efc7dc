"""rate_items with vLLM, where the embedded model and an adapter on it lie on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import rate_items
from judgetrace import embedded
from judgetrace.config import UserError
from judgetrace.storage import Folder
from judgetrace.training.export import upload
from tests.test_job_infer_traces import prepare
from tests.test_job_rate_items import read_rows
from tests.test_vllm_engine import MODEL, save_random_adapter

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

NUM_ITEMS = 6
CONFIG = """
corpus = "{folder}/corpus"
run = "{folder}/run"
limit = {limit}
[model]
path = "{store}/base"
adapter = "{store}/rater"
[engine]
num_cpus = 0.5
slots = 16
args = {{ max_model_len = 512 }}
env = {{ JUDGETRACE_CACHE = "{folder}/cache", VLLM_CPU_KVCACHE_SPACE = "1" }}
[thinking]
format = "none"
[decoding]
rating = "expected"
samples = 1
max_tokens = 32
"""


def list_names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_worker_fetches_model_and_adapter_and_rates_with_them(tmp_path, ray_session, s3):
    embedded.prepare_model(embedded.find_model_file(), MODEL)
    save_random_adapter(MODEL, tmp_path / "adapter")
    store = f"{s3}/{tmp_path.name}"
    uploaded = [upload(MODEL, Folder(f"{store}/base")), upload(tmp_path / "adapter", Folder(f"{store}/rater"))]
    prepare(tmp_path, str(tmp_path / "corpus"))
    config = tmp_path / "rating.toml"
    config.write_text(CONFIG.format(folder=tmp_path, store=store, limit=NUM_ITEMS))

    assert rate_items.main([str(config)]) == 0
    rows = read_rows(str(tmp_path / "run"))
    assert [row["outcome"] for row in rows] == ["rated"] * NUM_ITEMS
    assert all(1 <= row["rating"] <= 5 for row in rows)
    fetched = sorted(path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    assert [path.name.rpartition("-")[0] for path in fetched] == [f"{tmp_path.name}-{n}" for n in ("base", "rater")]
    assert [list_names(folder) for folder in fetched] == uploaded

    # Another adapter at the same place is another rater, which does not go on with this one's run.
    save_random_adapter(MODEL, tmp_path / "other", seed=1)
    upload(tmp_path / "other", Folder(f"{store}/rater"))
    with pytest.raises(UserError, match=r"model\.fingerprint: was"):
        rate_items.main([str(config)])
