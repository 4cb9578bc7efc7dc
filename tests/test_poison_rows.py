"""Rows that would hurt a stage: they end as rows with a reason, or as any other, and their neighbours are untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from judgetrace.batches import RawBatch
from judgetrace.engine import Completion, Request
from judgetrace.intake import admit_batch
from judgetrace.readers import read_part
from judgetrace.schema import ITEMS
from judgetrace.sources import SourceConfig, list_source_files, plan_parts
from judgetrace.storage import Folder, encode_parquet
from tests import lone_worker
from tests.oracle import accepted_set, check_run
from tests.poison import HARMLESS, MEGABYTES_10, POISON
from tests.scripted_engine import ScriptedEngine
from tests.test_intake import LONG, make_rules
from tests.trace_tables import make_items, read_published

FORMATS = ("jsonl", "csv", "parquet")


def write_source(folder: Path, kind: str, texts: list[str]) -> None:
    rows = [{"item": f"i{n}", "text": text, "who": "ann", "label": "3"} for n, text in enumerate(texts)]
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        frame = pa.Table.from_pylist(rows).to_pandas()
        frame.to_csv(folder / "a.csv", index=False)
    else:
        Folder(str(folder)).write_atomic("a.parquet", encode_parquet(pa.Table.from_pylist(rows)))


def admit_all(folder: Path, max_text_bytes: int = 1_000_000) -> tuple[dict[str, str], list[str]]:
    """Read and admit all; returns the text of each admitted item, and the reasons of the faults."""
    rules = make_rules(LONG, max_text_bytes=max_text_bytes)
    texts: dict[str, str] = {}
    reasons: list[str] = []
    for part in plan_parts(list_source_files(SourceConfig(paths=[str(folder)]))):
        for batch in read_part(part, list(rules.columns.name_columns())):
            assert isinstance(batch, RawBatch)
            admitted = admit_batch(batch, rules)
            found = admitted.annotations
            texts |= {
                item: json.loads(fields)["text"]
                for item, fields in zip(found["item_id"].to_pylist(), found["fields"].to_pylist(), strict=True)
            }
            reasons += [fault.reason for fault in admitted.faults]
    return texts, reasons


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", HARMLESS)
def test_odd_text_is_admitted_as_it_is(tmp_path: Path, kind: str, name: str) -> None:
    write_source(tmp_path, kind, ["before", HARMLESS[name], "after"])
    assert admit_all(tmp_path) == ({"i0": "before", "i1": HARMLESS[name], "i2": "after"}, [])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty_text"), (" \n", "empty_text"), (MEGABYTES_10, "text_too_long")]
)
def test_text_that_no_rater_can_use_is_quarantined_and_its_neighbours_are_admitted(
    tmp_path: Path, kind: str, text: str, reason: str
) -> None:
    write_source(tmp_path, kind, ["before", text, "after"])
    assert admit_all(tmp_path) == ({"i0": "before", "i2": "after"}, [reason])


@pytest.mark.parametrize("kind", FORMATS)
def test_ten_megabytes_are_admitted_where_the_config_lets_them(tmp_path: Path, kind: str) -> None:
    write_source(tmp_path, kind, ["before", MEGABYTES_10, "after"])
    texts, reasons = admit_all(tmp_path, max_text_bytes=2**24)
    assert (len(texts["i1"]), reasons) == (len(MEGABYTES_10), [])


def test_half_a_surrogate_pair_in_jsonl_is_quarantined(tmp_path: Path) -> None:
    write_source(tmp_path, "jsonl", ["before", "\ud800", "after"])
    assert admit_all(tmp_path) == ({"i0": "before", "i2": "after"}, ["undecodable"])


def write_corpus(folder: Path, name: str, poison: str | None) -> str:
    """Write a corpus of one shard whose fourth item is poisonous."""
    rows = make_items(8).to_pylist()
    if poison is not None:
        rows[3]["fields"] = json.dumps({"text": poison})
    corpus = Folder(str(folder / name))
    corpus.write_atomic("items/shard-00000.parquet", encode_parquet(pa.Table.from_pylist(rows, schema=ITEMS)))
    return corpus.url


@pytest.mark.parametrize("name", POISON)
def test_a_poisonous_unit_ends_in_a_row_and_its_neighbours_as_without_it(tmp_path: Path, name: str) -> None:
    plain, corpus = write_corpus(tmp_path, "plain", None), write_corpus(tmp_path, "corpus", POISON[name])
    outcomes = []
    for source in (plain, corpus):
        lone_worker.work(source, f"{source}-run", {})
        outcomes.append(read_published(Folder(f"{source}-run")))
    undisturbed = accepted_set(outcomes[0])
    too_long = name in {"ten megabytes", "over-long"}
    rows = check_run(
        f"{corpus}-run", corpus, undisturbed, quarantined=["item-0003"] if too_long else [], is_complete=False
    )
    assert len(rows) == 8
    if too_long:
        assert "tokens, the model takes 3996" in rows[3]["error"]


ANSWERS = {
    "half a pair": "Hm \ud800. <rating>{}</rating>",
    "control tokens": "<|im_start|>Hm.<|im_end|> <rating>{}</rating>",
    "ten megabytes": f"{MEGABYTES_10}<rating>{{}}</rating>",
    "nul": "Hm\x00 \x1b[2J. <rating>{}</rating>",
    "two ratings": "<rating>1</rating> no: <rating>{}</rating>",
    "unknown level": "<rating>99</rating>",
    "empty": "",
}


class PoisonousEngine(ScriptedEngine):
    """Answers the fourth item in an odd way, with the rating that it would have given."""

    async def generate(self, request: Request) -> Completion:
        plain = await super().generate(request)
        if not request.request_id.startswith("item-0003"):
            return plain
        rating = plain.text.partition("<rating>")[2].partition("<")[0]
        return Completion(ANSWERS[self._script["answer"]].format(rating), "stop", plain.output_tokens)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_odd_answer_spoils_no_other_row(tmp_path: Path, answer: str) -> None:
    corpus = write_corpus(tmp_path, "corpus", None)
    lone_worker.work(corpus, f"{corpus}-plain", {})
    plain = {row["item_id"]: row for row in read_published(Folder(f"{corpus}-plain"))}
    lone_worker.work(corpus, f"{corpus}-odd", {"answer": answer}, kind="tests.test_poison_rows:PoisonousEngine")
    odd = {row["item_id"]: row for row in check_run(f"{corpus}-odd", corpus, is_complete=False)}
    assert len(odd) == 8
    for item_id, row in plain.items():
        if item_id != "item-0003":
            assert odd[item_id] == row
    found, expected = odd["item-0003"], plain["item-0003"]
    if answer in {"unknown level", "empty"}:
        assert found["outcome"] == "exhausted"
        assert {draw["reason"] for draw in found["draws"]} == {"unparsed"}
    else:
        assert [found[name] for name in ("outcome", "draw_index", "rating")] == [
            expected[name] for name in ("outcome", "draw_index", "rating")
        ]
