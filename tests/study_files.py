"""A small study without a model, and jobs that only leave the files by which a study knows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from judgetrace.accounting import Tally
from judgetrace.agreement.results import AGREEMENT
from judgetrace.config import UserError
from judgetrace.corpus import FORMAT_VERSION
from judgetrace.ledger import encode_shard
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder, encode_parquet
from judgetrace.study.config import StudyConfig
from judgetrace.study.kinds import Kind

SCRIPTED = {"kind": "tests.scripted_engine:ScriptedEngine", "num_cpus": 0.5, "slots": 16}


def make_config(folder: Path, **sections: Any) -> StudyConfig:
    """Make a study of words on a scale of 1 to 5; `sections` replace its own."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    if not (source / "words.csv").exists():
        rows = "".join(f"item-{n:03d},word {n},{n % 5 + 1}\n" for n in range(60))
        (source / "words.csv").write_text("id,text,label\n" + rows)
        (source / "guideline.md").write_text("Rate the word from 1 to 5.\n")
    shared: dict[str, Any] = {
        "study": str(folder / "study"),
        "source": {"paths": [str(source / "words.csv")]},
        "columns": {"item_id": "id", "text": "text", "label": "label"},
        "scale": {"values": [1, 2, 3, 4, 5]},
        "guideline": {"path": str(source / "guideline.md")},
        "target": {"rule": "single"},
        "model": {"path": "scripted/model"},
        "engine": SCRIPTED,
        "infer": {},
        "train": {"controls": ["shuffled", "recalibrated"]},
        "rate": {"decoding": {"rating": "expected"}},
    }
    return StudyConfig.model_validate({**shared, **sections})


class FakeJobs:
    """Writes what a job leaves when it is complete; notes what was called. `fails` are folders whose job raises.

    `leaves` says of folders how many units their job leaves undecided.
    """

    def __init__(self, fails: set[str] = frozenset(), leaves: Mapping[str, int] = MappingProxyType({})):
        self.called: list[str] = []
        self.fails, self.leaves, self.before = set(fails), leaves, lambda _: None

    def __call__(self, kind: Kind, arguments: list[str]) -> int:
        import tomllib

        config = tomllib.loads(Path(arguments[0]).read_text())
        folder = Folder(config[kind.output])
        name = folder.url.split("/study/", 1)[1]
        self.called.append(name)
        self.before(name)
        if name in self.fails:
            raise UserError("scripted fault")
        leave: Callable[[Folder, dict[str, Any]], None] = getattr(self, f"_leave_{kind.job}", self._leave_run)
        leave(folder, config)
        return 0

    @staticmethod
    def _leave_prepare_corpus(folder: Folder, config: dict[str, Any]) -> None:
        rules = {key: config.get(key, {}) for key in ("columns", "scale", "target", "split", "shards")}
        number = len(folder.list_files(".json"))
        shards = [{"name": f"shard-{number:05d}.parquet", "units": 1}]
        manifest = {
            "format_version": FORMAT_VERSION,
            "generation": number,
            "config": rules,
            "input": [],
            "shards": shards,
        }
        folder.write_json(f"manifest-{number:05d}.json", manifest)
        folder.write_atomic("guideline.md", b"Rate the word from 1 to 5.\n")

    @staticmethod
    def _leave_measure_agreement(folder: Folder, config: dict[str, Any]) -> None:
        note = {"raters": json.dumps(config["raters"])}
        folder.write_atomic("agreement.parquet", encode_parquet(AGREEMENT.empty_table(), note))
        folder.write_json("agreement.json", {})

    @staticmethod
    def _leave_render_report(folder: Folder, config: dict[str, Any]) -> None:
        folder.write_atomic("report.html", b"<!doctype html>")

    @staticmethod
    def _leave_refine_guideline(folder: Folder, config: dict[str, Any]) -> None:
        folder.write_json("manifest.json", {"rules": config.get("confirm", {}), "at": 1})
        folder.write_atomic("guideline.md", Folder(config["corpus"]).read_bytes("guideline.md"))

    def _leave_run(self, folder: Folder, config: dict[str, Any]) -> None:
        contract = {key: value for key, value in config.items() if key != "limit"}
        folder.write_json("contract.json", contract)
        planned, name = config.get("limit", 10), folder.url.rpartition("/")[2]
        run = RunFolder(folder)
        run.write_state(run.claim(0.0, {"units": planned}), {"state": "complete"})
        decided = planned - self.leaves.get(name, 0)
        rows, tally = pa.table({"n": list(range(decided))}), Tally(units=Counter({"\x1f3\x1faccepted": decided}))
        for product in ("traces", "annotations"):
            (folder / product).write_atomic("shard-00000.parquet", encode_shard(rows, tally))
        if "limit" not in config:
            folder.write_json("manifest.json", {"contract": contract, "at": 1})
