"""What a dry run shows of a job that asks units."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from judgetrace.config import UserError
from judgetrace.corpus import FORMAT_VERSION, name_manifest, name_shard
from judgetrace.dry_run import print_dry_run
from judgetrace.rating_config import RateItemsConfig
from judgetrace.run_inputs import RunInputs
from judgetrace.schema import DROPPED, ITEMS
from judgetrace.storage import Folder, encode_parquet
from judgetrace.trace_config import InferTracesConfig
from tests.trace_tables import make_items


def write_corpus(folder: Path) -> str:
    """Three units to train on in shard 1, one more and one to test on in shard 2; shard 0 has one dropped item only."""
    rows = make_items(5).to_pylist()
    rows[4]["split"] = "test"
    corpus = Folder(str(folder / "corpus"))
    shards = {1: rows[:3], 2: rows[3:]}
    for number, own in shards.items():
        corpus.write_atomic(f"items/{name_shard(number)}", encode_parquet(pa.Table.from_pylist(own, schema=ITEMS)))
    dropped = {name: rows[0].get(name) for name in DROPPED.names} | {"item_id": "far-apart", "reason": "disagreement"}
    corpus.write_atomic(f"dropped/{name_shard(0)}", encode_parquet(pa.Table.from_pylist([dropped], schema=DROPPED)))
    corpus.write_atomic("guideline.md", b"Rate the text.")
    corpus.write_json(name_manifest(0), make_manifest(shards))
    return str(folder / "corpus")


def make_manifest(shards: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    config = {name: {} for name in ("columns", "target", "split", "shards")}
    return {
        "format_version": FORMAT_VERSION,
        "generation": 0,
        "config": config | {"scale": {"values": [1, 2, 3, 4, 5]}, "guideline": {"by_section": False}},
        "buckets": 1,
        "input": [],
        "counts": {"labels": {"": {"1": 5}}},
        "shards": [{"name": name_shard(number), "units": len(rows)} for number, rows in shards.items()],
        "files": [f"dropped/{name_shard(0)}"],
    }


def show(kind: type[InferTracesConfig] | type[RateItemsConfig], corpus: str, **more: object) -> str:
    config = kind.model_validate({"corpus": corpus, "run": "r", "model": {"path": "m"}} | more)
    out = io.StringIO()
    print_dry_run(Console(file=out, width=200), config, RunInputs(corpus, None, None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "more", "shown"),
    [
        (InferTracesConfig, {}, "item-0000 (target label 1,"),
        (RateItemsConfig, {}, "item-0000 (target label 1,"),
        (RateItemsConfig, {"limit": 2}, "item-0000 (target label 1,"),
        (RateItemsConfig, {"splits": ("test",)}, "item-0004 (target label 5,"),
        (InferTracesConfig, {"splits": ("test",)}, "item-0004 (target label 5,"),
        (RateItemsConfig, {"dropped": True}, "far-apart (no target label)"),
    ],
)
def test_the_prompt_shown_is_of_the_first_unit_that_the_job_would_ask(tmp_path, kind, more, shown):
    assert f"Prompt of {shown}" in show(kind, write_corpus(tmp_path), **more)


def test_a_dimension_that_the_corpus_has_not_is_refused_by_its_name(tmp_path):
    inputs = RunInputs(write_corpus(tmp_path), None, None)

    inputs.check_dimensions([""])
    with pytest.raises(UserError, match=r"dimensions: \['tone'\]: no units of these; the corpus has \[''\]"):
        inputs.check_dimensions(["", "tone"])


@pytest.mark.parametrize("kind", [InferTracesConfig, RateItemsConfig])
def test_a_job_that_would_ask_nothing_says_so(tmp_path, kind):
    with pytest.raises(UserError, match=r"none of its 5 units would be asked\nsplits: \['validation'\]"):
        show(kind, write_corpus(tmp_path), splits=("validation",))


def test_a_proposal_that_would_ask_nothing_says_in_which_splits_it_looked(tmp_path):
    earlier = str(tmp_path / "earlier")
    with pytest.raises(UserError, match=r"nothing is to be sampled\nsplits: \['test'\]"):
        show(InferTracesConfig, write_corpus(tmp_path), after=earlier, splits=("test",))
