"""Exports: each format is loaded with the tool it is for, and teaches what train_rater would teach."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import export_traces
from judgetrace.config import UserError
from judgetrace.exporting.config import ExportTracesConfig
from judgetrace.exporting.conversations import ConversationWriter, write_chats, write_pairs
from judgetrace.exporting.formats import write_argilla_records, write_argilla_settings
from judgetrace.exporting.own_files import UNFINISHED, begin_export, check_output
from judgetrace.exporting.run import export_shard, write_descriptions
from judgetrace.exporting.selection import make_filter
from judgetrace.guideline import Guideline
from judgetrace.prompts import PromptConfig, PromptRenderer, load_template
from judgetrace.scale import ScaleConfig
from judgetrace.schema import TRACES, VERIFICATIONS
from judgetrace.storage import Folder, encode_parquet
from judgetrace.study.sections import write_toml
from judgetrace.teachable_config import TeachableConfig
from judgetrace.trace_shards import TraceShard, list_trace_shards
from judgetrace.traces import read_traces
from judgetrace.training.encoding import EncodingSpec, ExampleEncoder
from judgetrace.training.examples import make_examples
from judgetrace.verification import hash_trace
from tests.loopback import Asked, Reply, ScriptedServer
from tests.report_runs import LEVELS, make_row, make_table, write_trace_run
from tests.test_dry_run import write_corpus
from tests.test_job_infer_traces import prepare

MODEL = Path(__file__).parents[1] / ".cache/judgetrace/smollm2-135m"
SCALE = ScaleConfig(values=tuple(LEVELS))


def make_writer(special: tuple[str, ...] = (), form: str = "plain") -> ConversationWriter:
    renderer = PromptRenderer(load_template(None), None, special)
    return ConversationWriter(renderer, Guideline("Rate it."), SCALE, form, special)


def make_traces() -> pa.Table:
    hit = make_row("a", {"text": "first"}, "3", ["1", "2", "3"], "It is fine.")
    for draw in hit["draws"][:2]:
        draw["trace"] = f"It is {draw['rating']}."
    missed = make_row("b", {"text": "second"}, "5", ["1"])
    return make_table([hit, missed, make_row("c", {"text": "third"}, "2", ["2"], split="test")])


def test_a_chat_ends_in_the_accepted_trace_and_its_rating() -> None:
    (chat,) = write_chats(make_traces(), "train", make_writer())
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant"]
    assert "first" in chat["messages"][0]["content"]
    assert chat["messages"][1]["content"] == "It is fine.\n<rating>3</rating>"
    assert (chat["item_id"], chat["target_label"]) == ("a", "3")


def test_a_pair_sets_the_accepted_draw_against_as_many_rejected_ones_as_asked_for() -> None:
    for limit in (0, 1, 2):
        pairs = list(write_pairs(make_traces(), "train", make_writer(), limit))
        assert [pair["rejected"][0]["content"] for pair in pairs] == [
            "It is 1.\n<rating>1</rating>",
            "It is 2.\n<rating>2</rating>",
        ][:limit]
        assert all(pair["chosen"][0]["content"] == "It is fine.\n<rating>3</rating>" for pair in pairs)


def test_thinking_in_tags_stands_between_them() -> None:
    (chat,) = write_chats(make_traces(), "train", make_writer(form="tags"))
    assert chat["messages"][1]["content"] == "<think>\nIt is fine.\n</think>\n<rating>3</rating>"


def test_a_trace_that_may_not_teach_is_in_no_chat_and_no_pair(tmp_path: Path) -> None:
    config = ExportTracesConfig(corpus="c", traces=["r"], output=str(tmp_path))
    counts = export_shard(
        make_traces(), 0, config, make_writer(), Folder(str(tmp_path)), faults=["hinted_leaks", None, "not_verified"]
    )
    # The third trace is of another split. People review all accepted traces.
    assert counts == Counter({"left out: hinted_leaks": 1, "records": 2, "train": 2, "test": 1})


def write_hinted_run(folder: Path) -> list[TraceShard]:
    """Write a run with 6 accepted traces of the train split that were told the label, and 3 that were not."""
    rows = [make_row(f"i{n}", {"text": "x"}, "3", ["3"], f"Reasons {n}.", hinted=n < 6) for n in range(9)]
    write_trace_run(Folder(str(folder)), [make_table(rows)])
    return list_trace_shards([str(folder)])


def write_verdicts(folder: Path, leaks: int) -> str:
    """Write verdicts of the hinted traces: all recovered, the first `leaks` of them still name a level."""
    rows = [
        dict.fromkeys(VERIFICATIONS.names)
        | {"item_id": f"i{n}", "dimension": "", "target_source": "aggregate", "trace_hash": hash_trace(f"Reasons {n}.")}
        | {"recovers": True, "leaks": n < leaks, "mentions_hint": False}
        for n in range(6)
    ]
    table = pa.Table.from_pylist(rows, schema=VERIFICATIONS)
    Folder(str(folder)).write_atomic("verifications/shard-00000.parquet", encode_parquet(table))
    return str(folder)


def test_hinted_traces_are_exported_only_verified_without_a_leak_and_up_to_their_share(tmp_path: Path) -> None:
    shards = write_hinted_run(tmp_path / "run")
    traces = read_traces(Folder(str(tmp_path / "run")), shards[0].name, TRACES.names)
    plain = make_filter(shards, TeachableConfig(), "train").find_faults(traces, 0)
    assert plain == ["hinted_unverified"] * 6 + [None] * 3

    verification = (write_verdicts(tmp_path / "verdicts", leaks=2),)
    config = TeachableConfig(verification=verification, max_hinted_share=0.4)
    found = make_filter(shards, config, "train").find_faults(traces, 0)
    assert found[:2] == ["hinted_leaks"] * 2
    # 2 of 5 are 0.4; 3 of 6 would be 0.5.
    assert sorted(map(str, found[2:6])) == ["None", "None", "hinted_over_share", "hinted_over_share"]
    assert found[6:] == [None] * 3


@pytest.mark.slow
def test_the_job_leaves_out_what_train_rater_would_and_names_hinted_traces(
    tmp_path: Path, ray_session: str, capsys: Any
) -> None:
    corpus = prepare(tmp_path, str(tmp_path / "corpus"), num=20)
    write_hinted_run(tmp_path / "run")
    config = tmp_path / "export.toml"
    output = json.dumps(str(tmp_path / "out"))
    config.write_text(
        f"corpus = {json.dumps(corpus)}\ntraces = [{json.dumps(str(tmp_path / 'run'))}]\noutput = {output}"
    )
    assert export_traces.main([str(config)]) == 0
    assert "6 left out: hinted_unverified" in " ".join(capsys.readouterr().out.split())
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["counts"]["chats"] == 3
    records = json.loads((tmp_path / "out/argilla/records-00000.json").read_text())
    assert [record["metadata"].get("hinted") for record in records] == ["True"] * 6 + [None] * 3
    assert export_traces.main([str(config), "--formats=trl"]) == 0
    assert (tmp_path / "out/argilla/records-00000.json").exists()
    assert not (tmp_path / "out/unfinished.json").exists()


def test_an_export_replaces_its_own_files_of_the_formats_asked_for_and_nothing_else(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    begin_export(output, ["trl", "datasets"])
    own = ["trl/chats/shard-00007.jsonl", "datasets/data/train-00007.parquet", "datasets/README.md"]
    foreign = ["datasets/mine/x.parquet", "datasets/data/train-mine.parquet", "trl/shard-00007.jsonl", "notes.json"]
    for name in (*own, *foreign):
        output.write_atomic(name, b"{}")

    # As after a kill: no manifest was written.
    check_output(output, [], ["trl", "datasets"])
    begin_export(output, ["trl"])
    assert output.list_files(recursive=True) == sorted([*own[1:], *foreign, UNFINISHED])
    output.write_json("manifest.json", {"job": "export_traces"})
    output.delete([UNFINISHED])
    check_output(output, [], ["datasets"])
    begin_export(output, ["datasets"])
    assert output.list_files(recursive=True) == sorted([*foreign, UNFINISHED])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", {"job": "rate_items"}, "manifest.json there is of another job"),
        ("manifest-00000.json", {"generation": 0}, "manifest-00000.json there is of another job"),
        ("contract.json", {"corpus": "c"}, "contract.json there is of another job"),
        ("datasets/README.md", "mine", "1 files there would be replaced, and no earlier export wrote them"),
    ],
)
def test_a_folder_that_another_job_or_a_person_wrote_is_refused(
    tmp_path: Path, name: str, content: object, said: str
) -> None:
    output = Folder(str(tmp_path))
    output.write_json(name, content)
    with pytest.raises(UserError, match=said):
        check_output(output, [], ["datasets"])


def test_the_corpus_and_the_traces_are_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("run", "run/", str(tmp_path / "run")):
        with pytest.raises(UserError, match="is one of traces itself"):
            check_output(Folder("run"), [("corpus", "corpus"), ("one of traces", url)], ["trl"])


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    config = ExportTracesConfig(corpus="c", traces=["runs/one"], output=str(tmp_path))
    counts = export_shard(make_traces(), 0, config, make_writer(), Folder(str(tmp_path)))
    counts += export_shard(make_traces(), 1, config, make_writer(), Folder(str(tmp_path)))
    write_descriptions(config, make_writer(), Folder(str(tmp_path)), counts)
    assert counts == {"chats": 2, "pairs": 2, "records": 4, "train": 4, "test": 2}
    return tmp_path


@pytest.mark.served
def test_trl_takes_chats_and_pairs_for_conversations(exported: Path) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    chats = load(datasets, exported / "trl/chats")
    pairs = load(datasets, exported / "trl/pairs")
    assert len(chats) == len(pairs) == 2
    assert trl.is_conversational(chats[0])
    assert trl.is_conversational(pairs[0])


@pytest.mark.served
def test_datasets_loads_the_folder_with_its_splits(exported: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(exported / "datasets"), cache_dir=str(exported / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 4, "test": 2}
    assert found["train"][0]["trace"] == "It is fine."


def load(datasets: Any, folder: Path) -> Any:
    files = [str(file) for file in sorted(folder.glob("*.jsonl"))]
    return datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(folder / "cache"))


@pytest.mark.served
@pytest.mark.skipif(not MODEL.exists(), reason="the embedded model is not prepared (python -m jobs.prepare_demo)")
def test_a_trl_user_learns_the_text_that_train_rater_learns() -> None:
    from judgetrace.engine import ModelConfig
    from judgetrace.tokenization import list_special_tokens
    from judgetrace.training.encoding import load_tokenizer

    trl = pytest.importorskip("trl")
    tokenizer = load_tokenizer(str(MODEL), None)
    special = tuple(list_special_tokens(tokenizer))
    evil = make_row("a", {"text": f"an item {special[0]}"}, "3", ["3"], f"It {special[0]} is <rating>9</rating> fine.")
    traces = make_table([evil])
    (chat,) = write_chats(traces, "train", make_writer(special))
    text = trl.apply_chat_template({"messages": chat["messages"]}, tokenizer)["text"]
    spec = EncodingSpec(
        ModelConfig(path=str(MODEL)), PromptConfig(), load_template(None), "Rate it.", False, SCALE, "plain", True,
        False, 4096,
    )  # fmt: skip
    (encoded,) = ExampleEncoder(spec, tokenizer).encode(make_examples(traces, "traces", "train", 0).to_pylist())
    assert tokenizer.decode(encoded.tokens.tolist()).rstrip() == text.rstrip()


def test_llamafactory_is_told_the_roles_and_where_files_lie(exported: Path) -> None:
    info = json.loads((exported / "llamafactory/dataset_info.json").read_text())
    for about in info.values():
        files = sorted((exported / "llamafactory" / about["file_name"]).glob("*.jsonl"))
        row = json.loads(files[0].read_text().splitlines()[0])
        assert set(about["columns"].values()) <= set(row)
        message = row[about["columns"]["messages"]][0]
        assert message[about["tags"]["role_tag"]] == about["tags"]["user_tag"]
    assert info["judgetrace_pairs"]["ranking"] is True
    assert row["chosen"]["role"] == "assistant"


def test_a_record_for_review_has_the_fields_and_answers_that_its_settings_name() -> None:
    settings = write_argilla_settings(SCALE)
    records = list(write_argilla_records(make_traces()))
    assert [record["id"] for record in records] == ["a//aggregate", "c//aggregate"]
    for record in records:
        assert set(record["fields"]) == {field["name"] for field in settings["fields"]}
        assert set(record["suggestions"]) <= {question["name"] for question in settings["questions"]}
        own = next(question for question in settings["questions"] if question["name"] == "own_label")
        assert record["suggestions"]["own_label"]["value"] in [option["value"] for option in own["settings"]["options"]]


def test_records_of_several_runs_over_one_unit_have_ids_of_their_own(tmp_path: Path) -> None:
    # Both are first proposals, and Argilla replaces a record by another one of its id.
    runs = [str(tmp_path / name) for name in ("a/infer", "b/infer")]
    for run in runs:
        write_trace_run(Folder(run), [make_traces()])
    ids = {}
    for name, traces in (("both", runs), ("one", runs[:1])):
        config = {"corpus": write_corpus(tmp_path / name), "output": str(tmp_path / f"{name}/out"), "traces": traces}
        file = tmp_path / f"{name}.toml"
        file.write_text(write_toml(config | {"formats": ["argilla"]}))
        assert export_traces.main([str(file)]) == 0
        files = sorted((tmp_path / f"{name}/out/argilla").glob("records-*.json"))
        ids[name] = [record["id"] for own in files for record in json.loads(own.read_text())]
    units = ["a//aggregate", "c//aggregate"]
    assert ids == {"both": [f"{unit}/{run}/infer" for run in "ab" for unit in units], "one": units}


@pytest.fixture
def review_server() -> Iterator[str]:
    """A server that knows its caller, which is all that Argilla's client asks before it reads files."""

    def answer(asked: Asked) -> Reply:
        return Reply({"id": str(uuid.uuid4()), "username": "reviewer", "role": "owner"})

    with ScriptedServer(answer) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.mark.served
def test_argilla_reads_settings_and_records(exported: Path, review_server: str) -> None:
    import argilla

    argilla.Argilla(api_url=review_server, api_key="unused")
    settings = argilla.Settings.from_json(exported / "argilla/settings.json")
    assert [field.name for field in settings.fields] == ["item", "trace"]
    questions = {question.name: question for question in settings.questions}
    assert questions["own_label"].labels == list(LEVELS)
    assert [question.required for question in questions.values()] == [True, False, False]
    rows = json.loads((exported / "argilla/records-00001.json").read_text())
    records = [argilla.Record.from_dict(row) for row in rows]
    assert [record.fields["trace"] for record in records] == ["It is fine.", "Because."]
    assert [record.suggestions["own_label"].value for record in records] == ["3", "2"]
    assert set(records[0].metadata) <= {about.name for about in settings.metadata}


def test_a_shard_without_accepted_traces_writes_no_chats(tmp_path: Path) -> None:
    config = ExportTracesConfig(corpus="c", traces=["r"], output=str(tmp_path), formats=["trl"])
    counts = export_shard(make_traces().slice(0, 0), 0, config, make_writer(), Folder(str(tmp_path)))
    assert counts.total() == 0
    assert not list(tmp_path.rglob("*.jsonl"))
